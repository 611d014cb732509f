//! Connections to one server, kept alive, and one exchange over them.
//!
//! There are two ways. reqwest goes everywhere: through TLS, through proxies, in HTTP/2 where the server wants it. To a server in plain
//! HTTP and behind no proxy, such as one that runs on this machine, nothing of that is needed, and the client that reqwest itself
//! stands on is asked directly, which takes much less of the processor.

use crate::failure::{Failure, Result};
use crate::llm::Fault;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A silent connection is asked so often whether it still stands.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    url: reqwest::Url,
    uri: Uri,
}

impl Target {
    pub fn below(base_url: &str, path: &str) -> Result<Target> {
        let wrong = |error: &dyn Error| Failure::Recipe(format!("`base_url: {base_url}` is no address: {error}"));
        let url = reqwest::Url::parse(&format!("{base_url}/{path}")).map_err(|error| wrong(&error))?;
        let uri = Uri::try_from(url.as_str()).map_err(|error| wrong(&error))?;
        Ok(Target { url, uri })
    }

    /// In plain HTTP, with no proxy in between.
    fn is_near(&self, proxies: &Matcher) -> bool {
        self.url.scheme() == "http" && proxies.intercept(&self.uri).is_none()
    }
}

/// How long a server may take for its parts of an exchange; for the whole of it callers say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Without a byte of the answer.
    pub silence: Option<Duration>,
}

pub struct Connections {
    timeouts: Timeouts,
    near: Option<Client<HttpConnector, Full<Bytes>>>,
    /// Made when it is needed: it reads all certificates that this machine trusts.
    far: OnceLock<Result<reqwest::Client, String>>,
}

impl Connections {
    pub fn new(target: &Target, timeouts: Timeouts) -> Connections {
        let is_near = target.is_near(&Matcher::from_system());
        Connections { timeouts, near: is_near.then(|| near(timeouts.connect)), far: OnceLock::new() }
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// For calls of other kinds.
    pub fn reqwest(&self) -> Result<&reqwest::Client> {
        let client =
            self.far.get_or_init(|| far(self.timeouts).map_err(|error| format!("cannot set up HTTP: {error}")));
        client.as_ref().map_err(|words| Failure::Machine(words.clone()))
    }

    /// Sends, and returns with the head of the answer. All of the answer must be there within `whole`.
    pub async fn post(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        whole: Duration,
    ) -> Result<Answer, Fault> {
        let Some(client) = &self.near else {
            let client = self.reqwest().map_err(|failure| Fault::Lasting(failure.to_string()))?;
            let post = client.post(target.url.clone()).headers(headers).timeout(whole).body(body);
            return post.send().await.map(Answer::Far).map_err(of_transport);
        };
        let limits = Limits { whole, end: Instant::now() + whole, silence: self.timeouts.silence };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.uri.clone();
        *request.headers_mut() = headers;
        let response = limits.keep(client.request(request)).await?.map_err(|error| of_near_transport(&error))?;
        Ok(Answer::Near(response, limits))
    }
}

fn near(connect: Duration) -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect));
    connector.set_keepalive(Some(KEEPALIVE));
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector)
}

fn far(timeouts: Timeouts) -> reqwest::Result<reqwest::Client> {
    crate::llm::install_tls();
    let builder = reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        // Rows and keys go where the recipe says, and nowhere else.
        .redirect(reqwest::redirect::Policy::none());
    timeouts.silence.into_iter().fold(builder, reqwest::ClientBuilder::read_timeout).build()
}

/// How long is waited for an answer, and for each piece of it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    whole: Duration,
    end: Instant,
    silence: Option<Duration>,
}

impl Limits {
    async fn keep<T>(&self, doing: impl Future<Output = T>) -> Result<T, Fault> {
        let silent = self.silence.map(|silence| (Instant::now() + silence, "read_timeout_ms", silence));
        let limits = [silent, Some((self.end, "timeout_ms", self.whole))];
        let (end, setting, limit) = limits.into_iter().flatten().min().expect("the whole is limited");
        let words = || format!("no answer from the server within `{setting}: {}`", limit.as_millis());
        timeout_at(end, doing).await.map_err(|_| Fault::Crowded { message: words(), retry_after_ms: None })
    }
}

/// An answer whose head is here.
pub enum Answer {
    Near(Response<Incoming>, Limits),
    Far(reqwest::Response),
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        match self {
            Answer::Near(response, _) => response.status(),
            Answer::Far(response) => response.status(),
        }
    }

    pub fn headers(&self) -> &HeaderMap {
        match self {
            Answer::Near(response, _) => response.headers(),
            Answer::Far(response) => response.headers(),
        }
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        let (response, limits) = match self {
            Answer::Far(response) => return response.chunk().await.map_err(of_transport),
            Answer::Near(response, limits) => (response, limits),
        };
        while let Some(frame) = limits.keep(response.body_mut().frame()).await? {
            let frame = frame.map_err(|error| of_near_transport(&error))?;
            // What else there is are trailers, which nobody sends.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The rest of the body.
    pub async fn bytes(mut self) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// Why reqwest brought no answer, without the address, which may hold a name that is nobody's business.
pub fn of_transport(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let message = in_words(&error);
    match error.is_timeout() && !error.is_connect() {
        true => Fault::Crowded { message, retry_after_ms: None },
        false => Fault::Passing { message, retry_after_ms: None },
    }
}

fn of_near_transport(error: &(dyn Error + 'static)) -> Fault {
    Fault::Passing { message: in_words(error), retry_after_ms: None }
}

fn in_words(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.fold("no answer from the server".to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that answers one request with these pieces, some time between them, and hangs up.
    fn served(pieces: &'static [&'static str], pause_ms: u64) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"{}") {
                let mut some = [0; 1024];
                let read = stream.read(&mut some).unwrap();
                request.extend_from_slice(&some[..read]);
            }
            for piece in pieces {
                if stream.write_all(piece.as_bytes()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
        });
        Target::below(&format!("http://{address}/v1"), "chat/completions").unwrap()
    }

    fn exchange(is_near: bool, target: &Target, whole_ms: u64) -> Result<(u16, Vec<u8>), Fault> {
        let silence = Some(Duration::from_millis(150));
        let mut connections = Connections::new(target, Timeouts { connect: Duration::from_secs(5), silence });
        assert!(connections.near.is_some(), "a test's server is near, unless a proxy stands before it");
        connections.near = connections.near.filter(|_| is_near);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let whole = Duration::from_millis(whole_ms);
        runtime.block_on(async {
            let answer = connections.post(target, HeaderMap::new(), Bytes::from_static(b"{}"), whole).await?;
            Ok((answer.status().as_u16(), answer.bytes().await?))
        })
    }

    /// The disaster: a server is treated in one way when it is near and in another when it is far.
    #[test]
    fn both_ways_read_and_judge_alike() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        type Case = (&'static str, &'static [&'static str], u64, u64);
        let cases: [Case; 8] = [
            ("200 answer", &[HEAD, "answer"], 0, 5_000),
            ("200 answer", &[HEAD, "ans", "wer"], 20, 5_000),
            ("200 answer", &[CHUNKED, "3\r\nans\r\n", "3\r\nwer\r\n", "0\r\n\r\n"], 20, 5_000),
            ("429 ", &["HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"], 0, 5_000),
            ("302 ", &["HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"], 0, 5_000),
            ("passing", &[HEAD, "ans"], 0, 5_000),
            ("crowded", &[HEAD, "ans", "wer"], 600, 5_000),
            ("crowded", &[HEAD, "a", "n", "s", "w", "e", "r"], 100, 250),
        ];
        for (expected, pieces, pause_ms, whole_ms) in cases {
            for is_near in [true, false] {
                let found = match exchange(is_near, &served(pieces, pause_ms), whole_ms) {
                    Ok((status, body)) => format!("{status} {}", String::from_utf8(body).unwrap()),
                    Err(Fault::Passing { .. }) => "passing".to_string(),
                    Err(Fault::Crowded { .. }) => "crowded".to_string(),
                    Err(other) => format!("{other:?}"),
                };
                assert_eq!(found, expected, "near: {is_near}, {pieces:?}");
            }
        }
    }

    #[test]
    fn nobody_there_is_a_passing_fault_that_says_why() {
        let target = Target::below("http://127.0.0.1:1/v1", "chat/completions").unwrap();
        for is_near in [true, false] {
            let Err(Fault::Passing { message, .. }) = exchange(is_near, &target, 5_000) else { panic!("{is_near}") };
            assert!(message.contains("no answer from the server") && message.contains("refused"), "{message}");
            assert!(!message.contains("/v1"), "{message}");
        }
    }

    #[test]
    fn what_needs_tls_or_a_proxy_is_far() {
        let proxies = Matcher::builder().http("http://proxy.example:3128").no("localhost,10.0.0.0/8").build();
        for (base_url, expected) in [
            ("http://localhost:8000/v1", true),
            ("http://10.1.2.3/v1", true),
            ("http://gpu.example:8000/v1", false),
            ("https://localhost/v1", false),
        ] {
            let target = Target::below(base_url, "chat/completions").unwrap();
            assert_eq!(target.is_near(&proxies), expected, "{base_url}");
            assert_eq!(target.is_near(&Matcher::builder().build()), base_url.starts_with("http:"), "{base_url}");
        }
    }
}

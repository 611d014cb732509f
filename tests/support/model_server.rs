//! A loopback OpenAI-compatible server inside the test process: answers every prompt's shape, counts, records, and fails as planned.

use super::model_answers::{Habits, answer};
use super::model_faults::{Fault, Faults};
use super::model_limits::{Allowance, Counter};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How the server behaves. The default answers everything at once, without faults, and wants no key.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    pub habits: Habits,
    pub faults: Faults,
    /// Before each answer.
    pub latency_ms: u64,
    /// Requests beyond it get 429.
    pub allowance: Option<Allowance>,
    /// Requests without `Authorization: Bearer <key>` get 401, with the key they sent in the words, as some servers do.
    pub key: Option<String>,
    /// Records nothing, for measurements.
    pub quiet: bool,
    /// After so many requests the server returns another fingerprint.
    pub reloads_after: Option<u64>,
    /// Streams end without `[DONE]`.
    pub without_done: bool,
    /// Requests that hold this field get 400, with its name in the words.
    pub refuses: Option<&'static str>,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub authorization: Option<String>,
    pub body: Value,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    calls: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    requests: Mutex<Vec<Recorded>>,
    /// How often each body came and how often it was answered, by the body's hash.
    seen: Mutex<HashMap<u64, (u32, u32)>>,
    counter: Counter,
    refused: AtomicU64,
    /// While this is said, every request gets 503.
    is_out: AtomicBool,
}

impl State {
    /// How often this body came and was answered before; counts it now.
    fn note(&self, hash: u64) -> (u32, u32) {
        let mut seen = self.seen.lock().unwrap();
        let counts = seen.entry(hash).or_default();
        let before = *counts;
        counts.0 += 1;
        let is_answered = self.behaviour.faults.planned(hash, before.0).is_none_or(|fault| fault.is_answer());
        counts.1 += u32::from(is_answered);
        before
    }
}

/// In so many pieces a slow body comes.
const SLOW_PIECES: u64 = 10;

/// Runs until it is dropped.
pub struct ModelServer {
    state: Arc<State>,
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ModelServer {
    /// Starts on a free port of 127.0.0.1, on a thread of its own.
    pub fn start(behaviour: Behaviour) -> ModelServer {
        let state = Arc::new(State { behaviour, ..State::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell_port, port) = std::sync::mpsc::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell_port.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! { _ = accept(listener, shared) => {}, _ = stopped => {} }
            });
        });
        ModelServer { state, port: port.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    /// What goes under `base_url` in a recipe.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Requests received, answered or not.
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Requests beyond the allowance.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// From now on every request gets 503, or is answered again.
    pub fn set_out(&self, is_out: bool) {
        self.state.is_out.store(is_out, Ordering::SeqCst);
    }

    pub fn in_flight_max(&self) -> u64 {
        self.state.in_flight_max.load(Ordering::SeqCst)
    }

    /// Requests beyond the first that came for a body which had been answered completely: paid twice.
    pub fn paid_twice(&self) -> u64 {
        let seen = self.state.seen.lock().unwrap();
        seen.values().map(|(_, answered)| u64::from(answered.saturating_sub(1))).sum()
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        _ = self.stop.take().map(|stop| stop.send(()));
        _ = self.thread.take().map(|thread| thread.join());
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::spawn(async move { _ = serve(stream, &state).await });
    }
}

/// One kept-alive connection: requests one after another until the client or a planned fault ends it.
async fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(8192);
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.in_flight_max.fetch_max(now, Ordering::SeqCst);
        let outcome = respond(&mut stream, &request, state).await;
        state.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !outcome? {
            break;
        }
    }
    Ok(())
}

/// Answers or fails as planned; whether the connection lives on.
async fn respond(stream: &mut TcpStream, request: &HttpRequest, state: &State) -> std::io::Result<bool> {
    if request.line != "POST /v1/chat/completions HTTP/1.1" {
        return write(stream, "404 Not Found", "", r#"{"error": {"message": "no such path"}}"#).await;
    }
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return write(stream, "400 Bad Request", "", r#"{"error": {"message": "the body is not JSON"}}"#).await;
    };
    let before = state.calls.fetch_add(1, Ordering::SeqCst);
    let fingerprint = match state.behaviour.reloads_after.is_some_and(|after| before >= after) {
        true => "reloaded",
        false => "loopback",
    };
    let authorization = request.header("authorization").map(str::to_string);
    if !state.behaviour.quiet {
        state.requests.lock().unwrap().push(Recorded { authorization: authorization.clone(), body: body.clone() });
    }
    if state.behaviour.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(state.behaviour.latency_ms)).await;
    }
    if let Some(key) = &state.behaviour.key
        && authorization.as_deref() != Some(&format!("Bearer {key}"))
    {
        let words = format!("Incorrect API key provided: {}", authorization.unwrap_or_default());
        return write(stream, "401 Unauthorized", "", &json!({"error": {"message": words}}).to_string()).await;
    }
    if let Some(field) = state.behaviour.refuses.filter(|field| body.get(field).is_some()) {
        let words = format!("unknown field `{field}`");
        return write(stream, "400 Bad Request", "", &json!({"error": {"message": words}}).to_string()).await;
    }
    if state.is_out.load(Ordering::SeqCst) {
        return write(stream, "503 Service Unavailable", "", "out of service").await;
    }
    let ruling = state.behaviour.allowance.as_ref().map(|allowance| state.counter.ask(allowance));
    let told = ruling.as_ref().map_or("", |ruling| ruling.headers.as_str());
    if ruling.as_ref().is_some_and(|ruling| !ruling.is_allowed) {
        state.refused.fetch_add(1, Ordering::SeqCst);
        return write(stream, "429 Too Many Requests", told, BUSY).await;
    }
    let hash = hash_of(&body);
    let (came, answered) = state.note(hash);
    let reply = envelope(&body, fingerprint, &answer(&body, hash, answered, &state.behaviour.habits));
    match state.behaviour.faults.planned(hash, came) {
        Some(fault) => fail(stream, fault, &reply).await,
        None if body["stream"] == true => write_events(stream, &reply, &state.behaviour).await,
        None => write(stream, "200 OK", told, &reply).await,
    }
}

/// The same answer as server-sent events, in pieces that are cut anywhere.
async fn write_events(stream: &mut TcpStream, reply: &str, behaviour: &Behaviour) -> std::io::Result<bool> {
    let mut whole: Value = serde_json::from_str(reply).expect("we wrote it");
    let usage = whole["usage"].take();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_string();
    let letters: Vec<char> = text.chars().collect();
    let event = |fields: Value| {
        let mut chunk = json!({"model": whole["model"], "system_fingerprint": whole["system_fingerprint"]});
        chunk.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        format!("data: {chunk}\r\n\r\n")
    };
    let delta = |delta: Value, end: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": end}]});
    let mut events = vec![": keep-alive\n\n".to_string(), event(delta(json!({"role": "assistant"}), Value::Null))];
    let words = letters.chunks(9).map(|word| json!({"content": word.iter().collect::<String>()}));
    events.extend(words.map(|word| event(delta(word, Value::Null))));
    events.push(event(delta(json!({}), json!("stop"))));
    events.push(event(json!({"choices": [], "usage": usage})));
    events.extend((!behaviour.without_done).then(|| "data: [DONE]\n\n".to_string()));
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in events.concat().as_bytes().chunks(53) {
        answer.extend(format!("{:x}\r\n", piece.len()).bytes());
        answer.extend(piece);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    stream.write_all(&answer).await.map(|()| true)
}

const BUSY: &str = r#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#;

async fn fail(stream: &mut TcpStream, fault: Fault, reply: &str) -> std::io::Result<bool> {
    match fault {
        Fault::RateLimited => write(stream, "429 Too Many Requests", "", BUSY).await,
        Fault::RateLimitedFor { ms } => {
            write(stream, "429 Too Many Requests", &format!("retry-after-ms: {ms}\r\n"), BUSY).await
        }
        Fault::ServerError => write(stream, "500 Internal Server Error", "", "Internal Server Error").await,
        Fault::BadGateway => write(stream, "502 Bad Gateway", "", "<html><h1>Bad Gateway</h1></html>").await,
        Fault::EmptyChoices => write(stream, "200 OK", "", r#"{"choices": []}"#).await,
        Fault::NullContent => {
            write(stream, "200 OK", "", r#"{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}"#)
                .await
        }
        Fault::NotJson => write(stream, "200 OK", "", "I am a teapot").await,
        Fault::TruncatedJson => write(stream, "200 OK", "", &reply[..reply.len() / 2]).await,
        Fault::Reset => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
            stream.write_all(format!("{head}{}", &reply[..reply.len() / 2]).as_bytes()).await?;
            Ok(false)
        }
        Fault::SlowBody { ms } => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
            stream.write_all(head.as_bytes()).await?;
            for piece in reply.as_bytes().chunks(reply.len().div_ceil(SLOW_PIECES as usize).max(1)) {
                tokio::time::sleep(Duration::from_millis(ms / SLOW_PIECES)).await;
                stream.write_all(piece).await?;
            }
            Ok(true)
        }
        Fault::Hang { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(false)
        }
    }
}

pub(super) async fn write(stream: &mut TcpStream, status: &str, headers: &str, body: &str) -> std::io::Result<bool> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.map(|()| true)
}

pub(super) fn envelope(body: &Value, fingerprint: &str, text: &str) -> String {
    let prompt_bytes: usize = body["messages"].to_string().len();
    json!({
        "id": "chatcmpl-test", "object": "chat.completion", "model": body["model"], "system_fingerprint": fingerprint,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_bytes / 4, "completion_tokens": text.len() / 4 + 1, "total_tokens": 0},
    })
    .to_string()
}

/// Equal on every run: the standard hasher without random keys.
pub(super) fn hash_of(body: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.to_string().hash(&mut hasher);
    hasher.finish()
}

pub(super) struct HttpRequest {
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl HttpRequest {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The next request on a connection, or none when the client has gone. Bytes beyond it stay in `buffer`.
pub(super) async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<HttpRequest>> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_string();
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect();
    let mut request = HttpRequest { line, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    request.body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Ok(Some(request))
}

//! A server that does next to nothing: reads a request's length, waits, and gives everyone the same verdict.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Of thought before the verdict; with what surrounds it about 1.3 kB.
const THOUGHT_BYTES: usize = 1_000;
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// This program as a server, until it is dropped.
pub struct Server {
    child: Child,
    port: String,
}

impl Server {
    pub fn start(latency_ms: u64) -> Server {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let child = command.args(["serve", &latency_ms.to_string()]).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the server starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut port)
            .expect("the server tells its port");
        Server { child, port: port.trim().to_string() }
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// How many were answered so far.
    pub fn requests(&self) -> u64 {
        let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{}", self.port)).expect("the server is there");
        stream.write_all(b"GET /requests HTTP/1.1\r\nconnection: close\r\n\r\n").expect("the server listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        answer.rsplit("\r\n\r\n").next().and_then(|count| count.parse().ok()).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Serves until it is killed; the port goes to standard output.
pub fn serve(latency_ms: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound").port());
        let answer: &'static [u8] = answer().leak();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                _ = stream.set_nodelay(true);
                tokio::spawn(talk(stream, Duration::from_millis(latency_ms), answer));
            }
        }
    });
}

fn answer() -> Vec<u8> {
    let thought = "hmm ".repeat(THOUGHT_BYTES / 4);
    let body = format!(
        r#"{{"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [{{"index": 0, "message": {{"role": "assistant", "reasoning_content": "{thought}", "content": "True"}}, "finish_reason": "stop"}}], "usage": {{"prompt_tokens": 300, "completion_tokens": 250, "total_tokens": 550}}}}"#
    );
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    (head + &body).into_bytes()
}

async fn talk(mut stream: TcpStream, latency: Duration, answer: &'static [u8]) {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            match stream.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => continue,
                _ => return,
            }
        };
        if buffer.starts_with(b"GET") {
            let count = REQUESTS.load(Ordering::Relaxed).to_string();
            _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{count}", count.len()).as_bytes())
                .await;
            return;
        }
        let end = head + 4 + content_length(&buffer[..head]);
        while buffer.len() < end {
            if !stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        buffer.drain(..end);
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

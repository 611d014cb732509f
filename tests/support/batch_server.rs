//! The Batch API inside the test process: takes files and batches, bills each request when its batch is submitted, answers as the
//! loopback server does, and can fall silent at any step so that a client is killed there.

use super::model_answers::{Habits, answer};
use super::model_server::{HttpRequest, envelope, hash_of, read_request, write};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A batch is over at the look after so many.
const LOOKS: u32 = 2;

/// Where the server falls silent, once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Silence {
    /// The request came and was not taken.
    BeforeUpload,
    /// It was taken, but nobody hears of it.
    AfterUpload,
    BeforeCreate,
    AfterCreate,
    AtLook,
    /// Half of the results are on the wire.
    HalfResults,
    /// All results are sent, and whoever has them is killed while keeping them.
    AllResults,
}

#[derive(Default)]
struct State {
    silence: Option<Silence>,
    files: HashMap<String, Vec<u8>>,
    batches: Vec<Batch>,
    billed: HashMap<String, u32>,
    /// Requests of a batch that are not answered in time.
    expiring: usize,
    chats: u32,
}

struct Batch {
    id: String,
    input: String,
    metadata: Value,
    looks: u32,
}

pub struct BatchServer {
    state: Arc<Mutex<State>>,
    fell_silent: std::sync::mpsc::Receiver<()>,
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Desk {
    state: Arc<Mutex<State>>,
    fell_silent: std::sync::mpsc::Sender<()>,
}

impl BatchServer {
    pub fn start() -> BatchServer {
        let state: Arc<Mutex<State>> = Arc::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell_port, port) = std::sync::mpsc::channel();
        let (sender, fell_silent) = std::sync::mpsc::channel();
        let desk = Desk { state: state.clone(), fell_silent: sender };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell_port.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! { _ = accept(listener, desk) => {}, _ = stopped => {} }
            });
        });
        BatchServer { state, fell_silent, port: port.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn fall_silent(&self, silence: Silence) {
        self.state.lock().unwrap().silence = Some(silence);
    }

    /// Waits until it has.
    pub fn await_silence(&self) {
        self.fell_silent.recv_timeout(std::time::Duration::from_secs(60)).expect("the client comes that far");
    }

    /// So many requests of the next batch are not answered before its window ends.
    pub fn let_expire(&self, requests: usize) {
        self.state.lock().unwrap().expiring = requests;
    }

    /// How often each request was billed.
    pub fn billed(&self) -> HashMap<String, u32> {
        self.state.lock().unwrap().billed.clone()
    }

    pub fn batches(&self) -> usize {
        self.state.lock().unwrap().batches.len()
    }

    /// Questions that came one by one.
    pub fn chats(&self) -> u32 {
        self.state.lock().unwrap().chats
    }
}

impl Drop for BatchServer {
    fn drop(&mut self) {
        _ = self.stop.take().map(|stop| stop.send(()));
        _ = self.thread.take().map(|thread| thread.join());
    }
}

async fn accept(listener: TcpListener, desk: Desk) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let desk = desk.clone();
        tokio::spawn(async move { _ = serve(stream, &desk).await });
    }
}

async fn serve(mut stream: TcpStream, desk: &Desk) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        respond(&mut stream, &request, desk).await?;
    }
    Ok(())
}

async fn respond(stream: &mut TcpStream, request: &HttpRequest, desk: &Desk) -> std::io::Result<()> {
    let mut words = request.line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.strip_prefix("/v1/").unwrap_or(path);
    let answer = match (method, path.split(['/', '?']).collect::<Vec<_>>()[..].to_vec().as_slice()) {
        ("POST", ["files"]) => {
            desk.silence(Silence::BeforeUpload).await;
            let id = desk.take_file(&request.body);
            desk.silence(Silence::AfterUpload).await;
            json!({"id": id, "object": "file", "purpose": "batch"}).to_string()
        }
        ("POST", ["batches"]) => {
            desk.silence(Silence::BeforeCreate).await;
            let batch = desk.create(&request.body);
            desk.silence(Silence::AfterCreate).await;
            batch.to_string()
        }
        ("GET", ["batches", query]) if query.starts_with("limit") => desk.list().to_string(),
        ("GET", ["batches", id]) => {
            desk.silence(Silence::AtLook).await;
            desk.look(id).to_string()
        }
        ("GET", ["files", id, "content"]) => {
            let content = String::from_utf8(desk.state.lock().unwrap().files[*id].clone()).unwrap();
            if desk.is_due(Silence::HalfResults) {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len());
                stream.write_all(format!("{head}{}", &content[..content.len() / 2]).as_bytes()).await?;
                desk.silence(Silence::HalfResults).await;
            }
            write(stream, "200 OK", "", &content).await?;
            desk.silence(Silence::AllResults).await;
            return Ok(());
        }
        _ => {
            desk.state.lock().unwrap().chats += 1;
            let words = json!({"error": {"message": format!("`{method} {path}` is not served here")}}).to_string();
            return write(stream, "404 Not Found", "", &words).await.map(|_| ());
        }
    };
    write(stream, "200 OK", "", &answer).await.map(|_| ())
}

impl Desk {
    fn is_due(&self, silence: Silence) -> bool {
        self.state.lock().unwrap().silence == Some(silence)
    }

    /// Never comes back where it is due: the test kills the client and starts another.
    async fn silence(&self, silence: Silence) {
        if self.is_due(silence) {
            self.state.lock().unwrap().silence = None;
            _ = self.fell_silent.send(());
            std::future::pending().await
        }
    }

    fn take_file(&self, form: &[u8]) -> String {
        let form = String::from_utf8_lossy(form);
        assert!(form.contains("name=\"purpose\"\r\n\r\nbatch\r\n"), "{form}");
        let lines =
            form.split("application/jsonl\r\n\r\n").nth(1).and_then(|rest| rest.split("\r\n--").next()).unwrap();
        self.add_file(lines.as_bytes().to_vec())
    }

    fn add_file(&self, content: Vec<u8>) -> String {
        let mut state = self.state.lock().unwrap();
        let id = format!("file-{}", state.files.len() + 1);
        state.files.insert(id.clone(), content);
        id
    }

    fn create(&self, body: &[u8]) -> Value {
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!((&body["endpoint"], &body["completion_window"]), (&json!("/v1/chat/completions"), &json!("24h")));
        let input = body["input_file_id"].as_str().unwrap().to_string();
        let mut state = self.state.lock().unwrap();
        for line in lines(&state.files[&input]) {
            *state.billed.entry(line["custom_id"].as_str().unwrap().to_string()).or_default() += 1;
        }
        let id = format!("batch_{}", state.batches.len() + 1);
        state.batches.push(Batch { id, input, metadata: body["metadata"].clone(), looks: 0 });
        shown(state.batches.last().unwrap(), "validating", None, None)
    }

    /// Newest first, as the API does.
    fn list(&self) -> Value {
        let state = self.state.lock().unwrap();
        let data: Vec<Value> =
            state.batches.iter().rev().map(|batch| shown(batch, "in_progress", None, None)).collect();
        json!({"object": "list", "data": data, "has_more": false})
    }

    fn look(&self, id: &str) -> Value {
        let (input, expiring) = {
            let mut state = self.state.lock().unwrap();
            let expiring = state.expiring;
            let batch = state.batches.iter_mut().find(|batch| batch.id == id).unwrap();
            batch.looks += 1;
            if batch.looks <= LOOKS {
                return shown(batch, "in_progress", None, None);
            }
            let input = batch.input.clone();
            let content = state.files[&input].clone();
            state.expiring = 0;
            (lines(&content), expiring)
        };
        let (late, answered) = input.split_at(expiring.min(input.len()));
        // In another order than asked, as the API warns.
        let output: String = answered.iter().rev().map(answered_line).collect();
        let errors: String = late.iter().map(expired_line).collect();
        let output = self.add_file(output.into_bytes());
        let errors = (!errors.is_empty()).then(|| self.add_file(errors.into_bytes()));
        let state = self.state.lock().unwrap();
        let batch = state.batches.iter().find(|batch| batch.id == id).unwrap();
        let status = if errors.is_some() { "expired" } else { "completed" };
        shown(batch, status, Some(output), errors)
    }
}

fn lines(content: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(content).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn answered_line(line: &Value) -> String {
    let body = &line["body"];
    let text = answer(body, hash_of(body), 0, &Habits::default());
    let body: Value = serde_json::from_str(&envelope(body, "loopback", &text)).unwrap();
    let response = json!({"status_code": 200, "request_id": "r", "body": body});
    json!({"id": "x", "custom_id": line["custom_id"], "response": response, "error": null}).to_string() + "\n"
}

fn expired_line(line: &Value) -> String {
    let error = json!({"code": "batch_expired", "message": "This request could not be executed in time."});
    json!({"id": "x", "custom_id": line["custom_id"], "response": null, "error": error}).to_string() + "\n"
}

fn shown(batch: &Batch, status: &str, output: Option<String>, errors: Option<String>) -> Value {
    json!({
        "id": batch.id, "object": "batch", "status": status, "input_file_id": batch.input, "metadata": batch.metadata,
        "output_file_id": output, "error_file_id": errors, "errors": null,
    })
}

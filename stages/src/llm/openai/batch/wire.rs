//! What is said to the server about batches. Each call is repeated until it is answered or refused.

use super::passing;
use crate::llm::Fault;
use crate::llm::endpoint::of_transport;
use crate::llm::openai::fault;
use crate::llm::openai::line::Line;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Of one call that gets no answer.
const TRIES: u32 = 8;
/// Before a step is taken again that was tried so often in vain.
pub const LONG_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at a batch.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const BOUNDARY: &str = "decoct-7f2b4c1e9a";
/// Pages of the list of batches that are searched for one that may be ours.
const PAGES_MAX: usize = 20;
const TAG: &str = "decoct";

/// A batch as the server shows it.
#[derive(Debug, Deserialize)]
pub struct Batch {
    id: String,
    status: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    errors: Option<Value>,
    #[serde(default)]
    metadata: Option<Value>,
}

impl Batch {
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "expired" | "cancelled")
    }

    /// The server has looked at it and did not take it.
    pub fn is_refused(&self) -> bool {
        self.status == "failed"
    }

    pub fn files(&self) -> impl Iterator<Item = &str> {
        [&self.output_file_id, &self.error_file_id].into_iter().flatten().map(String::as_str)
    }

    /// Why it was not taken. A limit on what may be queued passes when other batches are through.
    pub fn fault(&self) -> Fault {
        let first = self.errors.as_ref().map(|errors| errors["data"][0].clone()).unwrap_or_default();
        let words = first["message"].as_str().unwrap_or("no reason was given");
        let message = format!("the server did not take the batch `{}`: {words}", self.id);
        match first["code"].as_str() {
            Some("token_limit_exceeded" | "rate_limit_exceeded") => {
                Fault::Refused { message, retry_after_ms: Some(LONGEST_PAUSE.as_millis() as u64) }
            }
            _ => Fault::Lasting(message),
        }
    }
}

/// One request of a batch's file.
pub fn line(id: &str, body: &[u8]) -> String {
    let body = std::str::from_utf8(body).expect("JSON is text");
    format!("{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{body}}}\n")
}

/// The id of the uploaded file.
pub async fn upload(line: &Line, lines: String) -> Result<String, Fault> {
    let form = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"requests.jsonl\"\r\n\
         content-type: application/jsonl\r\n\r\n{lines}\r\n--{BOUNDARY}--\r\n"
    );
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let post = line.request(Method::POST, "files")?.header("content-type", &kind).body(form);
    id_of(&persistently(line, || Ok(post.try_clone().expect("its body is in memory"))).await?)
}

/// Submits once: whether it has arrived is not known where no answer comes.
pub async fn create(line: &Line, file: &str, name: &str) -> Result<String, Fault> {
    let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {TAG: name}});
    id_of(&once(line, line.request(Method::POST, "batches")?.json(&body)).await?)
}

/// The batch that carries this name.
pub async fn find(line: &Line, name: &str) -> Result<Option<String>, Fault> {
    #[derive(Deserialize)]
    struct Page {
        data: Vec<Batch>,
        #[serde(default)]
        has_more: bool,
    }
    let mut after = String::new();
    for _ in 0..PAGES_MAX {
        let path = format!("batches?limit=100{after}");
        let page: Page = read(&persistently(line, || line.request(Method::GET, &path)).await?)?;
        let is_ours = |batch: &&Batch| batch.metadata.as_ref().is_some_and(|metadata| metadata[TAG] == name);
        if let Some(batch) = page.data.iter().find(is_ours) {
            return Ok(Some(batch.id.clone()));
        }
        match page.data.last() {
            Some(last) if page.has_more => after = format!("&after={}", last.id),
            _ => break,
        }
    }
    Ok(None)
}

pub async fn look(line: &Line, batch: &str) -> Result<Batch, Fault> {
    let path = format!("batches/{batch}");
    read(&persistently(line, || line.request(Method::GET, &path)).await?)
}

pub async fn content(line: &Line, file: &str) -> Result<Vec<u8>, Fault> {
    let path = format!("files/{file}/content");
    persistently(line, || line.request(Method::GET, &path)).await
}

async fn persistently(line: &Line, request: impl Fn() -> Result<RequestBuilder, Fault>) -> Result<Vec<u8>, Fault> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match once(line, request()?).await {
            Err(Fault::Lasting(words)) => return Err(Fault::Lasting(words)),
            Err(_) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    once(line, request()?).await
}

async fn once(line: &Line, request: RequestBuilder) -> Result<Vec<u8>, Fault> {
    let response = request.send().await.map_err(of_transport)?;
    let (status, retry_after_ms) = (response.status(), fault::retry_after_ms(response.headers()));
    let body = response.bytes().await.map_err(of_transport)?;
    match status.is_success() {
        true => Ok(body.to_vec()),
        false => Err(line.redacted(fault::of_status(status.as_u16(), &body, retry_after_ms))),
    }
}

fn id_of(body: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    read::<Named>(body).map(|named| named.id)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| passing(&format!("the server's answer about a batch cannot be read: {error}")))
}

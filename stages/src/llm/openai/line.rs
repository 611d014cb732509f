//! The way to the server: connections, the key, and one exchange at a time.

use super::fault;
use super::settings::OpenAiSettings;
use super::stream::Assembly;
use crate::failure::Result;
use crate::llm::Fault;
use crate::llm::endpoint::{Answer, Connections, Endpoints, Lane, Target};
use crate::llm::key::Key;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waited for at most once a stream has said that it is done.
const LAST_BYTES: Duration = Duration::from_millis(100);

pub struct Line {
    connections: Arc<Connections>,
    /// Without a slash at its end.
    base_url: String,
    /// Of chat completions.
    target: Target,
    headers: HeaderMap,
    timeout: Duration,
    key: Option<Key>,
    lane: Lane,
}

impl Line {
    /// Reads the key where the recipe says that it lies; a missing one is named.
    pub fn open(settings: &OpenAiSettings, endpoints: &Endpoints) -> Result<Line> {
        let key = settings.key_source().map(|source| source.read()).transpose()?;
        let endpoint = endpoints.at(&settings.base_url.0, key.as_ref());
        let base_url = settings.base_url.0.trim_end_matches('/').to_string();
        let target = Target::below(&base_url, "chat/completions")?;
        let connections = endpoint.connections(&target, settings.timeouts());
        let timeout = Duration::from_millis(settings.timeout_ms.0);
        let lane = Lane::new(endpoint, &settings.model, settings.rules());
        Ok(Line { connections, base_url, target, headers: headers(key.as_ref()), timeout, key, lane })
    }

    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Sends a body and takes the answer in pieces as it is written; what comes back is one body all the same.
    pub async fn post_streaming(&self, body: String) -> Result<Vec<u8>, Fault> {
        self.receive_stream(body).await.map(|raw| self.without_key(raw))
    }

    async fn receive_stream(&self, body: String) -> Result<Vec<u8>, Fault> {
        let mut answer = self.send(body.into()).await?;
        let (status, retry_after_ms) = (answer.status(), fault::retry_after_ms(answer.headers()));
        if !status.is_success() {
            return Err(fault::of_status(status.as_u16(), &answer.bytes().await?, retry_after_ms));
        }
        let mut assembly = Assembly::default();
        while !assembly.is_done() {
            match answer.chunk().await {
                Ok(Some(piece)) => assembly.push(&piece)?,
                Ok(None) => return assembly.finish(),
                Err(_) if assembly.is_complete() => return assembly.finish(),
                Err(fault) => return Err(fault),
            }
        }
        // The end of the body, which mostly is here already, lets the connection be used again.
        _ = tokio::time::timeout(LAST_BYTES, answer.chunk()).await;
        assembly.finish()
    }

    /// A key that the server repeats is not kept.
    pub fn without_key(&self, raw: Vec<u8>) -> Vec<u8> {
        self.key.iter().fold(raw, |raw, key| key.hide_in_answer(raw))
    }

    async fn send(&self, body: Bytes) -> Result<Answer, Fault> {
        let sent_at = Instant::now();
        let answer = self.connections.post(&self.target, self.headers.clone(), body, self.timeout).await?;
        self.lane.hear(answer.headers(), sent_at);
        Ok(answer)
    }

    /// Names this model at this server, for a folder.
    pub fn name_of(&self, model: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("decoct endpoint 1");
        hasher.update(&(self.base_url.len() as u64).to_le_bytes()).update(self.base_url.as_bytes());
        hasher.update(model.as_bytes()).finalize().to_hex()[..16].to_string()
    }

    /// A call to anything below the server's address.
    pub fn request(&self, method: reqwest::Method, path: &str) -> Result<reqwest::RequestBuilder, Fault> {
        let client = self.connections.reqwest().map_err(|failure| Fault::Lasting(failure.to_string()))?;
        let request = client.request(method, format!("{}/{path}", self.base_url)).timeout(self.timeout);
        Ok(match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.header()),
            None => request,
        })
    }

    /// The fault without the key, which some servers repeat.
    pub fn redacted(&self, fault: Fault) -> Fault {
        fault::redact(fault, self.key())
    }

    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Sends a body and waits for the whole answer.
    pub async fn post(&self, body: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let answer = self.send(body.into()).await?;
        let (status, retry_after_ms) = (answer.status(), fault::retry_after_ms(answer.headers()));
        let body = answer.bytes().await?;
        match status.is_success() {
            true => Ok(self.without_key(body)),
            false => Err(fault::of_status(status.as_u16(), &body, retry_after_ms)),
        }
    }
}

/// What every request for a completion carries.
fn headers(key: Option<&Key>) -> HeaderMap {
    let kinds = [(CONTENT_TYPE, "application/json"), (ACCEPT, "*/*")];
    let kinds = kinds.map(|(name, kind)| (name, HeaderValue::from_static(kind)));
    kinds.into_iter().chain(key.map(|key| (AUTHORIZATION, key.header()))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_key_is_named() {
        let unset = settings(json!({"model": "m", "api_key_env": "DECOCT_TEST_NO_SUCH_KEY"}));
        let message = Line::open(&unset, &Endpoints::default()).err().unwrap().to_string();
        assert!(message.contains("`DECOCT_TEST_NO_SUCH_KEY`"), "{message}");
    }
}

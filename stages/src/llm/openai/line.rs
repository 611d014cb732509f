//! The way to the server: connections, the key, and one exchange at a time.

use super::fault;
use super::settings::OpenAiSettings;
use super::stream::Assembly;
use crate::failure::{Failure, Result};
use crate::llm::Fault;
use crate::llm::endpoint::{Endpoints, Lane};
use crate::llm::key::Key;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use std::time::{Duration, Instant};

/// Waited for at most once a stream has said that it is done.
const LAST_BYTES: Duration = Duration::from_millis(100);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub struct Line {
    client: reqwest::Client,
    /// Without a slash at its end.
    base_url: String,
    /// Of chat completions, parsed once.
    url: reqwest::Url,
    timeout: Duration,
    key: Option<Key>,
    lane: Lane,
}

impl Line {
    /// Reads the key where the recipe says that it lies; a missing one is named.
    pub fn open(settings: &OpenAiSettings, endpoints: &Endpoints) -> Result<Line> {
        let key = settings.key_source().map(|source| source.read()).transpose()?;
        let endpoint = endpoints.at(&settings.base_url.0, key.as_ref());
        let client = endpoint.client(settings.connect_timeout_ms.0, settings.read_timeout_ms())?;
        let base_url = settings.base_url.0.trim_end_matches('/').to_string();
        let url = reqwest::Url::parse(&format!("{base_url}/chat/completions"))
            .map_err(|error| Failure::Recipe(format!("`base_url: {base_url}` is no address: {error}")))?;
        let timeout = Duration::from_millis(settings.timeout_ms.0);
        Ok(Line { client, base_url, url, timeout, key, lane: Lane::new(endpoint, &settings.model, settings.rules()) })
    }

    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Sends a body and takes the answer in pieces as it is written; what comes back is one body all the same.
    pub async fn post_streaming(&self, body: String) -> Result<Vec<u8>, Fault> {
        self.receive_stream(body).await.map(|raw| self.without_key(raw))
    }

    async fn receive_stream(&self, body: String) -> Result<Vec<u8>, Fault> {
        let mut response = self.send(body).await?;
        let (status, retry_after_ms) = (response.status(), fault::retry_after_ms(response.headers()));
        if !status.is_success() {
            let body = response.bytes().await.map_err(fault::of_transport)?;
            return Err(fault::of_status(status.as_u16(), &body, retry_after_ms));
        }
        let mut assembly = Assembly::default();
        while !assembly.is_done() {
            match response.chunk().await {
                Ok(Some(piece)) => assembly.push(&piece)?,
                Ok(None) => return assembly.finish(),
                Err(_) if assembly.is_complete() => return assembly.finish(),
                Err(error) => return Err(fault::of_transport(error)),
            }
        }
        // The end of the body, which mostly is here already, lets the connection be used again.
        _ = tokio::time::timeout(LAST_BYTES, response.chunk()).await;
        assembly.finish()
    }

    /// A key that the server repeats is not kept.
    pub fn without_key(&self, raw: Vec<u8>) -> Vec<u8> {
        self.key.iter().fold(raw, |raw, key| key.hide_in_answer(raw))
    }

    async fn send(&self, body: impl Into<reqwest::Body>) -> Result<reqwest::Response, Fault> {
        let post = self
            .with_key(self.client.post(self.url.clone()).timeout(self.timeout).header(CONTENT_TYPE, JSON).body(body));
        let sent_at = Instant::now();
        let response = post.send().await.map_err(fault::of_transport)?;
        self.lane.hear(response.headers(), sent_at);
        Ok(response)
    }

    /// Names this model at this server, for a folder.
    pub fn name_of(&self, model: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("decoct endpoint 1");
        hasher.update(&(self.base_url.len() as u64).to_le_bytes()).update(self.base_url.as_bytes());
        hasher.update(model.as_bytes()).finalize().to_hex()[..16].to_string()
    }

    /// A call to anything below the server's address.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}/{path}", self.base_url));
        self.with_key(request.timeout(self.timeout))
    }

    fn with_key(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.header()),
            None => request,
        }
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
        let response = self.send(body).await?;
        let (status, retry_after_ms) = (response.status(), fault::retry_after_ms(response.headers()));
        let body = response.bytes().await.map_err(fault::of_transport)?;
        match status.is_success() {
            true => Ok(self.without_key(body.to_vec())),
            false => Err(fault::of_status(status.as_u16(), &body, retry_after_ms)),
        }
    }
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

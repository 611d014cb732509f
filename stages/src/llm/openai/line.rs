//! The way to the server: connections, the key, and one exchange at a time.

use super::fault;
use super::settings::OpenAiSettings;
use super::stream::Assembly;
use crate::failure::Result;
use crate::llm::Fault;
use crate::llm::endpoint::{Endpoints, Lane};
use crate::llm::key::Key;
use reqwest::header::AUTHORIZATION;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Waited for at most once a stream has said that it is done.
const LAST_BYTES: Duration = Duration::from_millis(100);

pub struct Line {
    client: reqwest::Client,
    url: String,
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
        let url = format!("{}/chat/completions", settings.base_url.0.trim_end_matches('/'));
        let timeout = Duration::from_millis(settings.timeout_ms.0);
        Ok(Line { client, url, timeout, key, lane: Lane::new(endpoint, &settings.model, settings.rules()) })
    }

    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Sends a body and takes the answer in pieces as it is written; what comes back is one body all the same.
    pub async fn post_streaming(&self, body: &Value) -> Result<Vec<u8>, Fault> {
        self.receive_stream(body).await.map(|raw| self.without_key(raw))
    }

    async fn receive_stream(&self, body: &Value) -> Result<Vec<u8>, Fault> {
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
    fn without_key(&self, raw: Vec<u8>) -> Vec<u8> {
        self.key.iter().fold(raw, |raw, key| key.hide_in_answer(raw))
    }

    async fn send(&self, body: &Value) -> Result<reqwest::Response, Fault> {
        let mut post = self.client.post(&self.url).timeout(self.timeout).json(body);
        if let Some(key) = &self.key {
            post = post.header(AUTHORIZATION, key.header());
        }
        let sent_at = Instant::now();
        let response = post.send().await.map_err(fault::of_transport)?;
        self.lane.hear(response.headers(), sent_at);
        Ok(response)
    }

    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Sends a body and waits for the whole answer.
    pub async fn post(&self, body: &Value) -> Result<Vec<u8>, Fault> {
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

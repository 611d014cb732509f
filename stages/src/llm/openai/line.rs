//! The way to the server: connections, the key, and one exchange at a time.

use super::fault;
use super::settings::OpenAiSettings;
use crate::failure::{Failure, Result};
use crate::llm::Fault;
use crate::llm::endpoint::{Endpoints, Lane};
use serde_json::Value;
use std::time::{Duration, Instant};

pub struct Line {
    client: reqwest::Client,
    url: String,
    timeout: Duration,
    /// Never shown: errors and logs carry `fault::redact`ed words only.
    key: Option<String>,
    lane: Lane,
}

impl Line {
    /// Reads the key from the environment; a missing one is named.
    pub fn open(settings: &OpenAiSettings, endpoints: &Endpoints) -> Result<Line> {
        let key = settings.required_env().map(read_key).transpose()?;
        let endpoint = endpoints.at(&settings.base_url.0, key.as_deref());
        let read_timeout_ms = settings.read_timeout_ms.0.unwrap_or(settings.timeout_ms.0);
        let client = endpoint.client(settings.connect_timeout_ms.0, read_timeout_ms)?;
        let url = format!("{}/chat/completions", settings.base_url.0.trim_end_matches('/'));
        let timeout = Duration::from_millis(settings.timeout_ms.0);
        Ok(Line { client, url, timeout, key, lane: Lane::new(endpoint, &settings.model, settings.rules()) })
    }

    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Sends a body and waits for the whole answer.
    pub async fn post(&self, body: &Value) -> Result<Vec<u8>, Fault> {
        let mut post = self.client.post(&self.url).timeout(self.timeout).json(body);
        if let Some(key) = &self.key {
            post = post.bearer_auth(key);
        }
        let sent_at = Instant::now();
        let response = post.send().await.map_err(fault::of_transport)?;
        self.lane.hear(response.headers(), sent_at);
        let (status, retry_after_ms) = (response.status(), fault::retry_after_ms(response.headers()));
        let body = response.bytes().await.map_err(fault::of_transport)?;
        match status.is_success() {
            true => Ok(body.to_vec()),
            false => Err(fault::of_status(status.as_u16(), &body, retry_after_ms)),
        }
    }
}

fn read_key(variable: &str) -> Result<String> {
    std::env::var(variable).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
        Failure::Recipe(format!(
            "the environment variable `{variable}` is not set; it holds the key of the model's server"
        ))
    })
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

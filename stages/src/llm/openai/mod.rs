//! Any OpenAI-compatible endpoint: what is sent, how often at once, how long it may take.

pub(super) mod envelope;
mod fault;

use super::prices::Prices;
use super::{Fault, LanguageModel, Patience, Reply, ReplyFormat, Request, Usage};
use crate::failure::{Failure, Result};
use crate::stage::Unkeyed;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::Semaphore;

const OPENAI_URL: &str = "https://api.openai.com/v1";
const OPENAI_KEY_ENV: &str = "OPENAI_API_KEY";
/// Questions repeated after an unparsable reply lie this far apart in seeds, so that they never meet another sample's.
const SEEDS_PER_ASK: u64 = 1 << 20;

crate::settings! {
    /// An OpenAI-compatible endpoint.
    pub struct OpenAiSettings {
        /// The model's name, as the server knows it.
        pub model: String,
        /// The address below which `/chat/completions` lies.
        pub base_url: Unkeyed<String> = Unkeyed(OPENAI_URL.to_string()),
        /// The environment variable that holds the key; `OPENAI_API_KEY` for api.openai.com, none for other servers.
        pub api_key_env: Unkeyed<Option<String>> = Unkeyed(None),
        /// Tells servers apart that give different weights one name (a local server, a fine-tune).
        pub identity: Option<String> = None,
        /// Sent as the first message.
        pub system: Option<String> = None,
        pub temperature: Option<f64> = None,
        pub top_p: Option<f64> = None,
        /// Generated tokens at most.
        pub max_tokens: Option<u32> = None,
        /// The name under which `max_tokens` is sent: `max_completion_tokens` for reasoning models.
        pub max_tokens_field: String = "max_tokens".to_string(),
        /// Sent with each request, moved on for each sample and each repeated question.
        pub seed: Option<u64> = None,
        /// Such as `low` or `high`, for models that take it.
        pub reasoning_effort: Option<String> = None,
        /// Whether to ask for `response_format: json_object` where a prompt demands JSON.
        pub json_mode: bool = true,
        /// Sent as they are, beside the other fields.
        pub extra_body: Map<String, Value> = Map::new(),
        /// Requests in flight at most, over all nodes.
        pub concurrency: Unkeyed<usize> = Unkeyed(64),
        pub connect_timeout_ms: Unkeyed<u64> = Unkeyed(10_000),
        /// From sending to the last byte of the answer.
        pub timeout_ms: Unkeyed<u64> = Unkeyed(600_000),
        /// How often a question without an answer is sent before the row gives up.
        pub tries: Unkeyed<u32> = Unkeyed(6),
        /// The first pause between tries; it doubles.
        pub pause_ms: Unkeyed<u64> = Unkeyed(500),
        pub pause_max_ms: Unkeyed<u64> = Unkeyed(30_000),
        /// For cost figures and `--budget-usd`.
        pub prices: Unkeyed<Option<Prices>> = Unkeyed(None),
    }
}

impl OpenAiSettings {
    /// The environment variable without which no call can be made.
    pub fn required_env(&self) -> Option<&str> {
        let official = self.base_url.0.trim_end_matches('/') == OPENAI_URL;
        self.api_key_env.0.as_deref().or(official.then_some(OPENAI_KEY_ENV))
    }
}

/// A model behind HTTP. Cheap requests share one pool of kept-alive connections.
pub struct OpenAi {
    settings: OpenAiSettings,
    /// None for someone who only reads kept replies: that needs no key.
    line: Option<Line>,
}

/// The way to the server.
struct Line {
    client: reqwest::Client,
    url: String,
    /// Never shown: errors and logs carry `fault::redact`ed words only.
    key: Option<String>,
    in_flight: Semaphore,
}

impl OpenAi {
    /// Reads the key from the environment; a missing one is named.
    pub fn open(settings: OpenAiSettings) -> Result<OpenAi> {
        let key = settings.required_env().map(read_key).transpose()?;
        super::install_tls();
        let concurrency = settings.concurrency.0.max(1);
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms.0))
            .timeout(Duration::from_millis(settings.timeout_ms.0))
            .pool_max_idle_per_host(concurrency)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Failure::Machine(format!("cannot set up HTTP: {error}")))?;
        let url = format!("{}/chat/completions", settings.base_url.0.trim_end_matches('/'));
        let line = Line { client, url, key, in_flight: Semaphore::new(concurrency) };
        Ok(OpenAi { settings, line: Some(line) })
    }

    /// One that reads kept replies and cannot be asked: no key is read, no connection prepared.
    pub fn unopened(settings: OpenAiSettings) -> OpenAi {
        OpenAi { settings, line: None }
    }

    fn key(&self) -> Option<&str> {
        self.line.as_ref()?.key.as_deref()
    }

    /// The JSON body of a request.
    fn body(&self, request: &Request) -> Value {
        let settings = &self.settings;
        let mut messages: Vec<Value> = Vec::with_capacity(request.messages.len() + 1);
        messages.extend(settings.system.iter().map(|system| json!({"role": "system", "content": system})));
        messages.extend(request.messages.iter().map(|message| json!(message)));
        let mut body = Map::new();
        body.insert("model".to_string(), json!(settings.model));
        body.insert("messages".to_string(), Value::Array(messages));
        let seed = settings
            .seed
            .map(|seed| seed.wrapping_add(request.sample.into()).wrapping_add(u64::from(request.ask) * SEEDS_PER_ASK));
        let json_mode = settings.json_mode && request.format == ReplyFormat::Json;
        let optional = [
            ("temperature", settings.temperature.map(Value::from)),
            ("top_p", settings.top_p.map(Value::from)),
            (settings.max_tokens_field.as_str(), settings.max_tokens.map(Value::from)),
            ("seed", seed.map(Value::from)),
            ("reasoning_effort", settings.reasoning_effort.clone().map(Value::from)),
            ("response_format", json_mode.then(|| json!({"type": "json_object"}))),
        ];
        body.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
        body.extend(settings.extra_body.clone());
        Value::Object(body)
    }

    async fn post(&self, request: &Request) -> std::result::Result<Vec<u8>, Fault> {
        let line = self.line.as_ref().expect("who only reads replies asks nothing");
        let _turn = line.in_flight.acquire().await.expect("the semaphore is never closed");
        let mut post = line.client.post(&line.url).json(&self.body(request));
        if let Some(key) = &line.key {
            post = post.bearer_auth(key);
        }
        let response = post.send().await.map_err(fault::of_transport)?;
        let (status, retry_after_ms) = (response.status(), fault::retry_after_ms(response.headers()));
        let body = response.bytes().await.map_err(fault::of_transport)?;
        match status.is_success() {
            true => Ok(body.to_vec()),
            false => Err(fault::of_status(status.as_u16(), &body, retry_after_ms)),
        }
    }
}

impl LanguageModel for OpenAi {
    fn identity(&self) -> Value {
        identity(&self.settings)
    }

    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        let key = self.key();
        self.post(request).map(move |answer| answer.map_err(|fault| fault::redact(fault, key))).boxed()
    }

    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        envelope::parse(raw).map_err(|fault| fault::redact(fault, self.key()))
    }

    fn concurrency(&self) -> usize {
        self.settings.concurrency.0
    }

    fn patience(&self) -> Patience {
        let OpenAiSettings { tries, pause_ms, pause_max_ms, .. } = &self.settings;
        Patience { tries: tries.0, pause_ms: pause_ms.0, pause_max_ms: pause_max_ms.0 }
    }

    fn cost_usd(&self, usage: &Usage) -> Option<f64> {
        Some(self.settings.prices.0.as_ref()?.cost_usd(usage))
    }

    fn worst_case_usd(&self, request: &Request) -> Option<f64> {
        let system = self.settings.system.as_deref().unwrap_or_default();
        Some(self.settings.prices.0.as_ref()?.worst_case_usd(system, request, self.settings.max_tokens?.into()))
    }
}

/// What names this model's answers: everything declared but where and how patiently it is asked.
pub fn identity(settings: &OpenAiSettings) -> Value {
    json!({"provider": "openai", "settings": settings})
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
    use super::*;
    use crate::llm::{Message, Task};
    use crate::settings::{Reader, Setting};

    fn settings(value: Value) -> OpenAiSettings {
        let mut reader = Reader::default();
        let settings = OpenAiSettings::read(&value, &mut reader);
        settings.unwrap_or_else(|| panic!("{:?}", reader.mistakes))
    }

    fn local(mut fields: Value) -> OpenAi {
        fields["base_url"] = json!("http://localhost:1/v1/");
        OpenAi::open(settings(fields)).unwrap()
    }

    fn request() -> Request {
        let task = Task { name: "solve", row_id: "secret-row".into(), row: Map::new() };
        Request::new("Why?".to_string(), ReplyFormat::Json, task)
    }

    #[test]
    fn the_body_holds_what_was_set_and_nothing_of_the_task() {
        let plain = local(json!({"model": "m", "json_mode": false})).body(&request());
        assert_eq!(plain, json!({"model": "m", "messages": [{"role": "user", "content": "Why?"}]}));
        let full = json!({
            "model": "m", "system": "Be brief.", "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 7,
            "max_tokens_field": "max_completion_tokens", "reasoning_effort": "low", "extra_body": {"top_k": 5},
        });
        let mut asked = request().sample(2);
        asked.ask = 1;
        asked.messages.push(Message::assistant("Because."));
        let expected = json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "Because."},
            ],
            "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 9, "seed": 7 + 2 + (1 << 20),
            "reasoning_effort": "low", "response_format": {"type": "json_object"}, "top_k": 5,
        });
        assert_eq!(local(full).body(&asked), expected);
    }

    #[test]
    fn where_and_how_patiently_a_model_is_asked_is_no_part_of_its_identity() {
        let base = json!({"model": "m", "temperature": 0.5});
        let moved = json!({
            "model": "m", "temperature": 0.5, "base_url": "http://elsewhere/v1", "api_key_env": "K", "concurrency": 3,
            "timeout_ms": 5, "connect_timeout_ms": 5, "tries": 1, "pause_ms": 1, "pause_max_ms": 2,
            "prices": {"input_usd_per_million": 1, "output_usd_per_million": 2},
        });
        assert_eq!(identity(&settings(base.clone())), identity(&settings(moved)));
        for change in
            [json!({"temperature": 0.6}), json!({"seed": 1}), json!({"identity": "b"}), json!({"extra_body": {"a": 1}})]
        {
            let mut changed = base.clone();
            changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            assert_ne!(identity(&settings(base.clone())), identity(&settings(changed)), "{change}");
        }
    }

    #[test]
    fn the_official_server_needs_a_key_and_a_local_one_does_not() {
        for (fields, expected) in [
            (json!({"model": "m"}), Some("OPENAI_API_KEY")),
            (json!({"model": "m", "base_url": "https://api.openai.com/v1/"}), Some("OPENAI_API_KEY")),
            (json!({"model": "m", "base_url": "http://localhost:8000/v1"}), None),
            (json!({"model": "m", "base_url": "http://x/v1", "api_key_env": "MY_KEY"}), Some("MY_KEY")),
        ] {
            assert_eq!(settings(fields.clone()).required_env(), expected, "{fields}");
        }
        let unset = settings(json!({"model": "m", "api_key_env": "DECOCT_TEST_NO_SUCH_KEY"}));
        let message = OpenAi::open(unset).err().unwrap().to_string();
        assert!(message.contains("`DECOCT_TEST_NO_SUCH_KEY`"), "{message}");
    }
}

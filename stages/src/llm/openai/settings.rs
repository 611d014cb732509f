//! What a recipe may say of an endpoint, and which of it names the answers.

use crate::llm::Patience;
use crate::llm::endpoint::{Declared, Rules};
use crate::llm::prices::Prices;
use crate::settings::{Reader, Settings, Step};
use crate::stage::Unkeyed;
use serde_json::{Map, Value, json};

const OPENAI_URL: &str = "https://api.openai.com/v1";
const OPENAI_KEY_ENV: &str = "OPENAI_API_KEY";

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
        /// Requests in flight at most, over all nodes; fewer while the server cannot keep up.
        pub concurrency: Unkeyed<usize> = Unkeyed(64),
        /// Requests that the server allows a minute, over all nodes; where left out, what it tells or refuses.
        pub requests_per_minute: Unkeyed<Option<f64>> = Unkeyed(None),
        /// Tokens that the server allows a minute, prompts and answers together, over all nodes.
        pub tokens_per_minute: Unkeyed<Option<f64>> = Unkeyed(None),
        pub connect_timeout_ms: Unkeyed<u64> = Unkeyed(10_000),
        /// Without any byte of the answer; as `timeout_ms` where left out, because a server may think long before the first one.
        pub read_timeout_ms: Unkeyed<Option<u64>> = Unkeyed(None),
        /// From sending to the last byte of the answer.
        pub timeout_ms: Unkeyed<u64> = Unkeyed(600_000),
        /// How often a question without an answer is sent before the row gives up.
        pub tries: Unkeyed<u32> = Unkeyed(6),
        /// The longest first pause between tries, drawn from nothing to this; it doubles up to `pause_max_ms`.
        pub pause_ms: Unkeyed<u64> = Unkeyed(500),
        pub pause_max_ms: Unkeyed<u64> = Unkeyed(30_000),
        /// Requests that may be sent again for each answered one, over all nodes and beside the first 200.
        pub retries_per_answer: Unkeyed<f64> = Unkeyed(1.0),
        /// How long a server that has answered before may be out until the run gives up.
        pub outage_ms: Unkeyed<u64> = Unkeyed(300_000),
        /// For cost figures and `--budget-usd`.
        pub prices: Unkeyed<Option<Prices>> = Unkeyed(None),
    }
}

impl OpenAiSettings {
    /// Reads and checks that what is declared of a server can be kept to.
    pub fn read_checked(fields: &Map<String, Value>, reader: &mut Reader) -> Option<OpenAiSettings> {
        let settings = OpenAiSettings::read_fields(fields, reader)?;
        let least = [
            ("requests_per_minute", settings.requests_per_minute.0, f64::MIN_POSITIVE),
            ("tokens_per_minute", settings.tokens_per_minute.0, f64::MIN_POSITIVE),
            ("retries_per_answer", Some(settings.retries_per_answer.0), 0.0),
        ];
        let before = reader.mistakes.len();
        for (name, value, least) in least {
            let Some(value) = value.filter(|value| !(*value >= least && value.is_finite())) else { continue };
            let bound = if least > 0.0 { "more than 0" } else { "0 or more" };
            let message = format!("`{name}` must be {bound}, not {value}");
            reader.within(Step::Key(name.to_string()), |reader| reader.mistake("out-of-range", message, None));
        }
        (reader.mistakes.len() == before).then_some(settings)
    }

    /// How its server is to be treated.
    pub fn rules(&self) -> Rules {
        Rules {
            declared: Declared {
                concurrency: self.concurrency.0,
                requests_per_minute: self.requests_per_minute.0,
                tokens_per_minute: self.tokens_per_minute.0,
            },
            patience: self.patience(),
            outage_ms: self.outage_ms.0,
            retries_per_answer: self.retries_per_answer.0,
            tokens_out_max: self.max_tokens.map(u64::from),
            extra_bytes: self.system.as_ref().map_or(0, String::len),
        }
    }

    pub fn patience(&self) -> Patience {
        Patience { tries: self.tries.0, pause_ms: self.pause_ms.0, pause_max_ms: self.pause_max_ms.0 }
    }

    /// The environment variable without which no call can be made.
    pub fn required_env(&self) -> Option<&str> {
        let official = self.base_url.0.trim_end_matches('/') == OPENAI_URL;
        self.api_key_env.0.as_deref().or(official.then_some(OPENAI_KEY_ENV))
    }
}

/// What names this model's answers: everything declared but where and how patiently it is asked.
pub fn identity(settings: &OpenAiSettings) -> Value {
    json!({"provider": "openai", "settings": settings})
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::settings::Setting;

    pub fn settings(value: Value) -> OpenAiSettings {
        let mut reader = Reader::default();
        let settings = OpenAiSettings::read(&value, &mut reader);
        settings.unwrap_or_else(|| panic!("{:?}", reader.mistakes))
    }

    #[test]
    fn where_and_how_patiently_a_model_is_asked_is_no_part_of_its_identity() {
        let base = json!({"model": "m", "temperature": 0.5});
        let moved = json!({
            "model": "m", "temperature": 0.5, "base_url": "http://elsewhere/v1", "api_key_env": "K", "concurrency": 3,
            "timeout_ms": 5, "connect_timeout_ms": 5, "read_timeout_ms": 5, "tries": 1, "pause_ms": 1, "pause_max_ms": 2,
            "requests_per_minute": 600, "tokens_per_minute": 1e6, "retries_per_answer": 0.5, "outage_ms": 9,
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
    }
}

//! What a recipe may say of an endpoint, and which of it names the answers.

use super::batch::Pace;
use super::dialect::{Dialect, Structured};
use super::hedge::HedgeSettings;
use crate::llm::endpoint::{Declared, Hedge, Rules, Timeouts};
use crate::llm::key::{self, KeySource};
use crate::llm::prices::Prices;
use crate::llm::{Manner, Patience};
use crate::settings::{Reader, Settings, Step};
use crate::stage::Unkeyed;
use serde_json::{Map, Value, json};
use std::time::Duration;

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
        /// A file with the key in place of a variable, readable by its owner alone (mode 0600); `~/` is the home folder.
        #[serde(skip)]
        pub api_key_file: Unkeyed<Option<String>> = Unkeyed(None),
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
        /// Whether to ask for `response_format: json_object` where a prompt demands JSON. `structured` says more.
        pub json_mode: bool = true,
        /// What to demand of the server where a prompt demands JSON; `json` when left out, unless `json_mode` is false.
        /// Replies are checked here, whatever a server promises.
        #[serde(skip)]
        pub structured: Option<Structured> = None,
        /// How the server wants to be told a schema.
        #[serde(skip)]
        pub dialect: Dialect = Dialect::OpenAi,
        /// Whether a reply that cannot be used is sent back with what is wrong with it, instead of asking the same again.
        #[serde(skip)]
        pub correct: bool = true,
        /// Whether answers come in pieces while they are written. They are the same answers.
        #[serde(skip)]
        pub stream: Unkeyed<bool> = Unkeyed(false),
        /// Whether requests are gathered for the Batch API: answered within a day, at half the price.
        #[serde(skip)]
        pub batch: Unkeyed<bool> = Unkeyed(false),
        /// Requests in one batch at most; the API takes 50,000.
        #[serde(skip)]
        pub batch_requests: Unkeyed<usize> = Unkeyed(10_000),
        /// Between the first looks at a batch; later ones lie further apart.
        #[serde(skip)]
        pub batch_poll_ms: Unkeyed<u64> = Unkeyed(10_000),
        /// What a batch costs, as a share of `prices`.
        #[serde(skip)]
        pub batch_price: Unkeyed<f64> = Unkeyed(0.5),
        /// Sent as they are, beside the other fields.
        pub extra_body: Map<String, Value> = Map::new(),
        /// Requests in flight at most, over all nodes; fewer while the server cannot keep up.
        pub concurrency: Unkeyed<usize> = Unkeyed(64),
        /// Requests that the server allows a minute, over all nodes; where left out, what it tells or refuses.
        #[serde(skip)]
        pub requests_per_minute: Unkeyed<Option<f64>> = Unkeyed(None),
        /// Tokens that the server allows a minute, prompts and answers together, over all nodes.
        #[serde(skip)]
        pub tokens_per_minute: Unkeyed<Option<f64>> = Unkeyed(None),
        pub connect_timeout_ms: Unkeyed<u64> = Unkeyed(10_000),
        /// Without any byte of the answer; as `timeout_ms` where left out, because a server may think long before the first one.
        #[serde(skip)]
        pub read_timeout_ms: Unkeyed<Option<u64>> = Unkeyed(None),
        /// From sending to the last byte of the answer.
        pub timeout_ms: Unkeyed<u64> = Unkeyed(600_000),
        /// How often a question without an answer is sent before the row gives up.
        pub tries: Unkeyed<u32> = Unkeyed(6),
        /// The longest first pause between tries, drawn from nothing to this; it doubles up to `pause_max_ms`.
        pub pause_ms: Unkeyed<u64> = Unkeyed(500),
        pub pause_max_ms: Unkeyed<u64> = Unkeyed(30_000),
        /// Requests that may be sent again for each answered one, over all nodes and beside the first 200.
        #[serde(skip)]
        pub retries_per_answer: Unkeyed<f64> = Unkeyed(1.0),
        /// How long a server that has answered before may be out until the run gives up.
        #[serde(skip)]
        pub outage_ms: Unkeyed<u64> = Unkeyed(300_000),
        /// Sends a request whose answer takes long a second time, where the limits have room for it.
        #[serde(skip)]
        pub hedge: Unkeyed<Option<HedgeSettings>> = Unkeyed(None),
        /// For cost figures and `--budget-usd`.
        pub prices: Unkeyed<Option<Prices>> = Unkeyed(None),
    }
}

impl OpenAiSettings {
    /// What is demanded where a prompt demands JSON.
    pub fn structured(&self) -> Structured {
        let by_mode = if self.json_mode { Structured::Json } else { Structured::None };
        self.structured.unwrap_or(by_mode)
    }

    /// How its server is to be treated.
    pub fn rules(&self) -> Rules {
        let hedge = self.hedge.0.as_ref().map(HedgeSettings::hedge);
        Rules {
            declared: Declared {
                concurrency: self.concurrency.0,
                places_for_copies: hedge.map_or(0, |hedge: Hedge| hedge.places(self.concurrency.0)),
                requests_per_minute: self.requests_per_minute.0,
                tokens_per_minute: self.tokens_per_minute.0,
            },
            patience: self.patience(),
            outage_ms: self.outage_ms.0,
            retries_per_answer: self.retries_per_answer.0,
            tokens_out_max: self.max_tokens.map(u64::from),
            extra_bytes: self.system.as_ref().map_or(0, String::len),
            hedge,
        }
    }

    /// How batches are made.
    pub fn pace(&self) -> Pace {
        Pace { poll: Duration::from_millis(self.batch_poll_ms.0.max(1)), requests_max: self.batch_requests.0 }
    }

    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: Duration::from_millis(self.connect_timeout_ms.0),
            silence: self.read_timeout_ms.0.map(Duration::from_millis),
        }
    }

    pub fn patience(&self) -> Patience {
        Patience { tries: self.tries.0, pause_ms: self.pause_ms.0, pause_max_ms: self.pause_max_ms.0 }
    }

    /// Notes what is declared of a server and cannot be kept to.
    fn check_limits(&self, reader: &mut Reader) {
        let least = [
            ("requests_per_minute", self.requests_per_minute.0, f64::MIN_POSITIVE),
            ("tokens_per_minute", self.tokens_per_minute.0, f64::MIN_POSITIVE),
            ("retries_per_answer", Some(self.retries_per_answer.0), 0.0),
        ];
        for (name, value, least) in least {
            let Some(value) = value.filter(|value| !(*value >= least && value.is_finite())) else { continue };
            let bound = if least > 0.0 { "more than 0" } else { "0 or more" };
            let message = format!("`{name}` must be {bound}, not {value}");
            reader.within(Step::Key(name.to_string()), |reader| reader.mistake("out-of-range", message, None));
        }
    }

    fn check_hedge(&self, reader: &mut Reader) {
        let Some(hedge) = &self.hedge.0 else { return };
        reader.within(Step::Key("hedge".to_string()), |reader| hedge.check(reader));
    }

    /// Where the key lies without which no call can be made.
    pub fn key_source(&self) -> Option<KeySource> {
        if let Some(path) = &self.api_key_file.0 {
            return Some(KeySource::File(path.into()));
        }
        let official = self.base_url.0.trim_end_matches('/') == OPENAI_URL;
        let variable = self.api_key_env.0.as_deref().or(official.then_some(OPENAI_KEY_ENV));
        variable.map(|name| KeySource::Variable(name.to_string()))
    }

    /// Reads the settings, the place of a key file relative to the recipe; refuses secrets.
    pub fn read_checked(fields: &Map<String, Value>, reader: &mut Reader) -> Option<OpenAiSettings> {
        let (mut fields, before) = (fields.clone(), reader.mistakes.len());
        key::refuse_literals(&mut fields, reader);
        let mut settings = OpenAiSettings::read_fields(&fields, reader)?;
        settings.check_limits(reader);
        settings.check_hedge(reader);
        if let Some(named) = &settings.api_key_file.0 {
            if settings.api_key_env.0.is_some() {
                let hint = Some("write one of them".to_string());
                reader.mistake("both-given", "`api_key_env` and `api_key_file` exclude each other", hint);
            }
            settings.api_key_file = Unkeyed(Some(key::file_path(named, reader).to_string_lossy().into_owned()));
        }
        (reader.mistakes.len() == before).then_some(settings)
    }
}

/// What a node's key holds of this model: everything declared but where and how patiently it is asked. A setting that came later is
/// left out at its default, so that no key moves.
pub fn identity(settings: &OpenAiSettings) -> Value {
    let mut named = json!(settings);
    named["json_mode"] = json!(settings.structured() != Structured::None);
    if settings.structured() == Structured::Schema {
        named["structured"] = json!(Structured::Schema);
        if settings.dialect != Dialect::OpenAi {
            named["dialect"] = json!(settings.dialect);
        }
    }
    if !settings.correct {
        named["correct"] = json!(false);
    }
    json!({"provider": "openai", "settings": named})
}

/// What names a reply: of an identity all but what shows in the request itself (its format, its messages), so that these settings
/// cost only the questions that they change.
pub fn address_identity(mut identity: Value) -> Value {
    if let Some(settings) = identity["settings"].as_object_mut() {
        settings.shift_remove("structured");
        settings.shift_remove("correct");
    }
    identity
}

/// How a model with this identity is asked.
pub fn manner(identity: &Value) -> Manner {
    let settings = &identity["settings"];
    Manner {
        corrects: settings["correct"] != json!(false),
        schemas: settings["structured"] == json!(Structured::Schema),
    }
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
            "api_key_file": "k", "timeout_ms": 5, "connect_timeout_ms": 5, "read_timeout_ms": 5, "tries": 1, "pause_ms": 1,
            "pause_max_ms": 2, "requests_per_minute": 600, "tokens_per_minute": 1e6, "retries_per_answer": 0.5, "outage_ms": 9,
            "hedge": {"after_ms": 5, "at_most": 0.1},
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

    /// Replies are paid for: an identity that moves loses all of them.
    #[test]
    fn a_setting_that_came_later_moves_no_identity() {
        let plain = json!({"provider": "openai", "settings": {
            "model": "m", "base_url": null, "api_key_env": null, "identity": null, "system": null, "temperature": null,
            "top_p": null, "max_tokens": null, "max_tokens_field": "max_tokens", "seed": null, "reasoning_effort": null,
            "json_mode": true, "extra_body": {}, "concurrency": null, "connect_timeout_ms": null, "timeout_ms": null,
            "tries": null, "pause_ms": null, "pause_max_ms": null, "prices": null,
        }});
        let named = |value: Value| identity(&settings(value));
        for same in [
            json!({"model": "m"}),
            json!({"model": "m", "structured": "json", "json_mode": false}),
            json!({"model": "m", "correct": true, "dialect": "vllm", "stream": true}),
        ] {
            assert_eq!(named(same.clone()), plain, "{same}");
        }
        assert_eq!(
            named(json!({"model": "m", "structured": "none"})),
            named(json!({"model": "m", "json_mode": false}))
        );
    }

    #[test]
    fn what_shows_in_a_request_moves_keys_but_no_addresses() {
        let named = |value: Value| identity(&settings(value));
        let plain = named(json!({"model": "m"}));
        for (changed, expected) in [
            (json!({"model": "m"}), Manner { corrects: true, schemas: false }),
            (json!({"model": "m", "correct": false}), Manner { corrects: false, schemas: false }),
            (json!({"model": "m", "structured": "schema"}), Manner { corrects: true, schemas: true }),
        ] {
            let changed = named(changed);
            assert_eq!(manner(&changed), expected, "{changed}");
            assert_eq!(changed == plain, expected == Manner::default(), "{changed}");
            assert_eq!(address_identity(changed), plain);
        }
        let spoken =
            |dialect: &str| address_identity(named(json!({"model": "m", "structured": "schema", "dialect": dialect})));
        assert_ne!(spoken("vllm"), spoken("openai"), "a server may not understand the one");
    }

    #[test]
    fn the_official_server_needs_a_key_and_a_local_one_does_not() {
        let variable = |name: &str| Some(KeySource::Variable(name.to_string()));
        for (fields, expected) in [
            (json!({"model": "m"}), variable("OPENAI_API_KEY")),
            (json!({"model": "m", "base_url": "https://api.openai.com/v1/"}), variable("OPENAI_API_KEY")),
            (json!({"model": "m", "base_url": "http://localhost:8000/v1"}), None),
            (json!({"model": "m", "base_url": "http://x/v1", "api_key_env": "MY_KEY"}), variable("MY_KEY")),
            (json!({"model": "m", "api_key_file": "/run/key"}), Some(KeySource::File("/run/key".into()))),
        ] {
            assert_eq!(settings(fields.clone()).key_source(), expected, "{fields}");
        }
    }
}

//! A model folder or another node's trained model, answering through our own decoder: requests that come while others are answered
//! join them.

mod counter;

use super::{Fault, LanguageModel, Reply, Request, Usage};
use crate::failure::{Failure, Result};
use crate::model::generate::{Finish, Sampling};
use crate::model::{ChatTemplate, Decoder, ModelFolder, Tokenizer, chat};
use crate::settings::{Reader, Settings, Step};
use crate::stage::{NodeRef, Unkeyed};
use counter::{Answer, Counter, Job, Manner};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What decides a model's words beside its weights.
const COUNTED: [&str; 5] =
    ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

crate::settings! {
    /// A model in Hugging Face layout, run on this machine.
    pub struct LocalSettings {
        /// A node whose model answers; or `path`.
        pub node: Option<NodeRef> = None,
        /// A folder with config.json, safetensors and tokenizer.json; or `node`.
        pub path: Unkeyed<Option<String>> = Unkeyed(None),
        /// Sent as the first message.
        pub system: Option<String> = None,
        /// 0 is greedy.
        pub temperature: f64 = 0.0,
        pub top_p: f64 = 1.0,
        /// Only the k most likely tokens; 0 takes all.
        pub top_k: u32 = 0,
        /// Only tokens at least this share as likely as the likeliest; 0 takes all.
        #[serde(skip_serializing_if = "is_zero")]
        pub min_p: f64 = 0.0,
        /// An answer ends before any of these.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub stop: Vec<String> = Vec::new(),
        /// Generated tokens at most.
        pub max_tokens: u32 = 1024,
        pub seed: u64 = 0,
        /// Sequences generated side by side at most.
        pub concurrency: Unkeyed<usize> = Unkeyed(64),
    }
}

/// What has its default is not in the identity: replies from before there was the setting stay.
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl LocalSettings {
    /// Reads the settings and checks that exactly one source is named and that a named folder holds a model.
    pub fn read_checked(fields: &Map<String, Value>, reader: &mut Reader) -> Option<LocalSettings> {
        let mut settings = LocalSettings::read_fields(fields, reader)?;
        settings.check_sampling(reader)?;
        match (&settings.node, &settings.path.0) {
            (None, None) => {
                reader.mistake("missing-key", "a local model needs `node` or `path`", None);
                None
            }
            (Some(_), Some(_)) => {
                reader.mistake("excess-key", "`node` and `path` exclude each other", None);
                None
            }
            (Some(_), None) => Some(settings),
            (None, Some(path)) => {
                let folder = reader.path(path);
                if !folder.join("config.json").is_file() {
                    let message = format!("no model in `{path}`: `config.json` is missing there");
                    reader
                        .within(Step::Key("path".to_string()), |reader| reader.mistake("missing-file", message, None));
                    return None;
                }
                settings.path = Unkeyed(Some(folder.to_string_lossy().into_owned()));
                Some(settings)
            }
        }
    }
}

impl LocalSettings {
    fn check_sampling(&self, reader: &mut Reader) -> Option<()> {
        let shares = [("top_p", self.top_p), ("min_p", self.min_p)];
        let share = shares.into_iter().filter(|(_, share)| !(0.0..=1.0).contains(share));
        let mut wrong: Vec<(&str, &str)> = share.map(|(key, _)| (key, "expected a number from 0 to 1")).collect();
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            wrong.push(("temperature", "expected a number from 0 on"));
        }
        if self.stop.iter().any(String::is_empty) {
            wrong.push(("stop", "an empty text ends every answer before it begins"));
        }
        for (key, message) in &wrong {
            reader.within(Step::Key(key.to_string()), |reader| reader.mistake("out-of-range", *message, None));
        }
        wrong.is_empty().then_some(())
    }
}

/// An opened local model. Its decoder lives on a thread of its own, which ends when the model is dropped.
pub struct Local {
    settings: LocalSettings,
    identity: Value,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    positions_max: usize,
    counter: Arc<Counter>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.counter.close();
    }
}

/// A reply as it is kept.
#[derive(Serialize, Deserialize)]
struct Envelope {
    text: String,
    finish: Finish,
    tokens_in: u64,
    tokens_out: u64,
}

impl Local {
    pub fn open(settings: LocalSettings, device: kernels::Device, folder: &Path) -> Result<Local> {
        let model = ModelFolder::load(folder)?;
        let identity = json!({"provider": "local", "settings": settings, "weights": weights_hash(folder)?});
        let positions_max = model.config.max_position_embeddings;
        let decoder = Decoder::new(&device, &model.config, &model.weights);
        let template = model.template_or_plain()?;
        let tokenizer = Arc::new(model.tokenizer);
        let counter = Arc::new(Counter::default());
        let (of_thread, served, manner) = (tokenizer.clone(), counter.clone(), manner(&settings));
        std::thread::spawn(move || served.serve(&decoder, &of_thread, &manner));
        Ok(Local { settings, identity, tokenizer, template, positions_max, counter })
    }

    async fn answer(&self, request: &Request) -> Result<Envelope> {
        let prompt = self.tokenizer.encode(&self.prompt_text(request)?)?;
        let tokens_in = prompt.len() as u64;
        if prompt.is_empty() || prompt.len() >= self.positions_max {
            // A complete answer, though an empty one: one row that does not fit is no reason to stop the others.
            return Ok(Envelope { text: String::new(), finish: Finish::Length, tokens_in, tokens_out: 0 });
        }
        let (answer, answered) = oneshot::channel();
        if !self.counter.hand_in(Job { prompt, seed: self.seed(request), answer }) {
            return Err(self.counter.failure());
        }
        let answered = answered.await.map_err(|_| self.counter.failure())?;
        let Answer { text, finish, tokens } = answered.map_err(Failure::Machine)?;
        Ok(Envelope { text, finish, tokens_in, tokens_out: tokens as u64 })
    }

    fn prompt_text(&self, request: &Request) -> Result<String> {
        let system = self.settings.system.iter().map(|system| ("system", system));
        let asked = request.messages.iter().map(|message| (message.role.as_str(), &message.content));
        let messages = system
            .chain(asked)
            .map(|(role, content)| chat::Message { role: role.to_string(), content: content.clone() });
        let messages: Vec<chat::Message> = messages.collect();
        self.template.render(&messages, true)
    }

    /// From the request's address, so that no answer depends on what was asked before.
    fn seed(&self, request: &Request) -> u64 {
        let address = request.address(&json!(self.settings.seed), false);
        u64::from_le_bytes(address[..8].try_into().expect("an address has 32 bytes"))
    }
}

impl LanguageModel for Local {
    fn identity(&self) -> Value {
        self.identity.clone()
    }

    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        async move {
            let envelope = self.answer(request).await.map_err(|failure| Fault::Lasting(failure.to_string()))?;
            Ok(serde_json::to_vec(&envelope).expect("an envelope is plain data"))
        }
        .boxed()
    }

    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        parse(raw)
    }

    fn concurrency(&self) -> usize {
        self.settings.concurrency.0
    }

    fn cost_usd(&self, _: &Usage) -> Option<f64> {
        Some(0.0)
    }

    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        Some(0.0)
    }
}

/// Reads a kept reply.
pub(super) fn parse(raw: &[u8]) -> std::result::Result<Reply, Fault> {
    let envelope: Envelope = serde_json::from_slice(raw).map_err(|error| Fault::Passing {
        message: format!("a kept reply of a local model cannot be read: {error}"),
        retry_after_ms: None,
    })?;
    let finish_reason = if envelope.finish == Finish::Stop { "stop" } else { "length" };
    Ok(Reply {
        text: envelope.text,
        reasoning: None,
        finish_reason: finish_reason.to_string(),
        usage: Usage { tokens_in: envelope.tokens_in, tokens_cached: 0, tokens_out: envelope.tokens_out },
        served_by: "local".to_string(),
    })
}

fn manner(settings: &LocalSettings) -> Manner {
    let sampling = Sampling {
        temperature: settings.temperature as f32,
        top_k: settings.top_k as usize,
        top_p: settings.top_p as f32,
        min_p: settings.min_p as f32,
        tokens_max: settings.max_tokens as usize,
    };
    Manner { sampling, stops: settings.stop.clone(), most: settings.concurrency.0.max(1) }
}

/// Hash over the names and bytes of all files that decide what the model says, wherever the folder lies.
pub(super) fn weights_hash(folder: &Path) -> Result<String> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::io("read", folder, error))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let counts = |name: &String| name.ends_with(".safetensors") || COUNTED.contains(&name.as_str());
    let mut names: Vec<String> = names.filter(counts).collect();
    names.sort();
    let mut hasher = blake3::Hasher::new_derive_key("decoct local model 1");
    for name in names {
        let path = folder.join(&name);
        let bytes = std::fs::read(&path).map_err(|error| Failure::io("read", &path, error))?;
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

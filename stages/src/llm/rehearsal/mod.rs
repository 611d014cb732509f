//! An embedded stand-in for a strong model: no key, no cost, deterministic, imperfect on purpose, labelled in everything it made.
//!
//! It answers the typed [`Task`](crate::llm::Task) beside the messages and never reads the messages, so that a cosmetic edit of a prompt gives the
//! same answers. On tablet problems it really works from the problem's text; on any other it answers from the row's ground truth
//! at stated error rates. One file a task.

mod attempts;
mod case;
mod chain;
mod label;
mod reformat;
mod respond;
mod rewrite;
mod search;
mod solve;
mod verify;

use super::{Fault, LanguageModel, Reply, Request, Usage};
use crate::settings;
use crate::stage::Unkeyed;
use case::Case;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Rises whenever the same question would get another answer: the model's identity holds it.
const VERSION: u32 = 1;
/// Everything it made carries this word.
pub(super) const LABEL: &str = "rehearsal";
/// Characters of English a token, roughly; a rehearsal has no tokenizer.
const TOKEN_CHARACTERS: usize = 4;

settings! {
    /// The embedded stand-in for a strong model. All rates are shares between 0 and 1.
    pub struct RehearsalSettings {
        /// Tells two rehearsals with equal rates apart.
        pub seed: u64 = 0,
        /// How often it solves an easy exam question when asked for the answer only.
        pub skill: f64 = 0.9,
        /// How often a first chain reaches the answer (problems other than tablets).
        pub first_right: f64 = 0.4,
        /// How often one round of search repairs a wrong chain (problems other than tablets).
        pub repair: f64 = 0.45,
        /// How often a later attempt thinks one more try further before it concludes (tablets).
        pub patience: f64 = 0.8,
        /// How often a chain holds a slip of the pen.
        pub slip: f64 = 0.005,
        /// How often an answer is written in another form (`1, 2 and 1` for `1/2/1`).
        pub alias: f64 = 0.05,
        /// How often a verdict is wrong.
        pub verifier_error: f64 = 0.005,
        /// How often an exam question gets a wrong label.
        pub label_error: f64 = 0.01,
        /// How often a reply breaks off, so that it does not parse.
        pub unparsable: f64 = 0.01,
        /// Rows in work at a time; changes no answer.
        pub concurrency: Unkeyed<usize> = Unkeyed(32),
    }
}

impl Default for RehearsalSettings {
    fn default() -> RehearsalSettings {
        let fields = serde_json::Map::new();
        let mut reader = settings::Reader::default();
        settings::Settings::read_fields(&fields, &mut reader).expect("every setting has a default")
    }
}

#[derive(Debug, Clone)]
pub struct Rehearsal {
    settings: RehearsalSettings,
}

/// A reply as it is kept.
#[derive(Serialize, Deserialize)]
struct Envelope {
    text: String,
    tokens_in: u64,
    tokens_out: u64,
}

impl Rehearsal {
    pub fn new(settings: RehearsalSettings) -> Rehearsal {
        Rehearsal { settings }
    }

    fn answer(&self, request: &Request) -> Result<String, Fault> {
        let lasting = |message: String| Fault::Lasting(message);
        let task = request.task.as_ref().ok_or_else(|| {
            lasting("a rehearsal answers the tasks of a recipe only; name a real model for free questions".to_string())
        })?;
        let case = Case::new(&self.settings, task, request);
        Ok(match task.name {
            "solve" => solve::reply(&case),
            "label" => case.perhaps_broken(label::reply(&case)),
            "reformat" => case.perhaps_broken(reformat::reply(&case)),
            "chain" => case.perhaps_broken(chain::reply(&case)),
            "verify" => verify::reply(&case),
            "search" => case.perhaps_broken(search::reply(&case)),
            "reveal" => case.perhaps_broken(search::reveal(&case)),
            "rewrite" => case.perhaps_broken(rewrite::reply(&case)),
            "rewrite_simple" => case.perhaps_broken(rewrite::simple(&case)),
            "respond" => respond::reply(&case),
            other => return Err(lasting(format!("a rehearsal does not know the task `{other}`"))),
        })
    }
}

impl LanguageModel for Rehearsal {
    fn identity(&self) -> Value {
        json!({"provider": "rehearsal", "version": VERSION, "settings": self.settings})
    }

    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<u8>, Fault>> {
        Box::pin(async move {
            let text = self.answer(request)?;
            let characters: usize = request.messages.iter().map(|message| message.content.len()).sum();
            let envelope = Envelope { tokens_in: tokens(characters), tokens_out: tokens(text.len()), text };
            Ok(serde_json::to_vec(&envelope).expect("an envelope is plain data"))
        })
    }

    fn parse(&self, raw: &[u8]) -> Result<Reply, Fault> {
        parse(raw)
    }

    fn reads_task(&self) -> bool {
        true
    }

    fn label(&self) -> Option<&'static str> {
        Some(LABEL)
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
pub(super) fn parse(raw: &[u8]) -> Result<Reply, Fault> {
    let envelope: Envelope = serde_json::from_slice(raw).map_err(|error| Fault::Passing {
        message: format!("a kept rehearsal reply cannot be read: {error}"),
        retry_after_ms: None,
    })?;
    Ok(Reply {
        text: envelope.text,
        reasoning: None,
        finish_reason: "stop".to_string(),
        usage: Usage { tokens_in: envelope.tokens_in, tokens_cached: 0, tokens_out: envelope.tokens_out },
        served_by: format!("rehearsal {VERSION}"),
    })
}

fn tokens(characters: usize) -> u64 {
    characters.div_ceil(TOKEN_CHARACTERS) as u64
}

#[cfg(test)]
mod tests;

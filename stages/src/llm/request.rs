//! One question to a model and its answer, and the address under which the answer is kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".to_string(), content: content.into() }
    }

    pub fn assistant(content: impl Into<String>) -> Message {
        Message { role: "assistant".to_string(), content: content.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyFormat {
    Text,
    Json,
}

/// What a rehearsal is asked to do: the typed side channel beside the messages. Never sent anywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// The kind of question: `solve`, `label`, `reformat`, `chain`, `verify`, `search`, `rewrite`, `respond`, …
    pub name: &'static str,
    pub row_id: String,
    /// The row's columns as the stage sees them (truth included), and what else the question is about (`strategy`, …).
    pub row: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub messages: Vec<Message>,
    pub format: ReplyFormat,
    pub task: Option<Task>,
    /// Tells equal requests apart that want independent answers (n samples; the search's attempt).
    pub sample: u32,
    /// 0, 1, … when a reply did not parse and the question is put again.
    pub ask: u32,
}

impl Request {
    pub fn new(prompt: String, format: ReplyFormat, task: Task) -> Request {
        Request { messages: vec![Message::user(prompt)], format, task: Some(task), sample: 0, ask: 0 }
    }

    pub fn sample(mut self, sample: u32) -> Request {
        self.sample = sample;
        self
    }

    /// Everything that names the answer, in one canonical value; its hash is the reply's address.
    /// `reads_task`: the messages of a rehearsal are not read, only its task is, so that a cosmetic edit of a prompt gives the same answers;
    /// the messages stay in the address all the same, as they do for every model.
    pub fn address(&self, model_identity: &Value, reads_task: bool) -> [u8; 32] {
        let task =
            if reads_task { serde_json::to_value(&self.task).expect("a task is plain data") } else { Value::Null };
        let preimage = json!({
            "model": model_identity, "messages": self.messages, "format": self.format, "task": task,
            "sample": self.sample, "ask": self.ask,
        });
        let mut hasher = blake3::Hasher::new_derive_key("decoct reply address 1");
        write_canonical(&preimage, &mut hasher);
        *hasher.finalize().as_bytes()
    }
}

/// Length-prefixed, keys sorted: two values hash equal exactly when they are equal as JSON.
fn write_canonical(value: &Value, hasher: &mut blake3::Hasher) {
    let mut text = |tag: u8, bytes: &[u8]| {
        hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    match value {
        Value::Array(items) => {
            text(b'[', &(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write_canonical(item, hasher));
        }
        Value::Object(fields) => {
            text(b'{', &(fields.len() as u64).to_le_bytes());
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            for key in keys {
                write_canonical(&Value::String(key.clone()), hasher);
                write_canonical(&fields[key], hasher);
            }
        }
        Value::String(string) => text(b'"', string.as_bytes()),
        plain => text(b'0', plain.to_string().as_bytes()),
    }
}

/// A complete answer, also one that was cut off or refused.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    pub text: String,
    /// Reasoning that the server split off, where it did.
    pub reasoning: Option<String>,
    /// `stop`, `length`, `content_filter`, `refusal`, …
    pub finish_reason: String,
    pub usage: Usage,
    /// The model name and fingerprint that the server returned.
    pub served_by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub tokens_in: u64,
    pub tokens_cached: u64,
    pub tokens_out: u64,
}

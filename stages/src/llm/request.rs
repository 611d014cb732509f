//! One question to a model and its answer, and the address under which the answer is kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Words of [`Reply::finish_reason`]: the reply ended at the limit of its tokens.
pub const CUT_OFF: &str = "length";
/// The model declined to answer.
pub const REFUSAL: &str = "refusal";
/// The server kept the answer, or the rest of it, to itself.
pub const WITHHELD: &str = "content_filter";

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

/// What form of reply is demanded of the server; what comes is checked by whoever asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplyFormat {
    Text,
    Json,
    /// JSON of this shape, where the model is asked for shapes (see [`super::Manner`]).
    Schema(&'static Shape),
}

/// A JSON Schema with a name, as servers want it.
#[derive(Debug)]
pub struct Shape {
    pub name: &'static str,
    pub schema: LazyLock<Value>,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.name == other.name && *self.schema == *other.schema
    }
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
        Request::conversation(vec![Message::user(prompt)], format, task)
    }

    /// A question that ends a conversation.
    pub fn conversation(messages: Vec<Message>, format: ReplyFormat, task: Task) -> Request {
        Request { messages, format, task: Some(task), sample: 0, ask: 0 }
    }

    /// Of all messages.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.content.len()).sum()
    }

    pub fn sample(mut self, sample: u32) -> Request {
        self.sample = sample;
        self
    }

    /// The hash of everything that names the answer, written canonically: the reply's address.
    /// `reads_task`: the messages of a rehearsal are not read, only its task is, so that a cosmetic edit of a prompt gives the same answers;
    /// the messages stay in the address all the same, as they do for every model.
    pub fn address(&self, model_identity: &Value, reads_task: bool) -> [u8; 32] {
        self.address_of(&Asked::new(model_identity), reads_task)
    }

    /// The same for one of thousands of requests to one model.
    pub(super) fn address_of(&self, asked: &Asked, reads_task: bool) -> [u8; 32] {
        let mut preimage = Vec::with_capacity(self.bytes() + 256);
        write_tagged(b'[', &(self.messages.len() as u64).to_le_bytes(), &mut preimage);
        for message in &self.messages {
            write_text(&message.role, &mut preimage);
            write_text(&message.content, &mut preimage);
        }
        self.format.write_canonical(&mut preimage);
        match self.task.as_ref().filter(|_| reads_task) {
            Some(task) => task.write_canonical(&mut preimage),
            None => write_text("", &mut preimage),
        }
        preimage.extend_from_slice(&self.sample.to_le_bytes());
        preimage.extend_from_slice(&self.ask.to_le_bytes());
        *asked.0.clone().update(&preimage).finalize().as_bytes()
    }
}

/// The model that is asked, as all addresses of its replies begin: hashed once.
#[derive(Clone)]
pub(super) struct Asked(blake3::Hasher);

impl Asked {
    pub(super) fn new(model_identity: &Value) -> Asked {
        let mut identity = Vec::new();
        write_canonical(model_identity, &mut identity);
        let mut hasher = blake3::Hasher::new_derive_key("decoct reply address 1");
        hasher.update(&identity);
        Asked(hasher)
    }
}

impl ReplyFormat {
    fn write_canonical(self, out: &mut Vec<u8>) {
        match self {
            ReplyFormat::Text => write_text("text", out),
            ReplyFormat::Json => write_text("json", out),
            ReplyFormat::Schema(shape) => {
                write_text("schema", out);
                write_text(shape.name, out);
                write_canonical(&shape.schema, out);
            }
        }
    }
}

impl Task {
    fn write_canonical(&self, out: &mut Vec<u8>) {
        write_text(self.name, out);
        write_text(&self.row_id, out);
        write_fields(&self.row, out);
    }
}

/// A value as it stands in addresses.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            write_tagged(b'[', &(items.len() as u64).to_le_bytes(), out);
            items.iter().for_each(|item| write_canonical(item, out));
        }
        Value::Object(fields) => write_fields(fields, out),
        Value::String(string) => write_text(string, out),
        plain => write_tagged(b'0', plain.to_string().as_bytes(), out),
    }
}

fn write_fields(fields: &Map<String, Value>, out: &mut Vec<u8>) {
    write_tagged(b'{', &(fields.len() as u64).to_le_bytes(), out);
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        write_text(key, out);
        write_canonical(value, out);
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_tagged(b'"', text.as_bytes(), out);
}

fn write_tagged(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Request {
        let row = json!({"question": "Why?", "n": 1.5}).as_object().unwrap().clone();
        Request::new("Why?".to_string(), ReplyFormat::Json, Task { name: "solve", row_id: "r1".into(), row })
    }

    fn address(request: &Request, reads_task: bool) -> [u8; 32] {
        request.address(&json!({"provider": "p", "model": "m"}), reads_task)
    }

    #[test]
    fn everything_that_can_change_an_answer_changes_the_address() {
        static SHAPE: Shape = Shape { name: "a", schema: LazyLock::new(|| json!({"type": "object"})) };
        static RENAMED: Shape = Shape { name: "b", schema: LazyLock::new(|| json!({"type": "object"})) };
        static WIDER: Shape = Shape { name: "a", schema: LazyLock::new(|| json!({})) };
        let changes: [fn(&mut Request); 9] = [
            |request| request.format = ReplyFormat::Schema(&SHAPE),
            |request| request.format = ReplyFormat::Schema(&RENAMED),
            |request| request.format = ReplyFormat::Schema(&WIDER),
            |request| request.sample = 1,
            |request| request.ask = 1,
            |request| request.format = ReplyFormat::Text,
            |request| request.messages[0].content.push('!'),
            |request| request.messages[0].role = "system".to_string(),
            |request| request.messages.push(Message::assistant("")),
        ];
        let mut addresses = vec![address(&request(), false), request().address(&json!({"provider": "p"}), false)];
        for change in changes {
            let mut changed = request();
            change(&mut changed);
            addresses.push(address(&changed, false));
        }
        let count = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
    }

    #[test]
    fn a_task_counts_only_for_a_model_that_reads_it() {
        let mut other = request();
        other.task.as_mut().unwrap().row_id = "r2".to_string();
        assert_eq!(address(&other, false), address(&request(), false));
        assert_ne!(address(&other, true), address(&request(), true));
        assert_ne!(address(&request(), true), address(&request(), false));
    }

    #[test]
    fn the_order_of_keys_is_no_difference_and_the_place_of_text_is_one() {
        let written = |value: Value| {
            let mut out = Vec::new();
            write_canonical(&value, &mut out);
            out
        };
        assert_eq!(written(json!({"a": 1, "b": [2]})), written(json!({"b": [2], "a": 1})));
        for (one, other) in [
            (json!(["ab", "c"]), json!(["a", "bc"])),
            (json!({"a": "b"}), json!(["a", "b"])),
            (json!("1"), json!(1)),
            (json!([[], []]), json!([[[]]])),
            (json!(null), json!(false)),
        ] {
            assert_ne!(written(one.clone()), written(other.clone()), "{one} {other}");
        }
    }

    /// Replies are paid for: an address that moves loses all of them. Change this only together with the domain's number.
    #[test]
    fn addresses_stay_where_they_are() {
        let hex = |address: [u8; 32]| blake3::Hash::from_bytes(address).to_hex().to_string();
        assert_eq!(hex(address(&request(), false)), "c83168097702e4f8d5dc6748771deb1023b416affc823b3e3dc1637d31913871");
        assert_eq!(hex(address(&request(), true)), "d99e2f5a6dda01c1a1cb362f0465fdeaf61d82f66c23c863497b628832715b1a");
    }
}

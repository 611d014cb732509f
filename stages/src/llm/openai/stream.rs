//! A streamed answer put together again: server-sent events in any chunking become the one body that the same server would have
//! sent without streaming, so that kept replies of either way read alike.

use super::events::{Event, Events};
use super::{BROKEN_OFF, envelope, fault};
use crate::llm::Fault;
use serde_json::{Map, Value, json};

/// Ends a stream, where a server says so.
const DONE: &str = "[DONE]";
/// Parts of a message that come in pieces of text.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];
/// Parts of a message that come in pieces of a list.
const LISTS: [&str; 1] = ["reasoning_details"];
/// Choices that one answer holds at most: an index beyond it is nonsense.
const CHOICES_MAX: usize = 128;

/// Takes the bytes of an answer as they come.
#[derive(Default)]
pub struct Assembly {
    form: Form,
    events: Events,
    answer: Answer,
    done: bool,
}

/// What the first byte told.
#[derive(Default)]
enum Form {
    #[default]
    Unknown,
    Stream,
    /// The server did not stream after all: its body.
    Whole(Vec<u8>),
}

impl Assembly {
    /// # Errors
    /// If the server tells of an error, or an event is not what a chunk of an answer is.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let Form::Unknown = self.form {
            self.form = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                None => Form::Unknown,
                Some(b'{' | b'[' | b'<') => Form::Whole(Vec::new()),
                Some(_) => Form::Stream,
            };
        }
        if let Form::Whole(body) = &mut self.form {
            body.extend(bytes);
            return Ok(());
        }
        for event in self.events.push(bytes) {
            self.take(&event)?;
        }
        Ok(())
    }

    /// Whether the server said that nothing follows.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether all that makes an answer is here, also if the connection breaks now.
    pub fn is_complete(&self) -> bool {
        self.answer.is_finished()
    }

    /// The body, once nothing more comes.
    ///
    /// # Errors
    /// If the stream ended before the answer did.
    pub fn finish(mut self) -> Result<Vec<u8>, Fault> {
        if let Form::Whole(body) = self.form {
            return Ok(body);
        }
        if let Some(event) = self.events.finish() {
            let last = self.take(&event);
            // A line that was cut off after the answer's end takes nothing from the answer.
            if !self.answer.is_finished() {
                last?;
            }
        }
        match self.answer.is_finished() {
            true => Ok(self.answer.into_body()),
            false => Err(envelope::passing(BROKEN_OFF)),
        }
    }

    fn take(&mut self, event: &Event) -> Result<(), Fault> {
        if self.done || event.data.is_empty() {
            return Ok(());
        }
        if event.data.trim() == DONE {
            self.done = true;
            return Ok(());
        }
        let chunk: Value = match serde_json::from_str(&event.data) {
            Ok(chunk) => chunk,
            Err(_) if event.name == "error" => json!({"error": event.data}),
            Err(error) => {
                let words = fault::shown(&event.data);
                return Err(envelope::passing(format!("a chunk of the stream is not JSON ({error}): {words}")));
            }
        };
        let told = if event.name == "error" && chunk["error"].is_null() { &chunk } else { &chunk["error"] };
        match told.is_null() {
            true => self.answer.add(chunk),
            false => Err(envelope::told(told)),
        }
    }
}

/// The body so far.
#[derive(Default)]
struct Answer {
    /// All but the choices: `model`, `system_fingerprint`, `usage`, … as they came last.
    fields: Map<String, Value>,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    message: Map<String, Value>,
    finish_reason: Value,
}

impl Answer {
    fn is_finished(&self) -> bool {
        self.choices.first().is_some_and(|choice| choice.finish_reason.is_string())
    }

    fn add(&mut self, chunk: Value) -> Result<(), Fault> {
        let Value::Object(mut chunk) = chunk else {
            return Err(envelope::passing("a chunk of the stream is no JSON object"));
        };
        if let Some(Value::Array(choices)) = chunk.shift_remove("choices") {
            choices.into_iter().try_for_each(|choice| self.add_choice(choice))?;
        }
        let said = chunk.into_iter().filter(|(_, value)| !value.is_null());
        self.fields.extend(said);
        Ok(())
    }

    fn add_choice(&mut self, mut piece: Value) -> Result<(), Fault> {
        if !piece.is_object() {
            return Err(envelope::passing("a chunk of the stream holds a choice that is no JSON object"));
        }
        let index = piece["index"].as_u64().unwrap_or(0) as usize;
        if index >= CHOICES_MAX {
            return Err(envelope::passing(format!("a chunk of the stream belongs to the choice {index}")));
        }
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        let choice = &mut self.choices[index];
        let delta = if piece["delta"].is_object() { "delta" } else { "message" };
        if let Value::Object(delta) = piece[delta].take() {
            delta.into_iter().for_each(|(name, value)| add_part(&mut choice.message, name, value));
        }
        if piece["finish_reason"].is_string() {
            choice.finish_reason = piece["finish_reason"].take();
        }
        if piece["usage"].is_object() {
            self.fields.insert("usage".to_string(), piece["usage"].take());
        }
        Ok(())
    }

    fn into_body(mut self) -> Vec<u8> {
        self.fields.insert("object".to_string(), json!("chat.completion"));
        let choices = self.choices.into_iter().enumerate().map(|(index, choice)| {
            let mut message =
                Map::from_iter([("role".to_string(), json!("assistant")), ("content".into(), Value::Null)]);
            message.extend(choice.message);
            json!({"index": index, "message": message, "finish_reason": choice.finish_reason})
        });
        let choices = Value::Array(choices.collect());
        self.fields.insert("choices".to_string(), choices);
        serde_json::to_vec(&self.fields).expect("JSON is written as JSON")
    }
}

/// One part of a delta: text and lists grow, all else is what came last.
fn add_part(message: &mut Map<String, Value>, name: String, value: Value) {
    if value.is_null() {
        return;
    }
    let grows = TEXTS.contains(&name.as_str()) || LISTS.contains(&name.as_str());
    match (message.get_mut(&name), value) {
        (Some(Value::String(text)), Value::String(more)) if grows => text.push_str(&more),
        (Some(Value::Array(items)), Value::Array(more)) if grows => items.extend(more),
        (_, value) => {
            message.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Reply, Usage};
    use proptest::prelude::*;

    /// The reply that a stream comes to when it arrives in these pieces.
    fn read(pieces: &[&[u8]]) -> Result<Reply, Fault> {
        let mut assembly = Assembly::default();
        pieces.iter().try_for_each(|piece| assembly.push(piece))?;
        envelope::parse(&assembly.finish()?)
    }

    fn chunk(delta: Value, finish: Option<&str>) -> String {
        format!(
            "data: {}\n\n",
            json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        )
    }

    fn typical(end: &str) -> String {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
        [
            ": warming up\n\n".to_string(),
            chunk(json!({"role": "assistant", "content": ""}), None),
            chunk(json!({"reasoning_content": "hm, "}), None),
            chunk(json!({"reasoning_content": "ü"}), None),
            chunk(json!({"content": "The änswer"}), None),
            chunk(json!({"content": " is 🙂.", "reasoning_content": null}), None),
            chunk(json!({}), Some("stop")),
            format!("data: {usage}\n\n{end}"),
        ]
        .concat()
    }

    fn typical_reply() -> Reply {
        Reply {
            text: "The änswer is 🙂.".into(),
            reasoning: Some("hm, ü".into()),
            finish_reason: "stop".into(),
            usage: Usage { tokens_in: 7, tokens_cached: 0, tokens_out: 3 },
            served_by: "m".into(),
        }
    }

    #[test]
    fn a_stream_comes_to_the_reply_that_a_body_would_be() {
        for end in ["", "data: [DONE]\n\n", "data: [DONE]", "data: [DONE]\n\ndata: not read any more\n\n"] {
            assert_eq!(read(&[typical(end).as_bytes()]).unwrap(), typical_reply(), "{end}");
        }
        let refused = chunk(json!({"refusal": "I can"}), None) + &chunk(json!({"refusal": "not."}), Some("stop"));
        let reply = read(&[refused.as_bytes()]).unwrap();
        assert_eq!((reply.text.as_str(), reply.finish_reason.as_str()), ("I cannot.", "refusal"));
        let thought = |text: &str| json!({"reasoning_details": [{"type": "reasoning.text", "text": text}]});
        let pieces =
            [chunk(thought("a"), None), chunk(thought("b"), None), chunk(json!({"content": "c"}), Some("stop"))];
        let reply = read(&[pieces.concat().as_bytes()]).unwrap();
        assert_eq!((reply.text.as_str(), reply.reasoning.as_deref()), ("c", Some("ab")));
    }

    #[test]
    fn a_body_that_is_no_stream_is_read_as_it_is() {
        let body = json!({"choices": [{"message": {"content": "yes"}, "finish_reason": "length"}]}).to_string();
        let (head, tail) = body.as_bytes().split_at(9);
        assert_eq!(read(&[b"\n ", head, tail]).unwrap().text, "yes");
        assert!(matches!(read(&[b"<html>busy</html>"]), Err(Fault::Passing { .. })));
    }

    #[test]
    fn what_ends_early_or_tells_of_an_error_is_a_fault() {
        let begun = chunk(json!({"content": "The"}), None);
        for (stream, words) in [
            ("".to_string(), "ended before"),
            (begun.clone(), "ended before"),
            (format!("{begun}data: [DONE]\n\n"), "ended before"),
            (format!("{begun}data: {{\"error\": {{\"message\": \"overloaded\"}}}}\n\n"), "overloaded"),
            (format!("{begun}event: error\ndata: {{\"message\": \"overloaded\"}}\n\n"), "overloaded"),
            (format!("{begun}event: error\ndata: overloaded\n\n"), "overloaded"),
            (format!("{begun}data: {{\"cho\n\n"), "not JSON"),
            // `transformers serve` writes its words between quotes as they are.
            (format!("{begun}data: {{\"error\": \"out of memory\"}}\n\n"), "an error: out of memory"),
            (format!("{begun}data: {{\"error\": \"no \"x\" here\"}}\n\n"), "no \"x\" here"),
            (format!("{begun}data: 7\n\n"), "no JSON object"),
            (chunk(json!({"content": "The"}), Some("error")), "error"),
            ("data: {\"choices\": [{\"index\": 99999999}]}\n\n".to_string(), "99999999"),
        ] {
            let fault = read(&[stream.as_bytes()]).unwrap_err();
            assert!(matches!(&fault, Fault::Passing { message, .. } if message.contains(words)), "{stream}: {fault}");
        }
        let lasting = r#"data: {"error": {"code": 400, "message": "too long"}}"#;
        assert!(matches!(read(&[lasting.as_bytes()]), Err(Fault::Lasting(words)) if words.contains("too long")));
    }

    #[test]
    fn an_empty_fingerprint_in_chunks_is_none() {
        let piece = |choice: Value| json!({"model": "path@main", "system_fingerprint": "", "choices": [choice]});
        let begun = piece(json!({"index": 0, "delta": {"content": "yes"}}));
        let ended = piece(json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
        let reply = read(&[format!("data: {begun}\n\ndata: {ended}\n\n").as_bytes()]).unwrap();
        assert_eq!((reply.text.as_str(), reply.served_by.as_str()), ("yes", "path@main"));
    }

    #[test]
    fn a_connection_that_breaks_after_the_end_of_the_answer_takes_nothing_from_it() {
        let whole = typical("");
        let cut = whole.rfind("\"usage\"").unwrap();
        let reply = read(&[&whole.as_bytes()[..cut]]).unwrap();
        assert_eq!(reply, Reply { usage: Usage::default(), ..typical_reply() });
    }

    proptest! {
        /// However the network cuts a stream, in the middle of a character too, and however its lines end, the reply is one.
        #[test]
        fn any_cut_gives_the_same_reply(cuts in prop::collection::vec(0usize..2000, 0..30), ending in "\n|\r\n|\r", done in any::<bool>()) {
            let stream = typical(if done { "data: [DONE]\n\n" } else { "" }).replace('\n', &ending).into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
            prop_assert_eq!(read(&pieces).unwrap(), typical_reply());
        }

        /// Whatever bytes come, in whatever pieces: the same reply or a fault with the same words, and no panic.
        #[test]
        fn nonsense_reads_alike_in_any_cut(
            stream in r#"((data|event|id|: x)?(: ?)?(\{"choices":\[\{"delta":\{"content":"ä"\},"finish_reason":("stop"|null)\}\]\}|\[DONE\]|error|[a-z{]{0,4})?(\r|\n|\r\n|\n\n)?){0,8}"#,
            cut in 0usize..400,
        ) {
            let bytes = stream.as_bytes();
            let (left, right) = bytes.split_at(cut % (bytes.len() + 1));
            let words = |read: Result<Reply, Fault>| read.map_err(|fault| fault.to_string());
            prop_assert_eq!(words(read(&[bytes])), words(read(&[left, right])));
        }
    }
}

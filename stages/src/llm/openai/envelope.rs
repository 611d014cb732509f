//! A server's JSON body read as a reply. Tolerant of what servers leave out; strict about what makes an answer an answer.

use super::{fault, usage};
use crate::llm::request::{CUT_OFF, REFUSAL, WITHHELD};
use crate::llm::{Fault, Reply};
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;

const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

/// What is short is borrowed from the body.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: usage::Counters,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    system_fingerprint: Option<Cow<'a, str>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    message: Option<Answer>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Answer {
    content: Option<Value>,
    refusal: Option<String>,
    /// vLLM, SGLang, DeepSeek, llama.cpp.
    reasoning_content: Option<Value>,
    /// OpenRouter, newer vLLM, Ollama.
    reasoning: Option<Value>,
    /// OpenRouter.
    reasoning_details: Option<Value>,
}

/// Reads a body. No choice, no content, or no JSON is no answer: a passing [`Fault`].
pub fn parse(raw: &[u8]) -> Result<Reply, Fault> {
    let unexpected =
        |error: serde_json::Error| passing(format!("the server's answer is not the expected JSON: {error}"));
    // All of it at once: text by text it takes longer.
    let raw =
        std::str::from_utf8(raw).map_err(|error| passing(format!("the server's answer is not UTF-8: {error}")))?;
    let envelope: Envelope = serde_json::from_str(raw).map_err(unexpected)?;
    if let Some(error) = envelope.error.filter(|error| !error.is_null()) {
        return Err(told(&error));
    }
    let choice = envelope.choices.into_iter().next().ok_or_else(|| passing("the server answered without choices"))?;
    let mut answer = choice.message.ok_or_else(|| passing("the server answered without a message"))?;
    let said = choice.finish_reason.unwrap_or(Cow::Borrowed("stop"));
    if matches!(&*said, "error" | "abort") {
        return Err(passing(format!("the server broke its answer off (`finish_reason: {said}`)")));
    }
    let reasoning = [&mut answer.reasoning_content, &mut answer.reasoning, &mut answer.reasoning_details];
    let reasoning = reasoning.into_iter().filter_map(Option::take).find_map(words_of);
    let (text, finish_reason) = answer_of(answer, end_of(&said), reasoning.is_some())?;
    let (thought, text) = split_thought(text);
    let served_by = named(envelope.model, envelope.system_fingerprint);
    let usage = match envelope.usage.usage() {
        Some(usage) => usage,
        None => usage::of_body(&serde_json::from_str(raw).map_err(unexpected)?),
    };
    Ok(Reply { text, reasoning: reasoning.or(thought), finish_reason, usage, served_by })
}

/// The name and the fingerprint; some servers send an empty one in their chunks and none in a body, which are the same model.
fn named(model: Option<Cow<str>>, fingerprint: Option<Cow<str>>) -> String {
    let [model, fingerprint] = [model, fingerprint].map(Option::unwrap_or_default);
    match fingerprint.is_empty() {
        true => model.into_owned(),
        false if model.is_empty() => fingerprint.into_owned(),
        false => format!("{model} {fingerprint}"),
    }
}

/// The text, and how it ended. Whoever has thought and says nothing has answered too.
fn answer_of(answer: Answer, end: String, has_thought: bool) -> Result<(String, String), Fault> {
    let text = answer.content.and_then(text_of);
    let refusal = answer.refusal.filter(|refusal| !refusal.trim().is_empty());
    match (text, refusal) {
        (None, Some(refusal)) => Ok((refusal, REFUSAL.to_string())),
        (Some(text), Some(refusal)) if text.trim().is_empty() => Ok((refusal, REFUSAL.to_string())),
        (Some(text), _) => Ok((text, end)),
        // Cut off while still reasoning, or withheld: complete answers without text.
        (None, None) if has_thought || matches!(end.as_str(), CUT_OFF | WITHHELD | REFUSAL) => Ok((String::new(), end)),
        (None, None) => Err(passing("the server answered without content")),
    }
}

/// One word for what servers call by several.
fn end_of(finish_reason: &str) -> String {
    let word = match finish_reason.to_ascii_lowercase().as_str() {
        "length" | "max_tokens" | "max_output_tokens" | "model_length" => CUT_OFF,
        "content_filter" | "content-filter" | "safety" | "prohibited_content" | "blocklist" | "recitation" => WITHHELD,
        "refusal" => REFUSAL,
        _ => finish_reason,
    };
    word.to_string()
}

/// Content is text, or a list of parts with text in them.
fn text_of(content: Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}

/// Reasoning is text, an object with text or a summary in it, or a list of such; what is encrypted has no words.
fn words_of(reasoning: Value) -> Option<String> {
    let words = match reasoning {
        Value::String(text) => text,
        Value::Array(parts) => parts.into_iter().filter_map(words_of).collect(),
        Value::Object(mut part) => {
            ["text", "summary", "content"].iter().find_map(|key| words_of(part.get_mut(*key)?.take()))?
        }
        _ => return None,
    };
    (!words.is_empty()).then_some(words)
}

/// Splits a leading `<think>…</think>` off; some templates leave the opening mark out. A thought that never ends is no answer.
fn split_thought(text: String) -> (Option<String>, String) {
    let Some(end) = text.find(THINK_CLOSE) else {
        return match text.trim_start().strip_prefix(THINK_OPEN) {
            Some(thought) => (Some(thought.trim().to_string()), String::new()),
            None => (None, text),
        };
    };
    let before = text[..end].trim_start();
    let thought = before.strip_prefix(THINK_OPEN).unwrap_or(before);
    if thought.contains(THINK_OPEN) {
        return (None, text);
    }
    let answer = text[end + THINK_CLOSE.len()..].trim_start().to_string();
    (Some(thought.trim().to_string()), answer)
}

/// The fault that an error inside an answer tells of: by its code, where that is a status.
pub fn told(error: &Value) -> Fault {
    let words = error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_string);
    match error["code"].as_u64() {
        Some(status @ 400..=499) => fault::of_status(status as u16, words.as_bytes(), None),
        _ => passing(format!("the server answered with an error: {words}")),
    }
}

/// The body of an answer that a server's filter withheld before there was one.
pub fn withheld(words: &str) -> Vec<u8> {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": null}, "finish_reason": WITHHELD});
    json!({"object": "chat.completion", "choices": [choice], "words": words}).to_string().into_bytes()
}

pub fn passing(message: impl Into<String>) -> Fault {
    Fault::Passing { message: message.into(), retry_after_ms: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::Usage;

    fn read(message: Value, finish_reason: &str) -> Option<(String, Option<String>, String)> {
        let raw = json!({"choices": [{"message": message, "finish_reason": finish_reason}]}).to_string();
        parse(raw.as_bytes()).ok().map(|reply| (reply.text, reply.reasoning, reply.finish_reason))
    }

    #[test]
    fn complete_answers_are_replies_and_others_are_faults() {
        let reply = |text: &str, thought: Option<&str>, reason: &str| {
            Some((text.to_string(), thought.map(str::to_string), reason.to_string()))
        };
        for (message, finish, expected) in [
            (json!({"content": "yes"}), "stop", reply("yes", None, "stop")),
            (json!({"content": ""}), "stop", reply("", None, "stop")),
            (json!({"content": "cut o"}), "length", reply("cut o", None, "length")),
            (json!({"content": null}), "length", reply("", None, "length")),
            (json!({"content": null}), "content_filter", reply("", None, "content_filter")),
            (json!({"content": null, "refusal": "no"}), "stop", reply("no", None, "refusal")),
            (json!({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}), "stop", reply("ab", None, "stop")),
            (json!({"content": "<think>\nhm\n</think>\n\nyes"}), "stop", reply("yes", Some("hm"), "stop")),
            (json!({"content": "hm</think>yes"}), "stop", reply("yes", Some("hm"), "stop")),
            (json!({"content": "yes", "reasoning_content": "hm"}), "stop", reply("yes", Some("hm"), "stop")),
            (json!({"content": "yes", "reasoning": "hm"}), "stop", reply("yes", Some("hm"), "stop")),
            (json!({"content": "yes", "reasoning_content": null}), "stop", reply("yes", None, "stop")),
            (json!({"content": "yes", "reasoning": {"summary": "hm"}}), "stop", reply("yes", Some("hm"), "stop")),
            (
                json!({"content": "yes", "reasoning": null, "reasoning_details": [
                    {"type": "reasoning.summary", "summary": "h"}, {"type": "reasoning.text", "text": "m"},
                    {"type": "reasoning.encrypted", "data": "eyJ"}]}),
                "stop",
                reply("yes", Some("hm"), "stop"),
            ),
            (json!({"content": "<think>\nhm, so"}), "length", reply("", Some("hm, so"), "length")),
            (json!({"content": "<think>hm</think>"}), "stop", reply("", Some("hm"), "stop")),
            (json!({"content": null, "reasoning_content": "hm"}), "stop", reply("", Some("hm"), "stop")),
            (json!({"content": "", "refusal": "no"}), "stop", reply("no", None, "refusal")),
            (json!({"content": "yes", "refusal": ""}), "stop", reply("yes", None, "stop")),
            (json!({"content": "cut o"}), "MAX_TOKENS", reply("cut o", None, "length")),
            (json!({"content": ""}), "SAFETY", reply("", None, "content_filter")),
            (json!({"content": "The"}), "error", None),
            (json!({"content": null}), "stop", None),
            (json!({}), "stop", None),
        ] {
            assert_eq!(read(message.clone(), finish), expected, "{message} {finish}");
        }
    }

    #[test]
    fn broken_envelopes_are_passing_faults() {
        for raw in ["", "<html>", "{}", "[]", "{\"choices\": []}", "{\"choices\": [{}]}", "{\"choices\": [{\"mess"] {
            assert!(matches!(parse(raw.as_bytes()), Err(Fault::Passing { .. })), "{raw}");
        }
        let fault = parse(br#"{"error": {"message": "overloaded"}}"#).unwrap_err();
        assert!(fault.to_string().contains("overloaded"));
    }

    #[test]
    fn an_error_in_an_answer_is_sorted_by_its_code() {
        let fault =
            |code: Value| parse(json!({"error": {"message": "no", "code": code}}).to_string().as_bytes()).unwrap_err();
        for code in [json!(502), json!("rate_limit"), json!(null)] {
            assert!(matches!(fault(code.clone()), Fault::Passing { .. }), "{code}");
        }
        assert!(matches!(fault(json!(429)), Fault::Refused { .. }));
        assert!(matches!(fault(json!(400)), Fault::Lasting(_)));
    }

    #[test]
    fn an_answer_that_was_withheld_is_a_reply() {
        let reply = parse(&withheld("filtered")).unwrap();
        assert_eq!((reply.text.as_str(), reply.finish_reason.as_str()), ("", "content_filter"));
    }

    #[test]
    fn usage_and_the_served_model_are_read() {
        let raw = json!({
            "choices": [{"message": {"content": "a"}}], "model": "m-1", "system_fingerprint": "fp",
            "usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}},
        });
        let reply = parse(raw.to_string().as_bytes()).unwrap();
        assert_eq!(reply.usage, Usage { tokens_in: 10, tokens_cached: 6, tokens_out: 4 });
        assert_eq!(reply.served_by, "m-1 fp");
    }

    proptest::proptest! {
        /// Whatever a server sends, it is a reply or a fault.
        #[test]
        fn no_body_panics(content in ".*", key in "choices|message|content|usage|[a-z]{3}", cut in 0usize..200) {
            let raw = json!({"choices": [{"message": {"content": content}, key.clone(): key}], "usage": {"prompt_tokens": content}});
            let raw = raw.to_string().into_bytes();
            _ = parse(&raw);
            proptest::prop_assert!(parse(&raw[..cut.min(raw.len() - 1)]).is_err());
            _ = parse(content.as_bytes());
        }

        /// Splitting a thought off loses nothing but the marks and the space around them.
        #[test]
        fn a_thought_and_an_answer_are_told_apart(thought in "[a-z ]{0,20}", answer in "[a-z ]{0,20}") {
            let (found, text) = split_thought(format!("<think>{thought}</think>\n{answer}"));
            proptest::prop_assert_eq!(found.as_deref(), Some(thought.trim()));
            proptest::prop_assert_eq!(text, answer.trim_start());
        }
    }
}

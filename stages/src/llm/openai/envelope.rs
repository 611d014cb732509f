//! A server's JSON body read as a reply. Tolerant of what servers leave out; strict about what makes an answer an answer.

use crate::llm::{Fault, Reply, Usage};
use serde::Deserialize;
use serde_json::Value;

const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Value>,
    model: Option<String>,
    system_fingerprint: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Option<Answer>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    content: Option<Value>,
    refusal: Option<String>,
    /// vLLM, SGLang, DeepSeek.
    reasoning_content: Option<String>,
    /// OpenRouter, newer vLLM.
    reasoning: Option<String>,
}

/// Reads a body. No choice, no content, or no JSON is no answer: a passing [`Fault`].
pub fn parse(raw: &[u8]) -> Result<Reply, Fault> {
    let envelope: Envelope = serde_json::from_slice(raw)
        .map_err(|error| passing(format!("the server's answer is not the expected JSON: {error}")))?;
    if let Some(error) = envelope.error.filter(|error| !error.is_null()) {
        return Err(passing(format!("the server answered with an error: {}", words(&error))));
    }
    let choice = envelope.choices.into_iter().next().ok_or_else(|| passing("the server answered without choices"))?;
    let answer = choice.message.ok_or_else(|| passing("the server answered without a message"))?;
    let mut finish_reason = choice.finish_reason.unwrap_or_else(|| "stop".to_string());
    let text = match (answer.content.as_ref().and_then(text_of), answer.refusal) {
        (Some(text), _) => text,
        (None, Some(refusal)) => {
            finish_reason = "refusal".to_string();
            refusal
        }
        // Cut off while still reasoning, or withheld: complete answers without text.
        (None, None) if matches!(finish_reason.as_str(), "length" | "content_filter") => String::new(),
        (None, None) => return Err(passing("the server answered without content")),
    };
    let (thought, text) = split_thought(text);
    let served_by = [envelope.model, envelope.system_fingerprint].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Ok(Reply {
        text,
        reasoning: answer.reasoning_content.or(answer.reasoning).or(thought),
        finish_reason,
        usage: envelope.usage.map(|usage| read_usage(&usage)).unwrap_or_default(),
        served_by,
    })
}

/// Content is text, or a list of parts with text in them.
fn text_of(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}

/// Splits a leading `<think>…</think>` off; some templates leave the opening mark out.
fn split_thought(text: String) -> (Option<String>, String) {
    let Some(end) = text.find(THINK_CLOSE) else { return (None, text) };
    let before = text[..end].trim_start();
    let thought = before.strip_prefix(THINK_OPEN).unwrap_or(before);
    if thought.contains(THINK_OPEN) {
        return (None, text);
    }
    let answer = text[end + THINK_CLOSE.len()..].trim_start().to_string();
    (Some(thought.trim().to_string()), answer)
}

fn read_usage(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    Usage {
        tokens_in: count(&usage["prompt_tokens"]),
        tokens_cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
        tokens_out: count(&usage["completion_tokens"]),
    }
}

fn words(error: &Value) -> String {
    error["message"].as_str().map_or_else(|| error.to_string(), str::to_string)
}

fn passing(message: impl Into<String>) -> Fault {
    Fault::Passing { message: message.into(), retry_after_ms: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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

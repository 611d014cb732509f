//! What is sent: one request as the JSON that endpoints understand.

use super::settings::OpenAiSettings;
use crate::llm::{ReplyFormat, Request};
use serde_json::{Map, Value, json};

/// Questions repeated after an unparsable reply lie this far apart in seeds, so that they never meet another sample's.
const SEEDS_PER_ASK: u64 = 1 << 20;

/// The JSON body of a request.
pub fn body(settings: &OpenAiSettings, request: &Request) -> Value {
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

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;
    use crate::llm::{Message, Task};

    fn request() -> Request {
        let task = Task { name: "solve", row_id: "secret-row".into(), row: Map::new() };
        Request::new("Why?".to_string(), ReplyFormat::Json, task)
    }

    #[test]
    fn the_body_holds_what_was_set_and_nothing_of_the_task() {
        let plain = body(&settings(json!({"model": "m", "json_mode": false})), &request());
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
        assert_eq!(body(&settings(full), &asked), expected);
    }
}

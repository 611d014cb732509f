//! What is sent: one request as the JSON that endpoints understand.

use super::dialect;
use super::settings::OpenAiSettings;
use crate::llm::Request;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Questions repeated after an unparsable reply lie this far apart in seeds, so that they never meet another sample's.
const SEEDS_PER_ASK: u64 = 1 << 20;
/// Of text that is looked through at a time.
const CHUNK_BYTES: usize = 32;

/// The JSON body of a request, written in one go: its messages are long, and there are many requests.
pub fn bytes(settings: &OpenAiSettings, request: &Request) -> Vec<u8> {
    let mut fields = fields(settings, request);
    let [model, messages] = ["model", "messages"].map(|name| fields.shift_remove(name));
    let mut out = Vec::with_capacity(request.bytes() + request.bytes() / 8 + 256);
    out.extend(b"{\"model\":");
    match &model {
        Some(model) => write(model, &mut out),
        None => write(&settings.model, &mut out),
    }
    out.extend(b",\"messages\":");
    match &messages {
        Some(messages) => write(messages, &mut out),
        None => write_messages(settings, request, &mut out),
    }
    for (name, value) in &fields {
        out.push(b',');
        write(name, &mut out);
        out.push(b':');
        write(value, &mut out);
    }
    out.push(b'}');
    out
}

/// The same, to be changed.
pub fn body(settings: &OpenAiSettings, request: &Request) -> Value {
    serde_json::from_slice(&bytes(settings, request)).expect("we wrote it")
}

fn write_messages(settings: &OpenAiSettings, request: &Request, out: &mut Vec<u8>) {
    // A prompt's own system message takes the place of the model's: some chat templates know one only.
    let own_system = request.messages.first().is_some_and(|message| message.role == "system");
    let system = settings.system.iter().filter(|_| !own_system).map(|system| ("system", system.as_str()));
    let asked = request.messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
    for (index, (role, content)) in system.chain(asked).enumerate() {
        out.extend_from_slice(if index == 0 { b"[{\"role\":" } else { b",{\"role\":" });
        write_text(role, out);
        out.extend(b",\"content\":");
        write_text(content, out);
        out.push(b'}');
    }
    out.push(b']');
}

/// A string as serde_json writes it. Messages are long and hold little that must be escaped, so many bytes are looked at at a time.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    out.push(b'"');
    loop {
        let (plain, special) = rest.split_at(plain_bytes(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
        rest = after;
    }
    out.push(b'"');
}

/// How many bytes at the beginning stand in a JSON string as they are.
fn plain_bytes(bytes: &[u8]) -> usize {
    let is_plain = |byte: &u8| (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\');
    // Without an early end within a chunk, so that the compiler makes it a few wide comparisons.
    let chunks = bytes.chunks_exact(CHUNK_BYTES);
    let whole = chunks.take_while(|chunk| chunk.iter().fold(true, |all, byte| all & is_plain(byte))).count();
    let rest = &bytes[whole * CHUNK_BYTES..];
    whole * CHUNK_BYTES + rest.iter().take_while(|byte| is_plain(byte)).count()
}

fn write(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("plain data can be written into memory");
}

/// Everything beside the model and the messages, unless `extra_body` replaces these.
fn fields(settings: &OpenAiSettings, request: &Request) -> Map<String, Value> {
    let mut fields = Map::new();
    let seed = settings
        .seed
        .map(|seed| seed.wrapping_add(request.sample.into()).wrapping_add(u64::from(request.ask) * SEEDS_PER_ASK));
    let format = dialect::field(settings.structured(), settings.dialect, request.format);
    // A batch has no one who could take pieces.
    let stream = (settings.stream.0 && !settings.batch.0).then(|| json!(true));
    let optional = [
        ("temperature", settings.temperature.map(Value::from)),
        ("top_p", settings.top_p.map(Value::from)),
        (settings.max_tokens_field.as_str(), settings.max_tokens.map(Value::from)),
        ("seed", seed.map(Value::from)),
        ("reasoning_effort", settings.reasoning_effort.clone().map(Value::from)),
        ("stream_options", stream.is_some().then(|| json!({"include_usage": true}))),
        ("stream", stream),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
    fields.extend(format.map(|(name, value)| (name.to_string(), value)));
    fields.extend(settings.extra_body.clone());
    fields
}

/// What to do where a server refuses a request with these words because of a field that only the recipe brings in.
pub fn hint(extra: &Map<String, Value>, words: &str) -> Option<String> {
    let is_named =
        |name: &&String| ["'", "\"", "`"].iter().any(|quote| words.contains(&format!("{quote}{name}{quote}")));
    let name = extra.keys().find(is_named)?;
    Some(format!("`{name}` stands under `extra_body:` of this model; its server does not take it so"))
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;
    use crate::llm::{Message, ReplyFormat, Task};

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

    #[test]
    fn a_stream_is_asked_for_with_its_usage_and_extra_fields_win() {
        let streamed = body(&settings(json!({"model": "m", "stream": true})), &request());
        assert_eq!((&streamed["stream"], &streamed["stream_options"]), (&json!(true), &json!({"include_usage": true})));
        let extra = json!({"temperature": 1, "reasoning_effort": "high", "response_format": {"type": "text"}});
        let written = json!({"model": "m", "temperature": 0, "reasoning_effort": "low", "extra_body": extra});
        let sent = body(&settings(written), &request());
        assert!(extra.as_object().unwrap().iter().all(|(name, value)| sent[name] == *value), "{sent}");
    }

    #[test]
    fn a_prompts_own_system_message_takes_the_place_of_the_models() {
        let mut asked = request();
        asked.messages.insert(0, Message { role: "system".into(), content: "Be exact.".into() });
        let sent = body(&settings(json!({"model": "m", "system": "Be brief."})), &asked);
        let said: Vec<&Value> = sent["messages"].as_array().unwrap().iter().map(|one| &one["content"]).collect();
        assert_eq!(said, ["Be exact.", "Why?"]);
    }

    proptest::proptest! {
        #[test]
        fn text_is_written_as_serde_json_writes_it(text in "([a-z ]{0,40}|[\\x00-\\x22\\x5c\\x7fé😀]{0,4}){0,6}") {
            let mut out = Vec::new();
            write_text(&text, &mut out);
            proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn a_refused_extra_field_is_found_in_the_recipe() {
        let extra = json!({"top_k": 5, "x": 1});
        let hint = |words: &str| hint(extra.as_object().unwrap(), words);
        let told = hint("the server answered 422: Unexpected fields in the request: {'top_k'}").unwrap();
        assert!(told.contains("`top_k`") && told.contains("`extra_body:`"), "{told}");
        assert_eq!(hint("the server answered 400: exceeded 'max_tokens'"), None);
    }
}

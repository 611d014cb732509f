//! How servers want to be told that a reply shall be JSON, and of which shape.

use crate::llm::{ReplyFormat, Shape};
use serde_json::{Value, json};

crate::choice! {
    /// What is demanded of a server where a prompt demands JSON.
    pub enum Structured {
        /// Nothing: the prompt alone says it.
        "none" => None,
        /// Some JSON object.
        "json" => Json,
        /// JSON of the shape that the kind reads, where it knows one.
        "schema" => Schema,
    }
}

crate::choice! {
    /// How a server is told a schema.
    pub enum Dialect {
        /// `response_format` with `json_schema`.
        "openai" => OpenAi,
        /// `structured_outputs`, from vLLM 0.12 on.
        "vllm" => Vllm,
        /// `guided_json`, before vLLM 0.12.
        "vllm_guided" => VllmGuided,
        /// As OpenAI.
        "sglang" => Sglang,
        /// `response_format` with the bare `schema` in it.
        "llamacpp" => LlamaCpp,
        /// As OpenAI, below `/v1`.
        "ollama" => Ollama,
    }
}

/// What a server's words name when it does not take one of these fields.
const FIELDS: [&str; 6] =
    ["response_format", "json_schema", "json_object", "structured_outputs", "guided_json", "schema"];

/// The field that demands a format, and its value.
pub fn field(structured: Structured, dialect: Dialect, format: ReplyFormat) -> Option<(&'static str, Value)> {
    match (structured, format) {
        (Structured::None, _) | (_, ReplyFormat::Text) => None,
        (Structured::Schema, ReplyFormat::Schema(shape)) => Some(schema(dialect, shape)),
        _ => Some(("response_format", json!({"type": "json_object"}))),
    }
}

fn schema(dialect: Dialect, Shape { name, schema }: &Shape) -> (&'static str, Value) {
    demand(dialect, name, schema)
}

/// The field in which a server of this dialect is told a schema, and its value.
pub fn demand(dialect: Dialect, name: &str, schema: &Value) -> (&'static str, Value) {
    match dialect {
        Dialect::OpenAi | Dialect::Sglang | Dialect::Ollama => {
            let named = json!({"name": name, "schema": schema, "strict": true});
            ("response_format", json!({"type": "json_schema", "json_schema": named}))
        }
        Dialect::LlamaCpp => ("response_format", json!({"type": "json_object", "schema": schema})),
        Dialect::Vllm => ("structured_outputs", json!({"json": schema})),
        Dialect::VllmGuided => ("guided_json", schema.clone()),
    }
}

/// Fields by which a format is demanded; in an error they mean nothing else.
const DEMANDS: [&str; 4] = ["response_format", "json_schema", "structured_outputs", "guided_json"];

/// Whether a server stumbled (500) over the format that was demanded: it would do so again, where others refuse it.
pub fn stumbles(structured: Structured, words: &str) -> bool {
    let is_internal = words.starts_with("the server answered 500");
    structured != Structured::None && is_internal && DEMANDS.iter().any(|field| words.contains(field))
}

/// What to do where a server refuses a request with these words because of the format that was demanded.
pub fn hint(structured: Structured, words: &str) -> Option<&'static str> {
    let named = FIELDS.iter().any(|field| words.contains(field));
    match structured {
        Structured::Schema if named => Some(
            "this model is asked for a schema; name its server's `dialect:`, or write `structured: json` or `structured: none`",
        ),
        Structured::Json if named => {
            Some("this model is asked for a JSON object; write `structured: none` if its server cannot do that")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    static SHAPE: Shape = Shape { name: "label", schema: LazyLock::new(|| json!({"type": "object"})) };

    #[test]
    fn each_server_is_told_in_its_own_words() {
        let object = json!({"type": "json_object"});
        let named = json!({"type": "json_schema",
            "json_schema": {"name": "label", "schema": {"type": "object"}, "strict": true}});
        let shaped = ReplyFormat::Schema(&SHAPE);
        use {Dialect::*, Structured as S};
        for (structured, dialect, format, expected) in [
            (S::Schema, OpenAi, shaped, Some(("response_format", named.clone()))),
            (S::Schema, Sglang, shaped, Some(("response_format", named.clone()))),
            (S::Schema, Ollama, shaped, Some(("response_format", named))),
            (
                S::Schema,
                LlamaCpp,
                shaped,
                Some(("response_format", json!({"type": "json_object", "schema": {"type": "object"}}))),
            ),
            (S::Schema, Vllm, shaped, Some(("structured_outputs", json!({"json": {"type": "object"}})))),
            (S::Schema, VllmGuided, shaped, Some(("guided_json", json!({"type": "object"})))),
            (S::Schema, Vllm, ReplyFormat::Json, Some(("response_format", object.clone()))),
            (S::Schema, Vllm, ReplyFormat::Text, None),
            (S::Json, Vllm, ReplyFormat::Json, Some(("response_format", object))),
            (S::Json, OpenAi, ReplyFormat::Text, None),
            (S::None, OpenAi, ReplyFormat::Json, None),
        ] {
            assert_eq!(field(structured, dialect, format), expected, "{structured:?} {dialect:?} {format:?}");
        }
    }

    #[test]
    fn a_refused_format_names_the_setting() {
        let refused = "the server answered 400: 'response_format.type' must be 'json_schema' or 'text'";
        assert!(hint(Structured::Json, refused).unwrap().contains("structured: none"));
        assert!(hint(Structured::Schema, refused).unwrap().contains("dialect"));
        assert_eq!(hint(Structured::None, refused), None);
        let stumbled = "the server answered 500: 1 validation error: {'loc': ('body', 'response_format', 'type')}";
        for (structured, words, expected) in [
            (Structured::Schema, stumbled, true),
            (Structured::Json, stumbled, true),
            (Structured::None, stumbled, false),
            (Structured::Schema, "the server answered 500: Internal Server Error", false),
            (Structured::Schema, "the server answered 503: response_format: not now", false),
        ] {
            assert_eq!(stumbles(structured, words), expected, "{words}");
        }
        assert_eq!(hint(Structured::Json, "the server answered 400: the model `m` does not exist"), None);
    }
}

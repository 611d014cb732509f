//! The shapes of JSON that the kinds read, as schemas for servers that keep to one. What comes is read by the kind's parser all the
//! same. Every property is required and none may be added: the strict modes of servers want it so.

use super::filter::Label;
use super::prompts::PromptForm;
use crate::chain::Action;
use crate::llm::Shape;
use serde_json::{Value, json};
use std::sync::LazyLock;

static CHAIN: Shape = Shape { name: "chain", schema: LazyLock::new(chain) };
static LABEL: Shape = Shape {
    name: "label",
    schema: LazyLock::new(|| {
        object(json!({"reason": {"type": "string"}, "label": {"enum": Label::WORDS, "type": "string"}}))
    }),
};
static REFORMATTED: Shape = Shape {
    name: "reformatted",
    schema: LazyLock::new(|| object(json!({"question": {"type": "string"}, "answer": {"type": "string"}}))),
};
static THOUGHT: Shape =
    Shape { name: "thought", schema: LazyLock::new(|| object(json!({"NaturalReasoning": {"type": "string"}}))) };

/// The shape of the replies to a prompt; none where they are free text.
pub fn of(form: &PromptForm) -> Option<&'static Shape> {
    match form.name {
        "cot" | "search" | "reveal" => Some(&CHAIN),
        "filter" => Some(&LABEL),
        "reformat" => Some(&REFORMATTED),
        "rewrite" | "rewrite_simple" => Some(&THOUGHT),
        _ => None,
    }
}

fn chain() -> Value {
    let text = json!({"type": "string"});
    let action = |actions: &[Action]| {
        let words: Vec<&str> = actions.iter().map(|action| action.word()).collect();
        json!({"type": "string", "enum": words})
    };
    let thinking = object(json!({"action": action(&[Action::InnerThinking]), "title": text, "content": text}));
    let other = object(json!({"action": action(&[Action::FinalConclusion, Action::Verification]), "content": text}));
    object(json!({"CoT": {"type": "array", "items": {"anyOf": [thinking, other]}}}))
}

fn object(properties: Value) -> Value {
    let names: Vec<&String> = properties.as_object().expect("properties are a mapping").keys().collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::prompts;

    /// A prompt and its schema must not ask for different things.
    #[test]
    fn every_prompt_that_demands_json_has_the_shape_that_it_shows() {
        for (form, names) in [
            (&prompts::COT, vec!["CoT"]),
            (&prompts::SEARCH, vec!["CoT"]),
            (&prompts::REVEAL, vec!["CoT"]),
            (&prompts::FILTER, vec!["reason", "label"]),
            (&prompts::REFORMAT, vec!["question", "answer"]),
            (&prompts::REWRITE, vec!["NaturalReasoning"]),
            (&prompts::REWRITE_SIMPLE, vec!["NaturalReasoning"]),
        ] {
            let shape = of(form).unwrap();
            assert_eq!(shape.schema["required"], json!(names), "{}", form.name);
            let prompt = form.embedded();
            assert!(names.iter().all(|name| prompt.contains(&format!("\"{name}\""))), "{}", form.name);
        }
        for form in [&prompts::SOLVE, &prompts::VERIFY, &prompts::RESPOND] {
            assert_eq!(of(form), None, "{}", form.name);
        }
    }
}

//! Chat templates after those of public families against transformers' apply_chat_template (`tests/reference/chat/`).

use serde::Deserialize;
use serde_json::{Map, Value};
use stages::model::ChatTemplate;
use stages::model::chat::{Clock, Variables};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// When the references were made, by their clock: 2025-03-09 14:05:07.
const NOW: Clock = Clock(1_741_529_107);

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Value,
    variables: Map<String, Value>,
    add_generation_prompt: bool,
    expected: Option<String>,
    objection: Option<String>,
}

fn reference(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/chat");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn prompts_are_those_of_transformers_byte_for_byte() {
    let cases: Vec<Case> = serde_json::from_str(&reference("cases.json")).unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases {
        let Case { template, messages, variables: values, add_generation_prompt, expected, objection } = case;
        let source = reference(&format!("{template}.jinja"));
        let chat = ChatTemplate::new(source, "<|im_start|>", "<|endoftext|>");
        let rendered = chat.render_with(&messages, add_generation_prompt, &Variables { values, clock: NOW });
        match (rendered, expected, objection) {
            (Ok(found), Some(expected), None) => assert_eq!(found, expected, "{template}: {messages}"),
            (Err(found), None, Some(expected)) => assert!(found.to_string().contains(&expected), "{template}: {found}"),
            (found, ..) => panic!("{template}: {messages}: {found:?}"),
        }
        *counts.entry(template).or_default() += 1;
    }
    let families = ["gemma", "idioms", "llama3", "mistral", "phi3", "qwen2_5", "qwen3"];
    assert_eq!(counts.keys().collect::<Vec<_>>(), families);
    assert!(counts.iter().all(|(family, &count)| count >= 10 || family == "idioms"), "{counts:?}");
}

#[test]
fn the_date_stands_still_unless_it_is_set() {
    let chat = ChatTemplate::new(reference("llama3.jinja"), "", "");
    assert!(chat.prompt("x").unwrap().contains("Today Date: 26 Jul 2024"));
    let today = Variables { clock: NOW, ..Variables::default() };
    let messages = serde_json::json!([{"role": "user", "content": "x"}]);
    assert!(chat.render_with(&messages, true, &today).unwrap().contains("Today Date: 09 Mar 2025"));
}

//! Prompt templates, `where:` expressions and the chat templates of foreign models: parsed, checked and rendered.
//!
//! Input: `e` for an expression, `c` for a chat template, any other byte for a prompt; its text; after a zero byte the row as a JSON
//! object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use stages::model::chat::{ChatTemplate, Message};
use stages::prompt::Prompt;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::Reader;
use stages::template::LONGEST_BYTES;

fuzz_target!(|data: &[u8]| {
    let Some((form, data)) = data.split_first() else { return };
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Ok(text) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let row = serde_json::from_slice(parts.next().unwrap_or_default()).unwrap_or_else(|_| usual_row());
    match form {
        b'e' => filter(text, &row),
        b'c' => chat(text, &row),
        _ => render(text, &row),
    }
});

fn usual_row() -> Map<String, Value> {
    let steps = json!([{"action": "Inner Thinking", "title": "a", "content": "b"}]);
    let row = json!({"question": "why?", "answer": "so", "number": 3, "options": {"A": "x", "B": "y"}, "steps": steps});
    row.as_object().cloned().unwrap_or_default()
}

fn render(text: &str, row: &Map<String, Value>) {
    let offered: Vec<&str> = row.keys().map(String::as_str).collect();
    let mut reader = Reader::default();
    match Prompt::read(text, &offered, &["question"], &mut reader) {
        Some(prompt) => {
            let rendered = prompt.render(row).unwrap_or_default();
            assert!(rendered.len() <= LONGEST_BYTES);
        }
        None => assert!(!reader.mistakes.is_empty(), "a prompt is refused with a reason"),
    }
}

fn chat(template: &str, row: &Map<String, Value>) {
    let messages = row.iter().map(|(role, value)| Message { role: role.clone(), content: value.to_string() });
    let template = ChatTemplate::new(template, "<s>", "</s>");
    let rendered = template.render(&messages.collect::<Vec<_>>(), true).unwrap_or_default();
    assert!(rendered.len() <= LONGEST_BYTES);
}

fn filter(expression: &str, row: &Map<String, Value>) {
    let columns = row.keys().map(|name| Column { name: name.clone(), column_type: ColumnType::Json });
    let mut rows = Rows::new(columns.collect());
    rows.rows.push(Row { id: "r".to_string(), cells: row.values().cloned().collect() });
    if let Some(stage) = fuzz::stage("filter", json!({"input": "x", "where": expression})) {
        _ = stage.run(fuzz::input(rows), &*fuzz::context());
    }
}

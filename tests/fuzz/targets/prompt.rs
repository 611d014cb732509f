//! Prompt templates, `where:` expressions and the chat templates of foreign models: parsed, checked and rendered.
//!
//! Input: `e` for an expression, `c` for a chat template, any other byte for a prompt; its text; after a zero byte the row as a JSON
//! object.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Map, Value, json};
use stages::model::chat::{ChatTemplate, Message};
use stages::prompt::Prompt;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::settings::Reader;
use stages::template::LONGEST_BYTES;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((form, data)) = data.split_first() else { return Corpus::Reject };
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Ok(text) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return Corpus::Reject };
    if multiplies(text, *form == b'e') {
        return Corpus::Reject;
    }
    let row = serde_json::from_slice(parts.next().unwrap_or_default()).unwrap_or_else(|_| usual_row());
    match form {
        b'e' => filter(text, &row),
        b'c' => chat(text, &row),
        _ => render(text, &row),
    }
    Corpus::Keep
});

/// minijinja makes up to 100 MB in one multiplication and has no bound for several: steps and bytes of the result are bounded here,
/// what lies between is up to the author of a template. So no products, and no large numbers.
fn multiplies(text: &str, is_expression: bool) -> bool {
    let grows =
        |code: &str| code.contains('*') || code.as_bytes().windows(4).any(|four| four.iter().all(u8::is_ascii_digit));
    let code = |tag: &str| tag.find("}}").or(tag.find("%}")).map_or(tag.len(), |end| end);
    (is_expression && grows(text)) || text.split('{').skip(1).any(|tag| grows(&tag[..code(tag)]))
}

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

//! Examples that a node shows a model before it asks: in the recipe, or one a line in a file that counts by its bytes.

use crate::prompt::Example;
use crate::settings::{Reader, Setting, Step};
use serde_json::{Map, Value, json};
use std::path::Path;

/// `examples:` of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Examples {
    Listed(Vec<Example>),
    /// A JSONL file.
    File(String),
}

impl Setting for Examples {
    fn read(value: &Value, reader: &mut Reader) -> Option<Examples> {
        match value {
            Value::String(path) => Some(Examples::File(path.clone())),
            Value::Array(items) => {
                let one = |(index, item): (usize, &Value)| {
                    let note = |reader: &mut Reader, reason: String| reader.mistake("broken-example", reason, None);
                    let read = Example::of(item);
                    read.map_err(|reason| reader.within(Step::Index(index), |reader| note(reader, reason))).ok()
                };
                let read: Vec<Option<Example>> = items.iter().enumerate().map(one).collect();
                read.into_iter().collect::<Option<_>>().map(Examples::Listed)
            }
            other => {
                reader.wrong_type("a list of examples, or a JSONL file of them", other);
                None
            }
        }
    }

    fn schema() -> Value {
        let text = json!({"type": "string"});
        let example = json!({"type": "object", "properties": {"user": text, "assistant": text},
            "required": ["user", "assistant"], "additionalProperties": false});
        json!({"anyOf": [{"type": "array", "items": example}, {"type": "string"}]})
    }
}

/// Those of a node, none where it names none. What is wrong in the recipe itself its settings have told already.
pub fn of(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Vec<Example>> {
    match Examples::read(fields.get("examples").unwrap_or(&Value::Null), &mut Reader::default()) {
        None => Some(Vec::new()),
        Some(Examples::Listed(examples)) => Some(examples),
        Some(Examples::File(named)) => reader.within(Step::Key("examples".to_string()), |reader| {
            let path = reader.path(&named);
            in_file(&path, reader)
        }),
    }
}

fn in_file(path: &Path, reader: &mut Reader) -> Option<Vec<Example>> {
    let bytes = match reader.read_file(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let hint = crate::settings::nearest_file(path);
            let shown = crate::settings::shown_path(path);
            reader.mistake("missing-file", format!("cannot read the examples `{shown}`: {error}"), hint);
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read: Vec<Option<Example>> = lines
        .map(|(index, line)| {
            let value = serde_json::from_str(line).map_err(|error| format!("this line is not JSON: {error}"));
            let note =
                |reason: String| reader.mistake_in("broken-example", path.to_path_buf(), Some(index + 1), reason);
            value.and_then(|value| Example::of(&value)).map_err(note).ok()
        })
        .collect();
    read.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(examples: Value) -> (Option<Vec<Example>>, Vec<(&'static str, Option<usize>)>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("good.jsonl"), "{\"user\": \"a\", \"assistant\": \"b\"}\n\n").unwrap();
        std::fs::write(folder.path().join("bad.jsonl"), "{\"user\": \"a\", \"assistant\": \"b\"}\nno\n{}\n").unwrap();
        let mut reader = Reader::new(folder.path(), None);
        let found = of(json!({"examples": examples}).as_object().unwrap(), &mut reader);
        let line = |place: crate::settings::FilePlace| place.line;
        (found, reader.mistakes.into_iter().map(|mistake| (mistake.code, mistake.file.and_then(line))).collect())
    }

    #[test]
    fn examples_are_read_from_the_recipe_and_from_files() {
        let one = vec![Example { user: "a".into(), assistant: "b".into() }];
        assert_eq!(read(json!([{"user": "a", "assistant": "b"}])), (Some(one.clone()), vec![]));
        assert_eq!(read(json!("good.jsonl")), (Some(one), vec![]));
        assert_eq!(read(json!(null)), (Some(vec![]), vec![]));
        assert_eq!(read(json!("bad.jsonl")), (None, vec![("broken-example", Some(2)), ("broken-example", Some(3))]));
        assert_eq!(read(json!("none.jsonl")), (None, vec![("missing-file", None)]));
    }

    #[test]
    fn a_broken_example_in_the_recipe_is_told_once_with_its_place() {
        let mut reader = Reader::default();
        let value = json!([{"user": "a", "assistant": "b"}, {"user": "a"}]);
        assert_eq!(Examples::read(&value, &mut reader), None);
        assert_eq!(reader.mistakes.len(), 1);
        assert_eq!(reader.mistakes[0].at, [Step::Index(1)]);
        assert_eq!(of(json!({"examples": value}).as_object().unwrap(), &mut reader), Some(vec![]));
        assert_eq!(reader.mistakes.len(), 1);
    }
}

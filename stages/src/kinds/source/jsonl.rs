//! JSON Lines and JSON lists of objects, with every bad line named.

use super::files::{Flaw, Read};
use super::types::Outline;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One object a line; empty lines do not count.
pub fn read_lines(bytes: &[u8]) -> Read {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (mut objects, mut flaws) = (Vec::new(), Vec::new());
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        match read_line(line) {
            Ok(None) => {}
            Ok(Some(object)) => objects.push(object),
            Err(reason) => flaws.push(Flaw { line: Some(index + 1), reason }),
        }
    }
    (objects, flaws)
}

/// An empty line holds none.
pub fn read_line(line: &[u8]) -> Result<Option<Map<String, Value>>, String> {
    parse(line)?.map(object).transpose()
}

/// The same as far as a survey needs it. What is an error of [`read_line`] is one here.
pub fn outline(line: &[u8]) -> Result<Option<Outline<'_>>, String> {
    parse(line)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<Option<T>, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    let parsed = serde_json::from_str(line);
    parsed.map(Some).map_err(|error| format!("{} at column {}", without_place(&error), error.column()))
}

/// A JSON list of objects.
pub fn read_list(bytes: &[u8]) -> Read {
    let items: Vec<Value> = match serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) {
        Ok(Value::Array(items)) => items,
        Ok(_) => return (Vec::new(), vec![Flaw { line: Some(1), reason: "should be a list of objects".to_string() }]),
        Err(error) => {
            let reason = format!("{} at column {}", without_place(&error), error.column());
            return (Vec::new(), vec![Flaw { line: Some(error.line()), reason }]);
        }
    };
    let (mut objects, mut flaws) = (Vec::new(), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match object(item) {
            Ok(object) => objects.push(object),
            Err(reason) => flaws.push(Flaw { line: None, reason: format!("item {}: {reason}", index + 1) }),
        }
    }
    (objects, flaws)
}

fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("should be an object `{{…}}` but is `{}`", shortened(&other.to_string()))),
    }
}

fn shortened(text: &str) -> String {
    let head: String = text.chars().take(40).collect();
    if head.len() < text.len() { format!("{head}…") } else { head }
}

/// What serde_json says without its own "at line 1 column 7": the line is ours to tell.
fn without_place(error: &serde_json::Error) -> String {
    let said = error.to_string();
    said.split(" at line ").next().unwrap_or_default().to_string()
}

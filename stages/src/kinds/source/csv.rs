//! CSV with a header line: cells are text until a whole column reads as numbers, truth values or JSON.

use super::files::{Flaw, Read};
use serde_json::{Map, Value};

/// Every cell as text, an empty one as missing.
pub fn read(bytes: &[u8]) -> Read {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => return (Vec::new(), vec![flaw(&error)]),
    };
    if let Some(flaw) = header_flaw(&header) {
        return (Vec::new(), vec![flaw]);
    }
    let (mut objects, mut flaws) = (Vec::new(), Vec::new());
    for record in reader.records() {
        match record {
            Ok(record) => objects.push(header.iter().map(str::to_string).zip(record.iter().map(cell)).collect()),
            Err(error) => flaws.push(flaw(&error)),
        }
    }
    (objects, flaws)
}

fn header_flaw(header: &csv::StringRecord) -> Option<Flaw> {
    let names: Vec<&str> = header.iter().collect();
    let twice = (1..names.len()).find(|&index| names[..index].contains(&names[index]))?;
    Some(Flaw { line: Some(1), reason: format!("the column `{}` is there twice", names[twice]) })
}

fn cell(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

fn flaw(error: &csv::Error) -> Flaw {
    let line = error.position().map(|position| position.line() as usize);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells where the header has {expected_len}; a cell that holds a comma needs quotes")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8 in cell {}", err.field() + 1),
        _ => error.to_string(),
    };
    Flaw { line, reason }
}

/// Gives each column whose cells all read as something narrower than text that type.
pub fn sharpen(objects: &mut [Map<String, Value>]) {
    let names: Vec<String> = objects.first().map(|row| row.keys().cloned().collect()).unwrap_or_default();
    for name in names {
        for reading in [whole_number, fraction, truth_value, nested] {
            if sharpen_column(objects, &name, reading) {
                break;
            }
        }
    }
}

fn sharpen_column(objects: &mut [Map<String, Value>], name: &str, reading: fn(&str) -> Option<Value>) -> bool {
    let read = |row: &Map<String, Value>| match row.get(name).and_then(Value::as_str) {
        Some(text) => reading(text),
        None => Some(Value::Null),
    };
    let Some(cells) = objects.iter().map(read).collect::<Option<Vec<Value>>>() else { return false };
    for (row, cell) in objects.iter_mut().zip(cells) {
        row.insert(name.to_string(), cell);
    }
    true
}

/// Only what is written as a number would be: `007` and `+3` are names, not numbers.
fn whole_number(text: &str) -> Option<Value> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text).map(Value::from)
}

fn fraction(text: &str) -> Option<Value> {
    let plain = text.strip_prefix('-').unwrap_or(text);
    let named = plain.starts_with('0') && plain.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let digits = plain.starts_with(|first: char| first.is_ascii_digit());
    let number: f64 = if digits && !named { text.parse().ok()? } else { return None };
    serde_json::Number::from_f64(number).map(Value::Number)
}

fn truth_value(text: &str) -> Option<Value> {
    match text {
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => None,
    }
}

fn nested(text: &str) -> Option<Value> {
    text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Value) {
        let (mut objects, flaws) = read(text.as_bytes());
        assert!(flaws.is_empty(), "{:?}", flaws);
        sharpen(&mut objects);
        assert_eq!(json!(objects), expected, "{text}");
    }

    #[test]
    fn cells_are_as_narrow_as_their_whole_column_allows() {
        check("a,b\n1,x\n2,\n", json!([{"a": 1, "b": "x"}, {"a": 2, "b": null}]));
        check("a\n1\n2.50\n1e3\n", json!([{"a": 1.0}, {"a": 2.5}, {"a": 1000.0}]));
        check("a\n007\n1\n", json!([{"a": "007"}, {"a": "1"}]));
        check("a\ninf\n", json!([{"a": "inf"}]));
        check("a\nTrue\nfalse\n", json!([{"a": true}, {"a": false}]));
        check("a\n\"{\"\"A\"\": \"\"x, y\"\"}\"\n", json!([{"a": {"A": "x, y"}}]));
        check("a\n\"line one\nline two\"\n", json!([{"a": "line one\nline two"}]));
        check("\u{feff}a\r\nx\r\n", json!([{"a": "x"}]));
    }

    #[test]
    fn a_short_line_and_a_doubled_column_are_named() {
        let (_, flaws) = read(b"a,b\n1,2\n3\n");
        assert_eq!((flaws[0].line, flaws.len()), (Some(3), 1));
        assert!(flaws[0].reason.starts_with("1 cells where the header has 2"), "{}", flaws[0].reason);
        assert!(read(b"a,a\n").1[0].reason.contains("`a` is there twice"));
    }
}

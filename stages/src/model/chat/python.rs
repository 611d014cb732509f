//! What chat templates take for granted because Jinja2 runs in Python: how values are printed, methods of strings and mappings, JSON.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

/// Makes `environment` print, call and write JSON as transformers' does.
pub fn teach(environment: &mut Environment) {
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| shown(value));
}

fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    out.write_str(&shown(value)).map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))
}

/// As `str` shows a value.
fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.to_string(),
        _ => quoted(value),
    }
}

/// As `repr` shows a value.
fn quoted(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String => quoted_text(value.as_str().unwrap_or_default()),
        ValueKind::Number => number(&value.to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = items(value).iter().map(quoted).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let entries = pairs(value).map(|(key, value)| format!("{}: {}", quoted(&key), quoted(&value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// In single quotes, unless only double ones spare an escape.
fn quoted_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let escaped = text.chars().map(|character| match character {
        '\\' => "\\\\".to_string(),
        '\n' => "\\n".to_string(),
        '\r' => "\\r".to_string(),
        '\t' => "\\t".to_string(),
        other if other == quote => format!("\\{other}"),
        other if other.is_ascii_control() => format!("\\x{:02x}", other as u32),
        other => other.to_string(),
    });
    format!("{quote}{}{quote}", escaped.collect::<String>())
}

/// Python writes exponents with a sign and two digits.
fn number(text: &str) -> String {
    match text.split_once(['e', 'E']) {
        Some((digits, power)) => {
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
        None => text.to_string(),
    }
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

fn pairs(map: &Value) -> impl Iterator<Item = (Value, Value)> {
    items(map).into_iter().map(|key| {
        let value = map.get_item(&key).unwrap_or_default();
        (key, value)
    })
}

/// Templates call methods of Python values; these are the ones that published chat templates use.
fn method(_: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => of_text(value.as_str().unwrap_or_default(), name, arguments),
        ValueKind::Map => of_map(value, name, arguments),
        _ => None,
    };
    found.ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
}

fn of_map(map: &Value, name: &str, arguments: &[Value]) -> Option<Value> {
    Some(match (name, arguments) {
        ("items", []) => pairs(map).map(|(key, value)| Value::from(vec![key, value])).collect(),
        ("keys", []) => items(map).into(),
        ("values", []) => pairs(map).map(|(_, value)| value).collect(),
        ("get", [key]) => found(map, key).unwrap_or(Value::from(())),
        ("get", [key, instead]) => found(map, key).unwrap_or(instead.clone()),
        _ => return None,
    })
}

fn found(map: &Value, key: &Value) -> Option<Value> {
    map.get_item(key).ok().filter(|value| !value.is_undefined())
}

fn of_text(text: &str, name: &str, arguments: &[Value]) -> Option<Value> {
    let first = arguments.first().and_then(|argument| argument.as_str());
    let second = arguments.get(1);
    Some(match (name, first, second) {
        ("strip", None, _) => text.trim().into(),
        ("lstrip", None, _) => text.trim_start().into(),
        ("rstrip", None, _) => text.trim_end().into(),
        ("strip", Some(characters), _) => text.trim_matches(|c| characters.contains(c)).into(),
        ("lstrip", Some(characters), _) => text.trim_start_matches(|c| characters.contains(c)).into(),
        ("rstrip", Some(characters), _) => text.trim_end_matches(|c| characters.contains(c)).into(),
        ("startswith", ..) => any_of(arguments, |prefix| text.starts_with(prefix)).into(),
        ("endswith", ..) => any_of(arguments, |suffix| text.ends_with(suffix)).into(),
        ("removeprefix", Some(prefix), _) => text.strip_prefix(prefix).unwrap_or(text).into(),
        ("removesuffix", Some(suffix), _) => text.strip_suffix(suffix).unwrap_or(text).into(),
        ("split", None, _) => list(text.split_whitespace()),
        ("split", Some(at), None) if !at.is_empty() => list(text.split(at)),
        ("split", Some(at), Some(most)) if !at.is_empty() => {
            list(text.splitn(usize::try_from(most.clone()).ok()? + 1, at))
        }
        ("rsplit", Some(at), None) if !at.is_empty() => list(text.split(at)),
        ("rsplit", Some(at), Some(most)) if !at.is_empty() => {
            let mut parts: Vec<&str> = text.rsplitn(usize::try_from(most.clone()).ok()? + 1, at).collect();
            parts.reverse();
            list(parts.into_iter())
        }
        ("splitlines", None, _) => list(text.lines()),
        ("replace", Some(old), Some(new)) => match arguments.get(2) {
            None => text.replace(old, new.as_str()?).into(),
            Some(most) => text.replacen(old, new.as_str()?, usize::try_from(most.clone()).ok()?).into(),
        },
        ("join", ..) => {
            let parts: Option<Vec<String>> =
                items(arguments.first()?).iter().map(|part| part.as_str().map(String::from)).collect();
            parts?.join(text).into()
        }
        ("find", Some(part), _) => text.find(part).map_or(-1, |place| text[..place].chars().count() as i64).into(),
        ("count", Some(part), _) => text.matches(part).count().into(),
        ("upper", None, _) => text.to_uppercase().into(),
        ("lower", None, _) => text.to_lowercase().into(),
        ("capitalize", None, _) => capitalized(text).into(),
        ("title", None, _) => titled(text).into(),
        ("isdigit", None, _) => (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).into(),
        ("isspace", None, _) => (!text.is_empty() && text.chars().all(char::is_whitespace)).into(),
        ("isalpha", None, _) => (!text.is_empty() && text.chars().all(char::is_alphabetic)).into(),
        _ => return None,
    })
}

/// `startswith` takes a text or several.
fn any_of(arguments: &[Value], test: impl Fn(&str) -> bool) -> bool {
    let Some(argument) = arguments.first() else { return false };
    match argument.as_str() {
        Some(text) => test(text),
        None => items(argument).iter().filter_map(|one| one.as_str()).any(test),
    }
}

fn list<'a>(parts: impl Iterator<Item = &'a str>) -> Value {
    parts.map(String::from).collect::<Vec<_>>().into()
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + &characters.as_str().to_lowercase()
}

/// Every run of letters begins with a capital one.
fn titled(text: &str) -> String {
    let mut inside = false;
    let mut letter = |character: char| {
        let first = character.is_alphabetic() && !inside;
        inside = character.is_alphabetic();
        if first { character.to_uppercase().to_string() } else { character.to_lowercase().to_string() }
    };
    text.chars().map(&mut letter).collect()
}

/// `json.dumps` with the options that transformers lets templates set; nothing is escaped for HTML.
fn to_json(value: &Value, _: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let style = Style::read(&options)?;
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "an undefined value cannot be written as JSON"));
    }
    let json =
        serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct Style {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
}

impl Style {
    fn read(options: &Kwargs) -> Result<Style, Error> {
        let indent: Option<Value> = options.get("indent")?;
        let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match usize::try_from(indent.clone()) {
            Ok(width) => " ".repeat(width.min(64)),
            Err(_) => indent.to_string(),
        });
        let separators: Option<Value> = options.get("separators")?;
        let separators = match separators.map(|pair| items(&pair)) {
            Some(pair) if pair.len() == 2 => [pair[0].to_string(), pair[1].to_string()],
            _ => [if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()],
        };
        let flag = |name| options.get::<Option<bool>>(name).map(Option::unwrap_or_default);
        Ok(Style { ascii: flag("ensure_ascii")?, sorted: flag("sort_keys")?, indent, separators })
    }

    fn write(&self, json: &Json, depth: usize, out: &mut String) {
        match json {
            Json::Number(value) => out.push_str(&number(&value.to_string())),
            Json::String(text) => self.write_text(text, out),
            Json::Array(items) => self.write_all(items, ['[', ']'], depth, out, |item, out| {
                self.write(item, depth + 1, out);
            }),
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.write_all(&entries, ['{', '}'], depth, out, |(key, value), out| {
                    self.write_text(key, out);
                    out.push_str(&self.separators[1]);
                    self.write(value, depth + 1, out);
                });
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn write_all<T>(
        &self,
        items: &[T],
        [open, close]: [char; 2],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String),
    ) {
        let line =
            |depth: usize| self.indent.as_ref().map(|indent| format!("\n{}", indent.repeat(depth))).unwrap_or_default();
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { &self.separators[0] } else { "" });
            out.push_str(&line(depth + 1));
            write(item, out);
        }
        if !items.is_empty() {
            out.push_str(&line(depth));
        }
        out.push(close);
    }

    fn write_text(&self, text: &str, out: &mut String) {
        let json = Json::from(text).to_string();
        if !self.ascii {
            return out.push_str(&json);
        }
        let mut units = [0; 2];
        for character in json.chars() {
            match character.is_ascii() {
                true => out.push(character),
                false => {
                    character.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")))
                }
            }
        }
    }
}

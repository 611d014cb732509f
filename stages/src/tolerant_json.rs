//! The JSON object that a reply holds, as models write it: in a fence, among words, with trailing commas, comments, Python's
//! literals, quotes of other kinds, line breaks inside texts. Words inside texts are never changed, and what breaks off is not mended.

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

/// Nested deeper than this, nothing is read.
const DEPTH_MAX: usize = 100;
/// Braces that are looked at: a model that goes round in circles writes thousands.
const TRIES_MAX: usize = 1000;

/// Reads the one JSON object of this form that a reply holds, whatever stands around it.
///
/// # Errors
/// With the reason, in words that a model can be told: there is none, it cannot be read, or there are several different ones.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if let Some(whole) = from_first_to_last(text).and_then(|object| serde_json::from_str(object).ok()) {
        return Ok(whole);
    }
    let objects = objects(text).map_err(|reason| format!("the reply's JSON cannot be read: {reason}"))?;
    let last = objects.last().ok_or("the reply holds no JSON object")?;
    let mut fitting = objects.iter().filter_map(|object| Some((object, T::deserialize(object).ok()?)));
    let Some((first, mut value)) = fitting.next() else {
        let error = T::deserialize(last).err().expect("none of them fits");
        return Err(format!("the reply's JSON cannot be read: {error}"));
    };
    for (object, other) in fitting {
        if object != first {
            return Err("the reply holds several different JSON objects of the form that was asked for".to_string());
        }
        value = other;
    }
    Ok(value)
}

fn from_first_to_last(text: &str) -> Option<&str> {
    let (start, end) = text.find('{').zip(text.rfind('}')).filter(|(start, end)| start < end)?;
    Some(&text[start..=end])
}

/// Every object that stands in the text on its own. A brace that opens none is a word like others.
fn objects(text: &str) -> Result<Vec<Value>, String> {
    let (mut found, mut at, mut tries) = (Vec::new(), 0, 0);
    while let Some(start) = text[at..].find('{').map(|brace| at + brace).filter(|_| tries < TRIES_MAX) {
        tries += 1;
        let mut scan = Scan { text, at: start, depth: 0, has_key: false };
        match scan.object() {
            Ok(object) => found.push(object),
            Err(reason) if scan.has_key => return Err(reason),
            Err(_) => scan.at = start + 1,
        }
        at = scan.at;
    }
    Ok(found)
}

/// Reads one value where it stands.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// It has read `"key":` somewhere, so an object was meant.
    has_key: bool,
}

impl Scan<'_> {
    fn object(&mut self) -> Result<Value, String> {
        let mut fields = Map::new();
        self.enter('{')?;
        while !self.leaves('}')? {
            let key = match self.peek()? {
                '"' | '\'' | '“' => self.string()?,
                other => return Err(self.unexpected(other)),
            };
            self.expect(':')?;
            self.has_key = true;
            let value = self.value()?;
            if fields.contains_key(&key) {
                return Err(format!("the key `{key}` stands in one object twice"));
            }
            fields.insert(key, value);
            self.separator('}')?;
        }
        Ok(Value::Object(fields))
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        self.enter('[')?;
        while !self.leaves(']')? {
            items.push(self.value()?);
            self.separator(']')?;
        }
        Ok(Value::Array(items))
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek()? {
            '{' => self.object(),
            '[' => self.array(),
            '"' | '\'' | '“' => self.string().map(Value::String),
            _ => self.word(),
        }
    }

    /// A number or a literal, JSON's or Python's.
    fn word(&mut self) -> Result<Value, String> {
        let rest = &self.text[self.at..];
        let is_part = |character: char| character.is_alphanumeric() || "+-._".contains(character);
        let word = &rest[..rest.find(|character| !is_part(character)).unwrap_or(rest.len())];
        let value = match word {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            "" => return Err(self.unexpected(rest.chars().next().unwrap_or_default())),
            number => match serde_json::from_str::<Number>(number) {
                Ok(number) => Value::Number(number),
                Err(_) if rest.len() == word.len() => return Err(self.broken_off()),
                Err(_) => return Err(format!("`{word}` is no value")),
            },
        };
        self.at += word.len();
        Ok(value)
    }

    /// A text in its quotes. Line breaks may stand in it as they are.
    fn string(&mut self) -> Result<String, String> {
        let close = match self.next()? {
            '“' => '”',
            same => same,
        };
        let mut text = String::new();
        loop {
            match self.next()? {
                character if character == close => return Ok(text),
                '\\' => text.push(self.escaped()?),
                character => text.push(character),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        Ok(match self.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => return self.unicode(),
            same @ ('"' | '\'' | '\\' | '/' | '“' | '”') => same,
            other => return Err(format!("`\\{other}` is no escape of JSON")),
        })
    }

    /// After `\u`: four digits, or two times four for a character beyond them.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.four_digits()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first).ok_or_else(|| "half a character is escaped".to_string());
        }
        if self.next()? != '\\' || self.next()? != 'u' {
            return Err("half a character is escaped".to_string());
        }
        let second = self.four_digits()?.checked_sub(0xDC00).filter(|low| *low < 0x400);
        let code = second.map(|low| 0x10000 + ((first - 0xD800) << 10) + low);
        code.and_then(char::from_u32).ok_or_else(|| "half a character is escaped".to_string())
    }

    fn four_digits(&mut self) -> Result<u32, String> {
        (0..4).try_fold(0, |code, _| {
            let digit = self.next()?;
            digit.to_digit(16).map(|digit| code * 16 + digit).ok_or_else(|| self.unexpected(digit))
        })
    }

    fn enter(&mut self, open: char) -> Result<(), String> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(format!("it is nested more than {DEPTH_MAX} deep")) } else { Ok(()) }
    }

    /// Whether it closes here.
    fn leaves(&mut self, close: char) -> Result<bool, String> {
        let closes = self.peek()? == close;
        if closes {
            self.depth -= 1;
            self.at += close.len_utf8();
        }
        Ok(closes)
    }

    /// A comma, also before the end; or the end, which stays.
    fn separator(&mut self, close: char) -> Result<(), String> {
        match self.peek()? {
            ',' => self.next().map(drop),
            character if character == close => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.peek()? {
            found if found == wanted => self.next().map(drop),
            found => Err(self.unexpected(found)),
        }
    }

    /// The next character that is neither space nor comment; stays there.
    fn peek(&mut self) -> Result<char, String> {
        loop {
            let rest = &self.text[self.at..];
            let next = rest.trim_start();
            self.at += rest.len() - next.len();
            let comment = match next {
                line if line.starts_with("//") => line.find('\n'),
                block if block.starts_with("/*") => block[2..].find("*/").map(|end| end + 4),
                _ => return next.chars().next().ok_or_else(|| self.broken_off()),
            };
            self.at += comment.ok_or_else(|| self.broken_off())?;
        }
    }

    fn next(&mut self) -> Result<char, String> {
        let character = self.text[self.at..].chars().next().ok_or_else(|| self.broken_off())?;
        self.at += character.len_utf8();
        Ok(character)
    }

    fn broken_off(&self) -> String {
        "it breaks off before its end".to_string()
    }

    fn unexpected(&self, found: char) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        format!("`{found}` in line {line} of the reply is not expected there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Said {
        a: Value,
    }

    fn check(text: &str, expected: Result<Value, &str>) {
        match (read::<Said>(text), expected) {
            (Ok(said), Ok(expected)) => assert_eq!(said.a, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn an_object_is_found_however_it_is_dressed() {
        for text in [
            r#"{"a": "x"}"#,
            "```json\n{\"a\": \"x\"}\n```",
            r#"Sure {as you wish}: {"a": "x"} - I hope {this} helps."#,
            r#"{"a": "x",}"#,
            "{'a': 'x'}",
            "{“a”: “x”}",
            "{\n  // the answer\n  \"a\": \"x\" /* sure */\n}",
            r#"{"a": "x"} or, again, {"a": "x"}"#,
            r#"{"note": 1} {"a": "x"}"#,
            r#"<think>{"b": 2}</think>{"a": "x"}"#,
            r#"{"a": "\u0078"}"#,
        ] {
            check(text, Ok(json!("x")));
        }
        check(
            r#"{"a": [1, -2.5e3, True, False, None, {"b": []},],}"#,
            Ok(json!([1, -2500.0, true, false, null, {"b": []}])),
        );
        check(r#"{"a": "\ud83d\ude42",}"#, Ok(json!("🙂")));
    }

    #[test]
    fn words_inside_a_text_stay_as_they_are() {
        for text in
            ["a, ]", "True, None", "// no comment", "“so”", "it's", "{\"b\": 1}", "line\nbreak", "tab\there", "```"]
        {
            let escaped = text.replace('"', "\\\"");
            check(&format!("Here: {{\"a\": \"{escaped}\",}}"), Ok(json!(text)));
        }
        check("{'a': 'say \"so\"'}", Ok(json!("say \"so\"")));
        check("{\"a\": “say \"so\"”}", Ok(json!("say \"so\"")));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (text, reason) in [
            ("", "no JSON object"),
            ("}{", "no JSON object"),
            ("a {b} c", "no JSON object"),
            (r#"["a", "b"]"#, "no JSON object"),
            (r#"{"b": 1}"#, "missing field `a`"),
            (r#"{"a": "x""#, "breaks off"),
            (r#"{"a": "x"#, "breaks off"),
            (r#"{"a": {"a": 1}, "#, "breaks off"),
            (r#"{"a": nul"#, "breaks off"),
            (r#"{"a": /* "#, "breaks off"),
            (r#"{"b": 1, "c": {"a": 1}, d}"#, "`d` in line 1"),
            (r#"{"a": 1, "a": 2}"#, "twice"),
            (r#"{"a": 1} {"a": 2}"#, "several different"),
            ("{'a': 'it's'}", "`s` in line 1"),
            (r#"{"a": maybe}"#, "`maybe` is no value"),
            (r#"{"a": "\x",}"#, "no escape"),
            (r#"{"a": "\ud83d",}"#, "half a character"),
        ] {
            check(text, Err(reason));
        }
        check(&format!("{{\"a\": {}", "[".repeat(5000)), Err("nested"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[\"'“”{}\\[\\],:/\\\\\n ]{0,8}".prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let fields = prop::collection::btree_map("[a-z\"' ]{1,4}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Dressed in words, a fence and trailing commas, an object is read as it was written; cut off anywhere, it is not read.
        #[test]
        fn an_object_survives_its_dress_and_not_its_cutting(a in value(), before in "[a-z .{]{0,9}", after in "[a-z .}]{0,9}", cut in 0usize..500) {
            let object = json!({"a": a}).to_string();
            let dressed = format!("{before}\n```json\n{},}}\n```\n{after}", &object[..object.len() - 1]);
            prop_assert_eq!(&read::<Said>(&dressed).unwrap().a, &a, "{}", dressed);
            let cut = (0..=cut % object.len()).rev().find(|cut| object.is_char_boundary(*cut)).unwrap();
            prop_assert!(read::<Said>(&object[..cut]).is_err(), "{}", &object[..cut]);
        }

        #[test]
        fn no_text_panics(text in "[{}\\[\\]\"'“”,:/*\\\\a1 \n-]{0,60}|\\PC{0,60}") {
            _ = read::<Said>(&text);
            _ = read::<Value>(&format!("{{\"a\":{text}"));
        }
    }
}

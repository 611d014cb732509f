//! YAML text to a tree in which every key and every value knows where it was written.

use super::diagnostic::{Diagnostic, Place};
use super::source::Span;
use super::syntax;
use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};
use serde_yaml::Spanned;
use stages::settings::Step;

#[derive(Debug, Clone)]
pub struct Tree {
    pub value: Value,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub enum Value {
    /// Anything but a list or a mapping.
    Plain(Json),
    List(Vec<Tree>),
    Map(IndexMap<String, Entry>),
}

#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the key stands.
    pub name: Span,
    pub tree: Tree,
}

/// Reads one YAML document (1.2 booleans, anchors and merge keys) of source number `source`. A key given twice is noted and its first value kept.
pub fn parse(text: &str, source: usize, mistakes: &mut Vec<Diagnostic>) -> Result<Tree, Diagnostic> {
    let options = serde_yaml::options! {
        budget: syntax::budget(),
        alias_limits: syntax::alias_limits(),
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::LastWins,
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(Lowering { source, mistakes }.tree(raw)),
        Err(error) => Err(syntax::mistake(&error, text, source)),
    }
}

fn span_of(location: &serde_yaml::Location, source: usize) -> Span {
    let start = location.span().byte_offset().unwrap_or(0) as usize;
    Span { source, start, end: start + location.span().byte_len().unwrap_or(0) as usize }
}

impl Tree {
    pub fn plain(value: impl Into<Json>, span: Span) -> Tree {
        Tree { value: Value::Plain(value.into()), span }
    }

    pub fn empty_map(span: Span) -> Tree {
        Tree { value: Value::Map(IndexMap::new()), span }
    }

    pub fn as_map(&self) -> Option<&IndexMap<String, Entry>> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(Json::String(text)) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Plain(Json::Null))
    }

    pub fn get(&self, key: &str) -> Option<&Tree> {
        self.as_map()?.get(key).map(|entry| &entry.tree)
    }

    /// Visits every text that is a value.
    pub fn each_text(&self, visit: &mut impl FnMut(&str)) {
        match &self.value {
            Value::Plain(Json::String(text)) => visit(text),
            Value::Plain(_) => {}
            Value::List(items) => items.iter().for_each(|item| item.each_text(visit)),
            Value::Map(entries) => entries.values().for_each(|entry| entry.tree.each_text(visit)),
        }
    }

    pub fn has_text(&self, holds: &impl Fn(&str) -> bool) -> bool {
        match &self.value {
            Value::Plain(Json::String(text)) => holds(text),
            Value::Plain(_) => false,
            Value::List(items) => items.iter().any(|item| item.has_text(holds)),
            Value::Map(entries) => entries.values().any(|entry| entry.tree.has_text(holds)),
        }
    }

    /// Puts another text where `replace` gives one.
    pub fn replace_texts(&mut self, replace: &impl Fn(&str) -> Option<String>) {
        match &mut self.value {
            Value::Plain(Json::String(text)) => *text = replace(text).unwrap_or_else(|| std::mem::take(text)),
            Value::Plain(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.replace_texts(replace)),
            Value::Map(entries) => entries.values_mut().for_each(|entry| entry.tree.replace_texts(replace)),
        }
    }

    /// The value that a step path leads to. A single value stands for a list of one.
    pub fn at_mut(&mut self, steps: &[Step]) -> Option<&mut Tree> {
        let Some((step, rest)) = steps.split_first() else { return Some(self) };
        match (step, &mut self.value) {
            (Step::Key(key) | Step::Name(key), Value::Map(entries)) => entries.get_mut(key)?.tree.at_mut(rest),
            (Step::Index(index), Value::List(items)) => items.get_mut(*index)?.at_mut(rest),
            _ => None,
        }
    }

    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Plain(json) => json.clone(),
            Value::List(items) => Json::Array(items.iter().map(Tree::to_json).collect()),
            Value::Map(entries) => Json::Object(json_fields(entries)),
        }
    }

    /// Where a step path leads: the value where it is plain, else the key in front of it; as far as the path exists.
    pub fn place(&self, steps: &[Step]) -> Span {
        let mut tree = self;
        let mut place = self.span;
        for step in steps {
            let next = match (step, &tree.value) {
                (Step::Key(key) | Step::Name(key), Value::Map(entries)) => entries.get(key).map(|entry| {
                    let on_key = matches!(step, Step::Name(_)) || !matches!(entry.tree.value, Value::Plain(_));
                    (if on_key { entry.name } else { entry.tree.span }, &entry.tree)
                }),
                (Step::Index(index), Value::List(items)) => items.get(*index).map(|item| (item.span, item)),
                // A single value stands for a list of one.
                _ => None,
            };
            let Some((at, below)) = next else { break };
            (place, tree) = (at, below);
        }
        place
    }
}

pub fn json_fields(entries: &IndexMap<String, Entry>) -> Map<String, Json> {
    entries.iter().map(|(key, entry)| (key.clone(), entry.tree.to_json())).collect()
}

/// What serde hands over, before duplicate keys are sorted out.
enum Raw {
    Plain(Json),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain(Json::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain(Json::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("`{value}` is not a finite number")))?;
        Ok(Raw::Plain(Json::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Plain(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

struct Lowering<'a> {
    source: usize,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Lowering<'_> {
    fn tree(&mut self, raw: Spanned<Raw>) -> Tree {
        let span = span_of(&raw.defined, self.source);
        let value = match raw.value {
            Raw::Plain(json) => Value::Plain(json),
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.tree(item)).collect()),
            Raw::Map(entries) => Value::Map(self.entries(entries)),
        };
        Tree { value, span }
    }

    fn entries(&mut self, raw: Vec<(Spanned<String>, Spanned<Raw>)>) -> IndexMap<String, Entry> {
        let mut entries: IndexMap<String, Entry> = IndexMap::new();
        for (key, value) in raw {
            let name = span_of(&key.defined, self.source);
            let tree = self.tree(value);
            match entries.get(&key.value) {
                None => drop(entries.insert(key.value, Entry { name, tree })),
                Some(_) => self.duplicate(&key.value, name),
            }
        }
        entries
    }

    fn duplicate(&mut self, key: &str, name: Span) {
        let message = format!("the key `{key}` stands twice in one mapping");
        let hint = "keep one of the two".to_string();
        self.mistakes.push(Diagnostic::error("duplicate-key", Place::At(name), message).with_hint(Some(hint)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Tree, Vec<Diagnostic>) {
        let mut mistakes = Vec::new();
        let tree = parse(text, 0, &mut mistakes).unwrap_or_else(|error| panic!("{}: {text}", error.message));
        (tree, mistakes)
    }

    fn check(text: &str, expected: Json) {
        assert_eq!(parsed(text).0.to_json(), expected, "{text}");
    }

    #[test]
    fn plain_words_have_the_types_of_yaml_1_2() {
        check("[yes, no, on, true, ~, null, 'true']", serde_json::json!(["yes", "no", "on", true, null, null, "true"]));
        check("[1, -2, 0x10, 1.5, 2e6, 1e-3, '7']", serde_json::json!([1, -2, 16, 1.5, 2e6, 1e-3, "7"]));
        check("{a: b/c.md, 7: x, empty: }", serde_json::json!({"a": "b/c.md", "7": "x", "empty": null}));
        check("a: |\n  two\n  lines\n", serde_json::json!({"a": "two\nlines\n"}));
    }

    #[test]
    fn anchors_and_merge_keys_work_and_point_to_where_a_value_was_written() {
        let text = "base: &base { a: 1, b: 2 }\nmine: { <<: *base, b: 3 }\n";
        let (tree, mistakes) = parsed(text);
        assert!(mistakes.is_empty(), "{:?}", mistakes[0].message);
        assert_eq!(tree.to_json()["mine"], serde_json::json!({"a": 1, "b": 3}));
        let place = |key: &str| tree.place(&[Step::Key("mine".into()), Step::Key(key.into())]);
        assert_eq!(&text[place("b").start..place("b").end], "3");
        assert_eq!(place("a").start, text.find('1').unwrap());
    }

    #[test]
    fn places_are_the_value_or_the_key_before_it() {
        let text = "nodes:\n  exam: { rows: 'ten', list: [a, bc] }\n";
        let (tree, _) = parsed(text);
        let exam = || vec![Step::Key("nodes".into()), Step::Key("exam".into())];
        let with = |step: Step| [exam(), vec![step]].concat();
        for (steps, expected) in [
            (exam(), "exam"),
            (with(Step::Key("rows".into())), "'ten'"),
            (with(Step::Name("rows".into())), "rows"),
            ([with(Step::Key("list".into())), vec![Step::Index(1)]].concat(), "bc"),
            (with(Step::Key("absent".into())), "exam"),
        ] {
            let span = tree.place(&steps);
            assert_eq!(&text[span.start..span.end], expected, "{steps:?}");
        }
    }

    #[test]
    fn every_duplicate_key_is_noted() {
        let (tree, mistakes) = parsed("a: 1\na: 2\nb: { c: 1, d: 2, c: 3 }\n");
        let starts: Vec<&Place> = mistakes.iter().map(|mistake| &mistake.place).collect();
        let span = |start| Place::At(Span { source: 0, start, end: start + 1 });
        assert_eq!(starts, [&span(5), &span(27)]);
        assert_eq!(tree.to_json(), serde_json::json!({"a": 1, "b": {"c": 1, "d": 2}}));
    }
}

//! `${name}`: values under `params:` that are used elsewhere in a recipe. `$${` stands for `${` itself.

use super::diagnostic::{Diagnostic, Place};
use super::source::{Sources, Span};
use super::tree::{Tree, Value};
use indexmap::IndexMap;
use serde_json::Value as Json;
use stages::settings::nearest_hint;
use std::collections::{BTreeMap, BTreeSet};

/// Replaces every use in `params` itself (by those written above), `models` and `nodes` and whatever else the recipe holds but its profiles.
pub fn substitute(tree: &mut Tree, sources: &Sources, mistakes: &mut Vec<Diagnostic>) {
    let Value::Map(parts) = &mut tree.value else { return };
    let mut substitution = Substitution::new(sources, mistakes);
    if let Some(params) = parts.get_mut("params") {
        substitution.read(&mut params.tree);
    }
    for (_, part) in parts.iter_mut().filter(|(name, _)| !matches!(name.as_str(), "params" | "profiles")) {
        substitution.tree(&mut part.tree);
    }
}

/// What names stand for, and which axes of a matrix have been used.
pub struct Substitution<'a> {
    known: IndexMap<String, Tree>,
    /// The axes that stand behind a name: itself, or those that a parameter uses.
    axes: BTreeMap<String, BTreeSet<String>>,
    /// Axes used so far.
    pub used: BTreeSet<String>,
    sources: &'a Sources,
    mistakes: &'a mut Vec<Diagnostic>,
}

/// A piece of a text with uses in it.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Use(&'a str),
    /// `${` without its `}`.
    Open,
}

impl<'a> Substitution<'a> {
    pub fn new(sources: &'a Sources, mistakes: &'a mut Vec<Diagnostic>) -> Substitution<'a> {
        Substitution { known: IndexMap::new(), axes: BTreeMap::new(), used: BTreeSet::new(), sources, mistakes }
    }

    /// Gives an axis one of its values; a parameter of that name, read later, gives way.
    pub fn bind(&mut self, axis: &str, value: Tree) {
        self.known.insert(axis.to_string(), value);
        self.axes.insert(axis.to_string(), BTreeSet::from([axis.to_string()]));
    }

    /// Leaves uses of a name as they are: that it has no value is told elsewhere.
    pub fn leave(&mut self, axis: &str) {
        self.bind(axis, Tree::plain(format!("${{{axis}}}"), Span::default()));
    }

    pub fn read(&mut self, params: &mut Tree) {
        let Value::Map(entries) = &mut params.value else { return };
        for (name, entry) in entries {
            self.used.clear();
            self.tree(&mut entry.tree);
            if self.known.contains_key(name) {
                continue;
            }
            self.known.insert(name.clone(), entry.tree.clone());
            if !self.used.is_empty() {
                self.axes.insert(name.clone(), std::mem::take(&mut self.used));
            }
        }
        self.used.clear();
    }

    pub fn tree(&mut self, tree: &mut Tree) {
        match &mut tree.value {
            Value::Map(entries) => entries.values_mut().for_each(|entry| self.tree(&mut entry.tree)),
            Value::List(items) => items.iter_mut().for_each(|item| self.tree(item)),
            Value::Plain(Json::String(text)) if text.contains("${") => {
                if let Some(value) = self.text(&text.clone(), tree.span) {
                    tree.value = value;
                }
            }
            Value::Plain(_) => {}
        }
    }

    fn text(&mut self, text: &str, span: Span) -> Option<Value> {
        let pieces = pieces(text);
        if let [Piece::Use(name)] = pieces[..] {
            return self.lookup(name, span).map(|tree| tree.value.clone());
        }
        let parts: Vec<Option<String>> = pieces.into_iter().map(|piece| self.piece(piece, span)).collect();
        let parts: Option<Vec<String>> = parts.into_iter().collect();
        Some(Value::Plain(Json::String(parts?.concat())))
    }

    fn piece(&mut self, piece: Piece, span: Span) -> Option<String> {
        let name = match piece {
            Piece::Text(text) => return Some(text.to_string()),
            Piece::Use(name) => name,
            Piece::Open => {
                let hint = "close it with `}`, or write `$${` for the two characters themselves".to_string();
                self.mistake("open-parameter", span, "`${` is not closed".to_string(), Some(hint));
                return None;
            }
        };
        match self.lookup(name, span)?.to_json() {
            Json::String(text) => Some(text),
            plain @ (Json::Number(_) | Json::Bool(_)) => Some(plain.to_string()),
            _ => {
                let message = format!("the parameter `{name}` is no plain value and cannot stand inside a text");
                self.mistake("wrong-type", self.place(name, span), message, None);
                None
            }
        }
    }

    fn lookup(&mut self, name: &str, span: Span) -> Option<&Tree> {
        if !self.known.contains_key(name) {
            let hint = nearest_hint(name, self.known.keys().map(String::as_str));
            self.mistake("unknown-parameter", self.place(name, span), format!("unknown parameter `{name}`"), hint);
        }
        if let Some(axes) = self.axes.get(name) {
            self.used.extend(axes.iter().cloned());
        }
        self.known.get(name)
    }

    /// Where the use stands, for a text that is written as it is.
    fn place(&self, name: &str, span: Span) -> Span {
        let used = format!("${{{name}}}");
        let offset = self.sources.slice(span).find(&used);
        offset.map_or(span, |at| Span { start: span.start + at, end: span.start + at + used.len(), ..span })
    }

    fn mistake(&mut self, code: &'static str, span: Span, message: String, hint: Option<String>) {
        self.mistakes.push(Diagnostic::error(code, Place::At(span), message).with_hint(hint));
    }
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            pieces.push(Piece::Text(&rest[..at - 1]));
            pieces.push(Piece::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        if at > 0 {
            pieces.push(Piece::Text(&rest[..at]));
        }
        let Some(length) = rest[at..].find('}') else {
            pieces.push(Piece::Open);
            return pieces;
        };
        pieces.push(Piece::Use(rest[at + 2..at + length].trim()));
        rest = &rest[at + length + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    fn check(yaml: &str, pointer: &str, expected: Json, codes: &[&str]) {
        let (mut sources, mut mistakes) = (Sources::default(), Vec::new());
        sources.add("recipe.yaml", yaml);
        let mut tree = parse(yaml, 0, &mut mistakes).unwrap();
        substitute(&mut tree, &sources, &mut mistakes);
        assert_eq!(tree.to_json().pointer(pointer), Some(&expected), "{yaml}");
        let found: Vec<String> =
            mistakes.iter().map(|one| format!("{} {}", one.code, sources.slice(one.span()))).collect();
        assert_eq!(found, codes, "{yaml}");
    }

    #[test]
    fn a_whole_value_keeps_its_type_and_a_part_of_a_text_is_written_out() {
        let with = |value: &str| format!("params: {{ n: 3, t: x, l: [1] }}\nnodes: {{ a: {value} }}");
        check(&with("'${n}'"), "/nodes/a", 3.into(), &[]);
        check(&with("'${l}'"), "/nodes/a", serde_json::json!([1]), &[]);
        check(&with("'${n} ${t}!'"), "/nodes/a", "3 x!".into(), &[]);
        check(&with("'$${n} $5'"), "/nodes/a", "${n} $5".into(), &[]);
        check(&with("[{ b: '${t}${t}' }]"), "/nodes/a/0/b", "xx".into(), &[]);
        check("params: { a: 1, b: 'x${a}' }\nnodes: '${b}'", "/nodes", "x1".into(), &[]);
    }

    #[test]
    fn what_cannot_be_replaced_is_a_mistake_at_its_place() {
        let with = |value: &str| format!("params: {{ name: 3, l: [1] }}\nnodes: {{ a: {value} }}");
        check(&with("'see ${nme}'"), "/nodes/a", "see ${nme}".into(), &["unknown-parameter ${nme}"]);
        check(&with("'see ${l}'"), "/nodes/a", "see ${l}".into(), &["wrong-type ${l}"]);
        check(&with("'${name'"), "/nodes/a", "${name".into(), &["open-parameter '${name'"]);
        check("params: { a: '${b}', b: 1 }", "/params/a", "${b}".into(), &["unknown-parameter ${b}"]);
    }
}

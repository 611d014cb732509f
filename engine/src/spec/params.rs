//! `${name}`: values under `params:` that are used elsewhere in a recipe. `$${` stands for `${` itself.

use super::diagnostic::{Diagnostic, Place};
use super::source::{Sources, Span};
use super::syntax::{TEXT_BYTES_MAX, too_large};
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

/// Notes every use of a parameter in `tree` that is not among `known`.
pub fn check_uses<'a>(
    tree: &Tree,
    known: impl Iterator<Item = &'a str>,
    sources: &Sources,
    mistakes: &mut Vec<Diagnostic>,
) {
    let known = known.map(|name| (name.to_string(), Tree::plain("", Span::default()))).collect();
    Substitution { known, ..Substitution::new(sources, mistakes) }.tree(&mut tree.clone());
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
    /// All names, those too that stand further down than the present use.
    declared: Vec<String>,
    /// What may still be put in: parameters that use each other could grow without end.
    bytes_left: usize,
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
        Substitution {
            known: IndexMap::new(),
            axes: BTreeMap::new(),
            used: BTreeSet::new(),
            sources,
            mistakes,
            declared: Vec::new(),
            bytes_left: TEXT_BYTES_MAX,
        }
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
        self.declared = entries.keys().cloned().collect();
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
            let bytes = bytes_of(self.lookup(name, span)?);
            return self.spend(bytes, span).then(|| self.known[name].value.clone());
        }
        let parts: Vec<Option<String>> = pieces.into_iter().map(|piece| self.piece(piece, span)).collect();
        let parts: Option<Vec<String>> = parts.into_iter().collect();
        let text = parts?.concat();
        self.spend(text.len(), span).then(|| Value::Plain(Json::String(text)))
    }

    /// Whether so much more may be put in; that it may not is told once.
    fn spend(&mut self, bytes: usize, span: Span) -> bool {
        let refused = self.bytes_left == 0;
        let enough = self.bytes_left > bytes;
        self.bytes_left = if enough { self.bytes_left - bytes } else { 0 };
        if !enough && !refused {
            let what = format!("its parameters, written out, have more than {} MiB", TEXT_BYTES_MAX >> 20);
            self.mistakes.push(too_large(Place::At(span), &what));
        }
        enough
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
                self.mistake("unfit-parameter", self.place(name, span), message, None);
                None
            }
        }
    }

    fn lookup(&mut self, name: &str, span: Span) -> Option<&Tree> {
        if !self.known.contains_key(name) {
            let further_down = self.declared.iter().any(|declared| declared == name);
            let hint = match further_down {
                true => Some(format!("`{name}` stands further down; put it above")),
                false => nearest_hint(name, self.known.keys().map(String::as_str)),
            };
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

/// About what a tree takes in memory.
fn bytes_of(tree: &Tree) -> usize {
    let inside = match &tree.value {
        Value::Plain(Json::String(text)) => text.len(),
        Value::Plain(_) => 0,
        Value::List(items) => items.iter().map(bytes_of).sum(),
        Value::Map(entries) => entries.iter().map(|(key, entry)| key.len() + bytes_of(&entry.tree)).sum(),
    };
    inside + size_of::<Tree>()
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
        check(&with("'see ${l}'"), "/nodes/a", "see ${l}".into(), &["unfit-parameter ${l}"]);
        check(&with("'${name'"), "/nodes/a", "${name".into(), &["open-parameter '${name'"]);
        check("params: { a: '${b}', b: 1 }", "/params/a", "${b}".into(), &["unknown-parameter ${b}"]);
    }

    #[test]
    fn parameters_that_multiply_are_refused_once() {
        for (first, uses) in
            [("xxxxxxxxxx", "'${a}${a}${a}${a}${a}${a}${a}${a}${a}${a}'"), ("[x]", "['${a}', '${a}', '${a}', '${a}']")]
        {
            let names: Vec<String> = (0..30).map(|number| format!("p{number}")).collect();
            let mut yaml = format!("params:\n  p0: {first}\n");
            for pair in names.windows(2) {
                yaml += &format!("  {}: {}\n", pair[1], uses.replace("${a}", &format!("${{{}}}", pair[0])));
            }
            let (mut sources, mut mistakes) = (Sources::default(), Vec::new());
            sources.add("recipe.yaml", &yaml);
            substitute(&mut parse(&yaml, 0, &mut mistakes).unwrap(), &sources, &mut mistakes);
            let told: Vec<_> = mistakes.iter().map(|one| (one.code, one.message.contains("32 MiB"))).collect();
            assert_eq!(told, [("too-large", true)]);
        }
    }
}

//! The axes of a matrix: what stands under `matrix:`, checked, each value with the name that variants bear.

use super::super::diagnostic::{Diagnostic, Place};
use super::super::source::{Sources, Span};
use super::super::tree::{Entry, Tree, Value};
use indexmap::IndexMap;
use serde_json::Value as Json;
use std::collections::HashSet;

pub const MATRIX: &str = "matrix";

/// A name with several values.
#[derive(Debug)]
pub struct Axis {
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    pub values: Vec<AxisValue>,
}

#[derive(Debug)]
pub struct AxisValue {
    pub name: String,
    pub tree: Tree,
}

impl Axis {
    /// Whether two declarations mean one axis: the same names for the same values.
    pub fn is_same(&self, other: &Axis) -> bool {
        let pairs = |axis: &Axis| -> Vec<(String, Json)> {
            axis.values.iter().map(|value| (value.name.clone(), value.tree.to_json())).collect()
        };
        self.name == other.name && pairs(self) == pairs(other)
    }
}

/// An axis as it is written.
pub struct Written {
    /// The node that it stands on; none for an axis of the whole recipe.
    pub node: Option<String>,
    name: String,
    span: Span,
    pub tree: Tree,
}

/// Takes every `matrix:` out of a recipe's parts: its own first, then those of nodes in their order.
pub fn take(parts: &mut IndexMap<String, Entry>, mistakes: &mut Vec<Diagnostic>) -> Vec<Written> {
    let mut written = Vec::new();
    if let Some(entry) = parts.shift_remove(MATRIX) {
        written.extend(written_in(entry, None, mistakes));
    }
    let Some(Entry { tree: Tree { value: Value::Map(nodes), .. }, .. }) = parts.get_mut("nodes") else {
        return written;
    };
    for (node, entry) in nodes {
        let Value::Map(fields) = &mut entry.tree.value else { continue };
        if let Some(matrix) = fields.shift_remove(MATRIX) {
            written.extend(written_in(matrix, Some(node), mistakes));
        }
    }
    written
}

fn written_in(entry: Entry, node: Option<&String>, mistakes: &mut Vec<Diagnostic>) -> Vec<Written> {
    match entry.tree.value {
        Value::Map(axes) => {
            let axis = |(name, entry): (String, Entry)| {
                check_name(&name, entry.name, "an axis", None, mistakes);
                Written { node: node.cloned(), name, span: entry.name, tree: entry.tree }
            };
            axes.into_iter().map(axis).collect()
        }
        Value::Plain(Json::Null) => Vec::new(),
        _ => {
            let hint = Some("such as `matrix: { epochs: [1, 3] }`".to_string());
            let message = "`matrix` must be a mapping of axes";
            mistakes.push(Diagnostic::error("wrong-type", Place::At(entry.name), message).with_hint(hint));
            Vec::new()
        }
    }
}

/// Names are words in a shell, and parts of a variant's name.
fn check_name(name: &str, span: Span, what: &str, hint: Option<String>, mistakes: &mut Vec<Diagnostic>) {
    let is_value = hint.is_some();
    let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || (is_value && (c == '.' || c == '+'));
    if name.is_empty() || !name.chars().all(fits) {
        let message = format!("`{name}` cannot be the name of {what}");
        let hint = hint.or_else(|| Some("use letters, digits, `_` and `-`".to_string()));
        mistakes.push(Diagnostic::error("bad-name", Place::At(span), message).with_hint(hint));
    }
}

impl Written {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its name stands.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Names its values. A single value stands for a list of one.
    pub fn read(self, sources: &Sources, mistakes: &mut Vec<Diagnostic>) -> Axis {
        let Written { name, span, tree, .. } = self;
        let values: Vec<(Option<String>, Span, Tree)> = match tree.value {
            Value::Map(entries) => entries.into_iter().map(|(name, e)| (Some(name), e.name, e.tree)).collect(),
            Value::List(items) => items.into_iter().map(|item| (plain_name(&item, sources), item.span, item)).collect(),
            Value::Plain(_) => vec![(plain_name(&tree, sources), tree.span, tree)],
        };
        if values.is_empty() {
            let hint = Some(format!("give it some, such as `{name}: [1, 3]`, or take it away"));
            let message = format!("the axis `{name}` has no values");
            mistakes.push(Diagnostic::error("empty-axis", Place::At(span), message).with_hint(hint));
        }
        let mut seen = HashSet::new();
        let values = values.into_iter().filter_map(|(value_name, place, tree)| {
            let value_name = value_name.or_else(|| unnamed(&name, place, mistakes))?;
            let hint = format!("give the value a name: `{name}: {{ a_name: … }}`");
            check_name(&value_name, place, "a value of an axis", Some(hint), mistakes);
            if !seen.insert(value_name.clone()) {
                let message = format!("the axis `{name}` has two values named `{value_name}`");
                let hint = Some("leave one out, or give them names of their own".to_string());
                mistakes.push(Diagnostic::error("duplicate-value", Place::At(place), message).with_hint(hint));
                return None;
            }
            Some(AxisValue { name: value_name, tree })
        });
        let values = values.collect();
        Axis { name, span, values }
    }
}

/// Words, numbers and booleans are their own names; a number as it is written (`3e-4`).
fn plain_name(tree: &Tree, sources: &Sources) -> Option<String> {
    match &tree.value {
        Value::Plain(Json::String(text)) => Some(text.clone()),
        Value::Plain(Json::Bool(value)) => Some(value.to_string()),
        Value::Plain(Json::Number(number)) => {
            let written = sources.slice(tree.span).trim();
            let is_it = written.parse::<f64>().ok() == number.as_f64();
            Some(if is_it { written.to_string() } else { number.to_string() })
        }
        _ => None,
    }
}

fn unnamed(axis: &str, place: Span, mistakes: &mut Vec<Diagnostic>) -> Option<String> {
    let message = format!("this value of the axis `{axis}` needs a name, as it is no plain word or number");
    let hint = Some(format!("write `{axis}: {{ one_name: …, other_name: … }}`"));
    mistakes.push(Diagnostic::error("unnamed-value", Place::At(place), message).with_hint(hint));
    None
}

/// A parameter that is laid over a recipe after its axis of the same name pins the axis to that one value.
pub fn pin(tree: &mut Tree, name: &str) {
    let Some(value) = tree.get("params").and_then(|params| params.get(name)).cloned() else { return };
    let Value::Map(parts) = &mut tree.value else { return };
    let Some(Entry { tree: Tree { value: Value::Map(axes), .. }, .. }) = parts.get_mut(MATRIX) else { return };
    let Some(axis) = axes.get_mut(name) else { return };
    let span = value.span;
    axis.tree.value = match &mut axis.tree.value {
        Value::Map(values) => match named_value(values, &value) {
            Some(name) => Value::Map(values.shift_remove_entry(&name).into_iter().collect()),
            None => Value::List(vec![value]),
        },
        _ => Value::List(vec![value]),
    };
    axis.tree.span = span;
}

/// The name in `values` that `value` is, or whose value it is.
fn named_value(values: &IndexMap<String, Entry>, value: &Tree) -> Option<String> {
    let by_name = value.as_text().filter(|name| values.contains_key(*name)).map(str::to_string);
    let json = value.to_json();
    let by_value = || values.iter().find(|(_, entry)| entry.tree.to_json() == json).map(|(name, _)| name.clone());
    by_name.or_else(by_value)
}

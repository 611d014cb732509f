//! Checks that every name in a recipe exists, that forms fit, and that nothing needs itself.

use super::diagnostic::{Diagnostic, Place};
use super::source::Span;
use super::{ModelEntry, Node};
use crate::graph;
use indexmap::IndexMap;
use stages::settings::{Reference, Target, nearest_hint};
use stages::stage::{Form, Input, NodeRef};
use std::collections::BTreeMap;

/// Of many nodes that would do so many are told.
const FITTING_NODES: usize = 10;

type Placed = Vec<(Span, Reference)>;

/// The names that nodes and models of a recipe have and use, gathered also where the rest of an entry is wrong.
#[derive(Default)]
pub struct Names {
    nodes: IndexMap<String, Placed>,
    models: IndexMap<String, Placed>,
}

impl Names {
    pub fn add_node(&mut self, name: &str, references: Placed) {
        self.nodes.insert(name.to_string(), references);
    }

    pub fn add_model(&mut self, name: &str, references: Placed) {
        self.models.insert(name.to_string(), references);
    }

    /// Names of models that some node uses.
    pub fn used_models(&self) -> impl Iterator<Item = String> {
        self.nodes.values().flatten().filter_map(|(_, reference)| match &reference.to {
            Target::Model(name) => Some(name.clone()),
            Target::Node(_) => None,
        })
    }

    /// Where a node names one that it reads.
    pub fn span_of(&self, node: &str, from: &NodeRef) -> Option<Span> {
        let here = |(_, reference): &&(Span, Reference)| matches!(&reference.to, Target::Node(to) if to == from);
        self.nodes.get(node)?.iter().find(here).map(|(span, _)| *span)
    }

    fn all(&self) -> impl Iterator<Item = &(Span, Reference)> {
        self.models.values().chain(self.nodes.values()).flatten()
    }
}

/// `nodes` and `models` are those that could be read; the names of the others count all the same.
pub fn check(names: &Names, nodes: &IndexMap<String, Node>, models: &IndexMap<String, ModelEntry>) -> Vec<Diagnostic> {
    let mut mistakes: Vec<Diagnostic> =
        names.all().filter_map(|(span, reference)| unknown(names, nodes, *span, reference)).collect();
    mistakes.extend(nodes.values().flat_map(|node| wrong_forms(names, nodes, node)));
    mistakes.extend(models.values().filter_map(|model| wrong_model(names, nodes, model)));
    mistakes.extend(cycles(names));
    mistakes
}

fn unknown(names: &Names, nodes: &IndexMap<String, Node>, span: Span, reference: &Reference) -> Option<Diagnostic> {
    match &reference.to {
        Target::Model(name) if names.models.contains_key(name) => None,
        Target::Model(name) => {
            let hint = match names.models.is_empty() {
                true => Some(format!("declare it: `models: {{ {name}: {{ provider: rehearsal }} }}`")),
                false => nearest_hint(name, names.models.keys().map(String::as_str)),
            };
            let message = format!("unknown model `{name}`");
            Some(Diagnostic::error("unknown-model", Place::At(span), message).with_hint(hint))
        }
        Target::Node(to) if !names.nodes.contains_key(&to.node) => {
            let hint = nearest_hint(&to.node, names.nodes.keys().map(String::as_str));
            let message = format!("unknown node `{}`", to.node);
            Some(Diagnostic::error("unknown-node", Place::At(span), message).with_hint(hint))
        }
        Target::Node(to) => unknown_output(nodes.get(&to.node)?, to, span),
    }
}

fn unknown_output(node: &Node, to: &NodeRef, span: Span) -> Option<Diagnostic> {
    if node.output(&to.output).is_some() {
        return None;
    }
    let outputs: Vec<String> = node.stage.outputs().into_iter().map(|output| output.name).collect();
    let named: Vec<&str> = outputs.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let hint = match named.is_empty() {
        true => Some(format!("it has one output; write `{}`", node.name)),
        false => nearest_hint(&to.output, named),
    };
    let message = format!("`{}` has no output `{}`", node.name, to.output);
    Some(Diagnostic::error("unknown-output", Place::At(span), message).with_hint(hint))
}

fn wrong_forms(names: &Names, nodes: &IndexMap<String, Node>, node: &Node) -> Vec<Diagnostic> {
    let mistake = |input: Input| {
        let output = nodes.get(&input.from.node)?.output(&input.from.output)?;
        let span = names.span_of(&node.name, &input.from).unwrap_or(node.span);
        (output.form != input.form).then(|| wrong_form(nodes, &node.name, &input.from, input.form, span))
    };
    node.stage.inputs().into_iter().filter_map(mistake).collect()
}

fn wrong_model(names: &Names, nodes: &IndexMap<String, Node>, model: &ModelEntry) -> Option<Diagnostic> {
    let from = model.spec.node()?;
    let output = nodes.get(&from.node)?.output(&from.output)?;
    let span = names.models[&model.name].first().map_or(model.span, |(span, _)| *span);
    (output.form != Form::Model).then(|| wrong_form(nodes, "", &from, Form::Model, span))
}

fn wrong_form(nodes: &IndexMap<String, Node>, reader: &str, from: &NodeRef, wanted: Form, span: Span) -> Diagnostic {
    let (given, needed) = match wanted {
        Form::Rows => ("a model", "rows are"),
        Form::Model => ("rows", "a model is"),
    };
    let fits = |node: &&Node| node.name != reader && node.output("").is_some_and(|output| output.form == wanted);
    let mut fitting: Vec<&str> = nodes.values().filter(fits).map(|node| node.name.as_str()).collect();
    let more = fitting.len().saturating_sub(FITTING_NODES);
    fitting.truncate(FITTING_NODES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let hint = (!fitting.is_empty()).then(|| format!("these would fit: `{}`{rest}", fitting.join("`, `")));
    let message = format!("`{from}` gives {given}, but {needed} needed here");
    Diagnostic::error("wrong-form", Place::At(span), message).with_hint(hint)
}

fn cycles(names: &Names) -> Vec<Diagnostic> {
    let mut edges: BTreeMap<(&str, &str), Span> = BTreeMap::new();
    for (name, references) in &names.nodes {
        for (span, reference) in references {
            for from in behind(names, &reference.to) {
                edges.entry((from, name)).or_insert(*span);
            }
        }
    }
    let pairs: Vec<(&str, &str)> = edges.keys().copied().collect();
    graph::cycles(names.nodes.keys().map(String::as_str), &pairs)
        .into_iter()
        .map(|cycle| circular(&edges, &cycle))
        .collect()
}

/// The nodes that a reference leads to: itself, or for a model those whose weights it runs.
fn behind<'a>(names: &'a Names, to: &'a Target) -> Vec<&'a str> {
    match to {
        Target::Node(to) => vec![to.node.as_str()],
        Target::Model(model) => {
            let references = names.models.get(model).into_iter().flatten();
            let node = |reference: &'a (Span, Reference)| match &reference.1.to {
                Target::Node(to) => Some(to.node.as_str()),
                Target::Model(_) => None,
            };
            references.filter_map(node).collect()
        }
    }
}

/// Drawn at the edge that closes the circle.
fn circular(edges: &BTreeMap<(&str, &str), Span>, cycle: &[String]) -> Diagnostic {
    let (first, last) = (&cycle[0], &cycle[cycle.len() - 1]);
    let span = edges[&(last.as_str(), first.as_str())];
    let way = cycle.iter().chain([first]).map(String::as_str).collect::<Vec<_>>().join(" → ");
    let (message, hint) = match cycle {
        [alone] => (format!("`{alone}` needs itself"), "let it read an earlier node"),
        _ => (format!("these nodes need each other: {way}"), "let one of them read an earlier node"),
    };
    Diagnostic::error("cycle", Place::At(span), message).with_hint(Some(hint.to_string()))
}

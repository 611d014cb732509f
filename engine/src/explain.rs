//! Why a node's result is, or will be, another than it was: ingredient by ingredient, and up to the edit that began it.
//!
//! It compares stored preimages, which are what the keys were computed from; so the explanation cannot differ from the key.

use crate::differences::differences;
use crate::executor::past::generations;
use crate::manifest::{self, Known};
use crate::plan::unquoted;
use crate::spec::{Node, Recipe};
use cache::{ContentHash, Difference, Manifest, Store};
use serde_json::Value;
use stages::stage::NodeRef;
use std::collections::HashSet;

/// What is to be compared, and with what.
pub struct Explainer<'a> {
    pub recipe: &'a Recipe,
    pub store: &'a Store,
    pub known: &'a Known,
}

/// A node now, against an earlier result of it.
#[derive(Debug, PartialEq)]
pub struct Story {
    pub node: String,
    pub kind: &'static str,
    /// The earlier result; `None` where there is none.
    pub against: Option<Manifest>,
    pub changes: Vec<Change>,
}

#[derive(Debug, PartialEq)]
pub struct Change {
    pub difference: Difference,
    /// The content of an input that is not known before its node has run.
    pub is_open: bool,
    /// What changed in the node that makes this input; `None` for what the user writes, or where it is told already.
    pub cause: Option<Story>,
}

impl Story {
    /// The edits at the beginning: changes that no other node's change explains, with their nodes.
    pub fn roots(&self) -> Vec<(&str, &Difference)> {
        self.changes.iter().flat_map(|change| change.roots(&self.node)).collect()
    }
}

impl Change {
    fn roots<'a>(&'a self, node: &'a str) -> Vec<(&'a str, &'a Difference)> {
        match &self.cause {
            Some(cause) => cause.roots(),
            None => vec![(node, &self.difference)],
        }
    }
}

impl Explainer<'_> {
    /// Compares the node as it stands with `against`, a prefix of an earlier key, else with the newest result under another key.
    ///
    /// `None` if no earlier result has that prefix.
    pub fn story(&self, node: &str, against: Option<&str>) -> Option<Story> {
        let entry = &self.recipe.nodes[node];
        let now = manifest::draft(self.recipe, entry, self.known);
        let is_wanted = |earlier: &Manifest| match against {
            Some(prefix) => earlier.key.to_string().starts_with(prefix),
            None => now.preimage.action_key() != earlier.key,
        };
        let earlier = generations(self.store, &self.recipe.name, node).find(is_wanted);
        if against.is_some() && earlier.is_none() {
            return None;
        }
        Some(self.compare(entry, earlier, &mut HashSet::new()))
    }

    fn compare(&self, node: &Node, earlier: Option<Manifest>, told: &mut HashSet<String>) -> Story {
        told.insert(node.name.clone());
        let now = manifest::draft(self.recipe, node, self.known);
        let differences =
            earlier.as_ref().map(|earlier| differences(&earlier.preimage, &now.preimage)).unwrap_or_default();
        let changes = differences.into_iter().filter_map(|difference| self.change(node, difference, told));
        Story { node: node.name.clone(), kind: node.kind.name, changes: changes.collect(), against: earlier }
    }

    /// `None` for an input that is open only because of something that has not changed either.
    fn change(&self, node: &Node, difference: Difference, told: &mut HashSet<String>) -> Option<Change> {
        let Some(from) = self.producer(node, &difference.path) else {
            return Some(Change { difference, is_open: false, cause: None });
        };
        let is_open = self.known.output(&from).is_none();
        if told.contains(&from.node) {
            return (!is_open).then_some(Change { difference, is_open, cause: None });
        }
        let maker = &self.recipe.nodes[&from.node];
        let earlier = difference.old.as_ref().and_then(|content| self.made(maker, &from, content));
        let cause = self.compare(maker, earlier, told);
        let has_cause = cause.against.is_none() || !cause.changes.is_empty();
        Some(Change { difference, is_open, cause: has_cause.then_some(cause) })
    }

    /// The node whose output an ingredient is.
    fn producer(&self, node: &Node, path: &str) -> Option<NodeRef> {
        if let Some(port) = path.strip_prefix("inputs.").map(unquoted) {
            return node.stage.inputs().into_iter().find(|input| input.port == port).map(|input| input.from);
        }
        let port = unquoted(path.strip_prefix("models.")?.strip_suffix(".weights")?);
        let (_, model) = node.stage.models().into_iter().find(|(name, _)| name == port)?;
        self.recipe.model_node(&model)
    }

    /// The generation of a node that gave this content.
    fn made(&self, maker: &Node, from: &NodeRef, content: &Value) -> Option<Manifest> {
        let output = maker.output(&from.output)?.name;
        let gave = |one: &Manifest| one.outputs.get(&output).map(cache::Output::content);
        generations(self.store, &self.recipe.name, &maker.name)
            .find(|one| gave(one).is_some_and(|hash: ContentHash| *content == hash.to_string()))
    }
}

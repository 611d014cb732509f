//! One row's way from its source to a node: how it looked before and after each step, and every call on it.
//!
//! It reads finished work only. Calls are told by playing a step again for that one row with the kept replies.

mod calls;
mod lineage;
mod step;
mod tables;

pub use calls::{Numbered, numbered};
pub use lineage::Wanted;
pub use step::Change;

use crate::executor::artifacts::Trouble;
use crate::executor::replay::{self, Call, Player};
use crate::graph::Graph;
use crate::manifest::Known;
use crate::spec::{Node, Recipe};
use cache::{Manifest, Store};
use stages::rows::Rows;
use stages::stage::NodeRef;
use std::collections::HashMap;
use tables::Tables;

/// What a trace is told from.
pub struct Tracer<'a> {
    pub recipe: &'a Recipe,
    pub graph: &'a Graph,
    pub store: &'a Store,
    /// Finished work of the recipe as it stands, by node.
    pub current: HashMap<String, Manifest>,
    /// Contents as the recipe stands.
    pub known: Known,
    tables: Tables<'a>,
    player: Player<'a>,
}

/// The whole way, from the source on.
pub struct Story<'a> {
    /// At the end of the way.
    pub row_id: String,
    pub steps: Vec<Step<'a>>,
    /// Why the way ends before the node that was asked about.
    pub end: Option<String>,
    /// Why it begins after the source: what lies before is no longer here.
    pub lost: Option<String>,
}

/// What one node did with the row.
pub struct Step<'a> {
    pub work: Work<'a>,
    /// How the row came in; none at a source.
    pub before: Option<Rows>,
    /// As it went out, by output: one row a table, several where a problem was answered several times, none at a training.
    pub after: Vec<(String, Rows)>,
    pub calls: Vec<Call>,
    /// What became of the row, in the stage's words.
    pub outcome: Option<String>,
    /// Why calls cannot be shown, or what else is to be known about them.
    pub remark: Option<String>,
}

/// A generation of a node.
#[derive(Clone)]
pub struct Work<'a> {
    pub node: &'a Node,
    pub manifest: Manifest,
    /// What differs from the recipe as it stands, where this is an earlier generation.
    pub stale: Option<String>,
}

impl<'a> Tracer<'a> {
    ///
    /// # Errors
    /// If nothing can be played on this machine.
    pub fn new(
        recipe: &'a Recipe,
        graph: &'a Graph,
        store: &'a Store,
        current: HashMap<String, Manifest>,
        known: Known,
    ) -> Result<Tracer<'a>, Trouble> {
        let player = Player::new(recipe, store)?;
        Ok(Tracer { recipe, graph, store, current, known, tables: Tables::new(store), player })
    }

    /// The generation of a node with this content under one of its outputs; whoever made it, where the recipe was wired anew.
    fn made(&self, from: &NodeRef, content: &str) -> Option<Work<'a>> {
        let others = self.recipe.nodes.values().flat_map(|node| {
            let outputs = node.stage.outputs().into_iter();
            outputs.map(|output| NodeRef { node: node.name.clone(), output: output.name })
        });
        std::iter::once(from.clone()).chain(others).find_map(|from| {
            let node = &self.recipe.nodes[&from.node];
            let output = node.output(&from.output)?.name;
            let gives = |one: &Manifest| one.outputs.get(&output).is_some_and(|it| it.content().to_string() == content);
            let current = self.current.get(&from.node).filter(|one| gives(one)).cloned();
            let manifest = current.or_else(|| replay::maker(self.store, self.recipe, &from, content))?;
            Some(self.work(node, manifest))
        })
    }

    pub fn work(&self, node: &'a Node, manifest: Manifest) -> Work<'a> {
        let is_current = self.current.get(&node.name).is_some_and(|current| current.key == manifest.key);
        let stale = (!is_current).then(|| self.differences(node, &manifest));
        Work { node, manifest, stale }
    }

    /// What the recipe says otherwise by now, of what is known before anything runs.
    fn differences(&self, node: &Node, manifest: &Manifest) -> String {
        let draft = crate::manifest::draft(self.recipe, node, &self.known).preimage;
        let mut differences = crate::differences::differences(&manifest.preimage, &draft);
        let is_open = |value: &Option<serde_json::Value>| value.as_ref().is_none_or(serde_json::Value::is_null);
        differences.retain(|one| !(one.path.starts_with("inputs.") && is_open(&one.new)));
        match differences.is_empty() {
            true => "what it is made from changes".to_string(),
            false => crate::plan::Why::Changed(differences).to_string(),
        }
    }
}

//! Recipe text to a checked recipe, or all its mistakes at once. The only reader of YAML.

pub mod codes;
mod columns;
mod diagnostic;
pub mod egress;
mod frame;
mod matrix;
mod overlay;
mod params;
mod prices;
mod profiles;
mod recorded;
mod references;
mod resolve;
pub mod schema;
mod screen;
mod secrets;
mod sharing;
mod source;
mod syntax;
mod tree;

pub use diagnostic::Diagnostics;
pub use egress::EgressSettings;
pub use matrix::Variants;
pub use resolve::load;
pub use sharing::{PushPolicy, SharingSettings, TrustPolicy};
pub use source::{Sources, Span};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use stages::llm::Passage;
use stages::stage::{Kind, NodeRef, Output, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// A recipe without mistakes: every name it uses exists, every form fits, there is no cycle.
#[derive(Clone)]
pub struct Recipe {
    pub path: PathBuf,
    /// The file's stem.
    pub name: String,
    /// Part of every key; changing it makes everything anew.
    pub salt: Option<String>,
    /// The store that a team shares; no part of any key.
    pub sharing: SharingSettings,
    /// What may go to which model; `None` where the recipe says nothing about it.
    pub egress: Option<EgressSettings>,
    pub nodes: IndexMap<String, Node>,
    /// Which of the nodes a matrix has made.
    pub variants: Variants,
    pub models: IndexMap<String, ModelEntry>,
    pub sources: Arc<Sources>,
    /// Files and folders that were read for it or looked for. While none of them changes, it means the same.
    pub looked_at: BTreeSet<PathBuf>,
}

#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub kind: &'static Kind,
    pub stage: Arc<dyn Stage>,
    /// What its stage was read from: so that it can be read again as it was for an earlier result.
    pub fields: Map<String, Value>,
    pub seed: u64,
    /// What its draws are keyed by besides the seed: the kind, or `kind/stream`.
    pub stream: String,
    /// What the recipe's `egress:` lets through to its models, by port; none where no rule names them.
    pub passages: BTreeMap<String, Vec<Passage>>,
    /// Where its name stands.
    pub span: Span,
}

impl Node {
    /// The output that a reference means: the named one, or the first for no name.
    pub fn output(&self, name: &str) -> Option<Output> {
        let outputs = self.stage.outputs();
        if name.is_empty() {
            outputs.into_iter().next()
        } else {
            outputs.into_iter().find(|output| output.name == name)
        }
    }
}

#[derive(Clone)]
pub struct ModelEntry {
    pub name: String,
    pub spec: stages::llm::ModelSpec,
    /// The name or pattern of the recipe's `prices:` that its prices are from; `None` where it states its own, or has none.
    pub priced_by: Option<String>,
    /// Where its name stands.
    pub span: Span,
    /// Where it says where its key lies, else its name.
    key_span: Span,
}

/// What the command line lays over a recipe.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Names of overlays under `profiles:`, applied in this order.
    pub profile: Vec<String>,
    /// `a.b.c=value`, applied after the profiles.
    pub set: Vec<String>,
    /// Rows to sample at each source.
    pub limit: Option<usize>,
}

impl Recipe {
    /// Whether a node computes with models of this machine: trains one, or asks one that we run ourselves.
    pub fn needs_device(&self, node: &Node) -> bool {
        let is_ours = |(_, name): &(String, String)| self.models[name].spec.needs_device();
        node.stage.needs_device() || node.stage.models().iter().any(is_ours)
    }

    /// The node whose model a language model runs, where it is one (`provider: local`).
    pub fn model_node(&self, model: &str) -> Option<NodeRef> {
        self.models.get(model)?.spec.node()
    }

    /// What `nodes`, which will call their models, need from the environment or from key files and do not find there: one mistake a key.
    pub fn missing_environment<'a>(&self, nodes: impl IntoIterator<Item = &'a str>) -> Diagnostics {
        let called = nodes.into_iter().filter_map(|name| self.nodes.get(name)).flat_map(|node| node.stage.models());
        let list = resolve::missing_keys(&self.models, called.map(|(_, model)| model));
        Diagnostics::new(list, self.sources.clone())
    }
}

impl Recipe {
    /// What is wrong with the key of one model, if anything.
    pub fn missing_key(&self, model: &str) -> Diagnostics {
        let list = resolve::missing_keys(&self.models, std::iter::once(model.to_string()));
        Diagnostics::new(list, self.sources.clone())
    }
}

#[cfg(test)]
mod tests;

//! The keys of a recipe's nodes as they are now, found as `plan` finds them, in the store of this machine alone.

use crate::cli::{OverrideArgs, RecipeArgs, ScopeArgs, StoreArgs};
use crate::failure::Result;
use crate::plan::{Decision, Planned, Planner};
use crate::report::PlainReporter;
use crate::workplace::Workplace;
use cache::{ActionKey, Store};
use std::path::Path;

/// What is known of one node's key.
pub struct NodeKey {
    pub node: String,
    pub key: CurrentKey,
    /// Of its newest finished work, whatever it was made from.
    pub last: Option<ActionKey>,
}

pub enum CurrentKey {
    Finished(ActionKey),
    /// A run would begin or continue it.
    Open(ActionKey),
    /// It depends on results that are not there.
    Unknown,
}

/// Keys of all nodes of a recipe, or of those that `until` names and what they need, and the recipe's name.
pub fn keys_of(
    recipe: &Path,
    overrides: &OverrideArgs,
    until: &[String],
    store: &Store,
    store_arguments: &StoreArgs,
) -> Result<(String, Vec<NodeKey>)> {
    let arguments = RecipeArgs { recipe: recipe.to_path_buf(), overrides: overrides.clone() };
    let workplace = Workplace::open(&arguments, store_arguments)?;
    let wishes = workplace.wishes(&ScopeArgs { until: until.to_vec(), ..ScopeArgs::default() })?;
    let reporter = PlainReporter::new();
    let past = workplace.past(Some(store), &reporter);
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let planned = planner.plan(&mut workplace.known(&planner)?, &wishes)?;
    let keys = planned.iter().map(|one| node_key(&planner, one)).collect();
    Ok((workplace.recipe.name.clone(), keys))
}

fn node_key(planner: &Planner, planned: &Planned) -> NodeKey {
    let key = match &planned.decision {
        Decision::Hit(manifest) => CurrentKey::Finished(manifest.key),
        Decision::Run { preimage, .. } => CurrentKey::Open(preimage.action_key()),
        Decision::Waits { .. } => CurrentKey::Unknown,
    };
    let last = planned.last.as_ref().map(|manifest| manifest.key);
    NodeKey { node: planner.entry(planned.node).name.clone(), key, last }
}

impl NodeKey {
    /// All that the node may need: where its key is open or unknown, its newest finished work may come to be the right one again.
    pub fn needed(&self) -> impl Iterator<Item = ActionKey> {
        let (current, last) = match self.key {
            CurrentKey::Finished(key) => (Some(key), None),
            CurrentKey::Open(key) => (Some(key), self.last),
            CurrentKey::Unknown => (None, self.last),
        };
        current.into_iter().chain(last)
    }
}

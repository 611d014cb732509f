//! What a run would do, and why: pure, it sends nothing and writes nothing.

use crate::differences::differences;
use crate::failure::Result;
use crate::graph::{Graph, NodeIndex};
use crate::manifest::{self, Known};
use crate::report::words::shortened;
use crate::spec::{Node, Recipe};
use cache::{ActionKey, ContentHash, Difference, Manifest, Preimage};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

/// What a plan may ask about finished work. The store stands behind it, tests fake it.
pub trait Past: Sync {
    ///
    /// # Errors
    /// If a shared store does not answer: work that a colleague has done is not done again for that.
    fn find(&self, key: &ActionKey) -> Result<Option<Manifest>>;
    /// Whether all files of finished work are there, as far as a glance can tell.
    ///
    /// # Errors
    /// As [`Past::find`].
    fn is_whole(&self, manifest: &Manifest) -> Result<bool>;
    /// The latest finished work of a node of this recipe, whatever its key.
    fn last(&self, node: &str) -> Option<Manifest>;
    /// Whether the node has had this key before.
    fn had(&self, node: &str, key: &ActionKey) -> bool;
}

/// What the command line asks for beyond the recipe.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Bring only these nodes up to date, with what they need; none means all.
    pub until: Vec<String>,
    pub force: BTreeSet<String>,
    pub retry_marked: BTreeSet<String>,
    /// Execute these although they are finished, and compare.
    pub recheck: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub enum Decision {
    Hit(Box<Manifest>),
    Run {
        preimage: Preimage,
        why: Why,
    },
    /// Its key is not known before these have run; when they give what they gave before, it is a hit.
    Waits {
        on: Vec<String>,
    },
}

impl Decision {
    pub fn word(&self) -> &'static str {
        match self {
            Decision::Hit(_) => "hit",
            Decision::Run { .. } => "run",
            Decision::Waits { .. } => "waits",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    FirstRun,
    /// It was finished with these very ingredients, but the result is gone.
    Lost,
    Forced,
    RetryMarked,
    Changed(Vec<Difference>),
}

/// One node of a plan; where it is no hit, with the latest finished work as a measure of what lies ahead.
pub struct Planned {
    pub node: NodeIndex,
    pub decision: Decision,
    pub last: Option<Manifest>,
}

impl Planned {
    /// Finished work of this node, its present or its latest.
    pub fn finished(&self) -> Option<&Manifest> {
        match &self.decision {
            Decision::Hit(manifest) => Some(manifest),
            Decision::Run { .. } | Decision::Waits { .. } => self.last.as_ref(),
        }
    }
}

/// Decides nodes, for a plan all at once and for a run one by one as their inputs become known.
pub struct Planner<'a> {
    pub recipe: &'a Recipe,
    pub graph: &'a Graph,
    pub past: &'a dyn Past,
    /// The nodes that it is about, in topological order.
    pub nodes: Vec<NodeIndex>,
    /// The same, to be asked for one.
    wanted: HashSet<NodeIndex>,
}

impl<'a> Planner<'a> {
    pub fn new(recipe: &'a Recipe, graph: &'a Graph, past: &'a dyn Past, wishes: &Wishes) -> Planner<'a> {
        let until = wishes.until.iter().map(|name| graph.index(name).expect("names of nodes were checked"));
        let needed: BTreeSet<NodeIndex> = until.flat_map(|node| graph.ancestors(node)).collect();
        let is_needed = |node: &NodeIndex| needed.is_empty() || needed.contains(node);
        let nodes: Vec<NodeIndex> = graph.order().iter().copied().filter(is_needed).collect();
        let wanted = nodes.iter().copied().collect();
        Planner { recipe, graph, past, nodes, wanted }
    }

    pub fn entry(&self, node: NodeIndex) -> &'a Node {
        &self.recipe.nodes[self.graph.name(node)]
    }

    pub fn entries(&self) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().map(|&node| self.entry(node))
    }

    /// Decides all nodes; contents of hits are added to `known`.
    ///
    /// # Errors
    /// As [`Past::find`].
    pub fn plan(&self, known: &mut Known, wishes: &Wishes) -> Result<Vec<Planned>> {
        let decide_next = |&node: &NodeIndex| {
            let entry = self.entry(node);
            let decision = self.decide(node, known, wishes)?.unwrap_or_else(|| self.waits(node, known));
            let last = match &decision {
                Decision::Hit(manifest) => {
                    known.add_outputs(&entry.name, contents(entry, manifest));
                    None
                }
                Decision::Run { .. } | Decision::Waits { .. } => self.past.last(&entry.name),
            };
            Ok(Planned { node, decision, last })
        };
        self.nodes.iter().map(decide_next).collect()
    }

    /// `None` while an input's content is not known.
    ///
    /// # Errors
    /// As [`Past::find`].
    pub fn decide(&self, node: NodeIndex, known: &Known, wishes: &Wishes) -> Result<Option<Decision>> {
        let entry = self.entry(node);
        let Some(preimage) = manifest::preimage(self.recipe, entry, known) else { return Ok(None) };
        if wishes.force.contains(&entry.name) {
            return Ok(Some(Decision::Run { preimage, why: Why::Forced }));
        }
        if wishes.retry_marked.contains(&entry.name) {
            return Ok(Some(Decision::Run { preimage, why: Why::RetryMarked }));
        }
        Ok(Some(match self.find(node, &preimage.action_key())? {
            Some(manifest) => Decision::Hit(Box::new(manifest)),
            None => Decision::Run { why: self.why(entry, &preimage), preimage },
        }))
    }

    /// Finished work under a key. Files that vanished matter only where no later node vouches for them: one that reads them will notice.
    ///
    /// # Errors
    /// As [`Past::find`].
    pub fn find(&self, node: NodeIndex, key: &ActionKey) -> Result<Option<Manifest>> {
        let entry = self.entry(node);
        let Some(found) = self.past.find(key)?.filter(|manifest| is_complete(entry, manifest)) else { return Ok(None) };
        let is_usable = !self.is_last(node) || self.past.is_whole(&found)?;
        Ok(is_usable.then_some(found))
    }

    /// Whether no node that this is about reads it.
    pub fn is_last(&self, node: NodeIndex) -> bool {
        self.graph.downstream(node).iter().all(|next| !self.wanted.contains(next))
    }

    fn why(&self, node: &Node, preimage: &Preimage) -> Why {
        if self.past.had(&node.name, &preimage.action_key()) {
            return Why::Lost;
        }
        match self.past.last(&node.name) {
            Some(last) => Why::Changed(differences(&last.preimage, preimage)),
            None => Why::FirstRun,
        }
    }

    fn waits(&self, node: NodeIndex, known: &Known) -> Decision {
        let upstream = self.graph.upstream(node).into_iter().map(|from| self.graph.name(from).to_string());
        Decision::Waits { on: upstream.filter(|name| !known.has(name)).collect() }
    }
}

/// What a manifest holds, in the order in which the stage declares its outputs.
pub fn contents(node: &Node, manifest: &Manifest) -> Vec<(String, ContentHash)> {
    let outputs = node.stage.outputs().into_iter();
    outputs.map(|output| (output.name.clone(), manifest.outputs[&output.name].content())).collect()
}

fn is_complete(node: &Node, manifest: &Manifest) -> bool {
    node.stage.outputs().iter().all(|output| manifest.outputs.contains_key(&output.name))
}

/// Differences named in one line; the rest is counted.
const SHOWN_DIFFERENCES: usize = 2;
const SHOWN_CHARACTERS: usize = 24;

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Why::FirstRun => f.write_str("first run"),
            Why::Lost => f.write_str("its result is no longer in the cache"),
            Why::Forced => f.write_str("forced"),
            Why::RetryMarked => f.write_str("marked rows are asked again"),
            Why::Changed(differences) => {
                let shown: Vec<String> =
                    differences.iter().take(SHOWN_DIFFERENCES).map(|one| describe(one, SHOWN_CHARACTERS)).collect();
                f.write_str(&shown.join(", "))?;
                match differences.len().saturating_sub(SHOWN_DIFFERENCES) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// One changed ingredient in the recipe's words, values cut to `width`.
pub fn describe(difference: &Difference, width: usize) -> String {
    let path = difference.path.as_str();
    let (group, name) = path.split_once('.').unwrap_or((path, ""));
    match group {
        "prompts" => format!("prompt `{name}` changed"),
        "inputs" => format!("input `{}` changed", unquoted(name)),
        "models" if name.ends_with(".weights") => {
            format!("weights of `{}` changed", unquoted(name.trim_end_matches(".weights")))
        }
        "models" => format!(
            "model {} changed ({})",
            name.replacen(".identity", "", 1).replacen(".settings", "", 1),
            arrow(difference, width)
        ),
        "settings" => format!("{name} {}", arrow(difference, width)),
        "draws" => format!("{} {}", if name.is_empty() { "seed" } else { name }, arrow(difference, width)),
        "version" => format!("`decoct` does this differently now (version {})", arrow(difference, width)),
        _ if path.starts_with("files[") => "source file changed".to_string(),
        _ => format!("{path} {}", arrow(difference, width)),
    }
}

/// A port whose name holds a dot is quoted in paths.
pub fn unquoted(port: &str) -> &str {
    port.trim_matches('"')
}

fn arrow(difference: &Difference, width: usize) -> String {
    let show = |value: &Option<Value>| match value {
        None | Some(Value::Null) => "nothing".to_string(),
        Some(Value::String(text)) => shortened(text, width),
        Some(other) => shortened(&other.to_string(), width),
    };
    format!("{} → {}", show(&difference.old), show(&difference.new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reason_is_told_in_the_recipes_words() {
        let record = |value: Value| -> Preimage { serde_json::from_value(value).unwrap() };
        let old = record(json!({"settings": {"rounds": 3, "style": null}, "prompts": {"search": "a"}, "files": ["1"],
            "inputs": {"input": "1"}, "version": 1, "salt": null, "draws": {"seed": 7},
            "models": {"model": {"identity": {"temperature": 0.5}, "weights": null}}}));
        let check = |path: &str, value: Value, expected: &str| {
            let mut new = json!(old);
            *new.pointer_mut(path).unwrap() = value;
            assert_eq!(Why::Changed(old.differences(&record(new))).to_string(), expected);
        };
        check("/settings/rounds", json!(2), "rounds 3 → 2");
        check("/settings/style", json!("simple"), "style nothing → simple");
        check("/prompts/search", json!("b"), "prompt `search` changed");
        check("/files/0", json!("2"), "source file changed");
        check("/inputs/input", json!("2"), "input `input` changed");
        check("/draws/seed", json!(8), "seed 7 → 8");
        check("/version", json!(2), "`decoct` does this differently now (version 1 → 2)");
        check("/salt", json!("again"), "salt nothing → again");
        check("/models/model/identity/temperature", json!(1.0), "model model.temperature changed (0.5 → 1.0)");
        check("/settings", json!({"rounds": 1, "style": 2, "x": 3}), "rounds 3 → 1, style nothing → 2 and 1 more");
    }
}

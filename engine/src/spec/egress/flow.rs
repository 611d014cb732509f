//! Follows the columns that one rule keeps back through the graph: into whatever is made from them.

use super::{ModelEntry, Node, RuleSettings};
use crate::spec::columns::upstream_first;
use indexmap::IndexMap;
use stages::columns::Columns;
use stages::stage::{Form, Input, Stage};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Under this name goes what a trained model has seen.
const WEIGHTS: &str = "\0weights";

/// Column to the kept-back column that it is, or is made from.
type Roots = BTreeMap<String, String>;

/// What one rule keeps back, node by node.
pub struct Flow<'a> {
    rule: &'a RuleSettings,
    given: &'a HashMap<&'a str, Vec<Columns>>,
    /// What comes into a node and what comes out.
    through: HashMap<&'a str, Through>,
}

#[derive(Default)]
struct Through {
    /// Of the input's columns.
    before: Roots,
    /// What the node makes anew is made from this, if from any.
    read: Option<String>,
    after: Roots,
}

impl<'a> Flow<'a> {
    pub fn of(
        rule: &'a RuleSettings,
        nodes: &'a IndexMap<String, Node>,
        models: &IndexMap<String, ModelEntry>,
        inputs: &HashMap<&str, Vec<Input>>,
        given: &'a HashMap<&'a str, Vec<Columns>>,
    ) -> Flow<'a> {
        let mut flow = Flow { rule, given, through: HashMap::with_capacity(nodes.len()) };
        for node in upstream_first(nodes, inputs) {
            let through = flow.pass(node, models, &inputs[node.name.as_str()]);
            flow.through.insert(&node.name, through);
        }
        flow
    }

    /// The kept-back column that a word of a node's prompt is or is made from, if any.
    pub fn kept_back(&self, node: &Node, word: &str) -> Option<String> {
        let through = &self.through[node.name.as_str()];
        if self.rule.frees(word) {
            return None;
        }
        let given = &self.given[node.name.as_str()];
        let may_be_given =
            given.iter().any(|columns| columns.names().is_none_or(|names| names.iter().any(|name| name == word)));
        let of_input = if may_be_given { self.root(&through.before, word) } else { None };
        let is_made_here = !may_be_given || made_by(&*node.stage).contains(word);
        of_input.or_else(|| through.read.clone().filter(|_| is_made_here))
    }

    fn root(&self, before: &Roots, column: &str) -> Option<String> {
        if self.rule.frees(column) {
            return None;
        }
        before.get(column).cloned().or_else(|| self.rule.holds_back(column).then(|| column.to_string()))
    }

    fn pass(&self, node: &Node, models: &IndexMap<String, ModelEntry>, inputs: &[Input]) -> Through {
        let mut before = Roots::new();
        let asked = node.stage.models().into_iter().filter_map(|(_, name)| models.get(&name)?.spec.node());
        let asked: Vec<String> = asked.map(|from| from.node).collect();
        for from in inputs.iter().map(|input| &input.from.node).chain(&asked) {
            if let Some(through) = self.through.get(from.as_str()) {
                let from_model =
                    |name: &&String| asked.contains(from).then_some(name.as_str() == WEIGHTS).unwrap_or(true);
                let columns = through.after.iter().filter(|(name, _)| from_model(name));
                before.extend(columns.map(|(name, root)| (name.clone(), root.clone())));
            }
        }
        let words = read_by(&*node.stage);
        let read = before.get(WEIGHTS).cloned().or_else(|| words.iter().find_map(|word| self.root(&before, word)));
        let read = read.filter(|_| !inputs.is_empty());
        let mut after = before.clone();
        for made in made_by(&*node.stage) {
            match &read {
                _ if self.rule.frees(&made) => _ = after.remove(&made),
                Some(root) => _ = after.insert(made, root.clone()),
                None => {}
            }
        }
        if let Some(root) = &read
            && node.stage.outputs().iter().any(|output| output.form == Form::Model)
        {
            after.insert(WEIGHTS.to_string(), root.clone());
        }
        Through { before, read, after }
    }
}

/// The columns that a node makes, whatever its input has.
fn made_by(stage: &dyn Stage) -> BTreeSet<String> {
    let nothing: Vec<Columns> = stage.inputs().iter().map(|_| Columns::known([""; 0])).collect();
    if nothing.is_empty() {
        return BTreeSet::new();
    }
    let rows = stage.outputs().into_iter().filter(|output| output.form == Form::Rows);
    let made = rows.map(|output| stage.columns(&output.name, &nothing));
    made.flat_map(|columns| columns.names().unwrap_or_default().to_vec()).collect()
}

/// The words of its input that a node reads to make what it makes.
fn read_by(stage: &dyn Stage) -> BTreeSet<String> {
    let needs = stage.needs().into_iter().flat_map(|need| need.any);
    let prompts = stage.prompts().into_iter().flat_map(|(_, prompt)| prompt.uses());
    needs.chain(prompts).collect()
}

/// The words that the model behind a port sees. A judge behind a port of its own sees the judge's prompt and no other.
pub fn shown_to(stage: &dyn Stage, port: &str) -> BTreeSet<String> {
    let has_judge = stage.models().iter().any(|(port, _)| port == "verifier");
    let goes_there = |name: &str| !has_judge || (name == "verify") == (port == "verifier");
    stage.prompts().into_iter().filter(|(name, _)| goes_there(name)).flat_map(|(_, prompt)| prompt.uses()).collect()
}

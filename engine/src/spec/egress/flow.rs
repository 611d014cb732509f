//! Follows the columns that one rule keeps back through the graph: into whatever is made from them.

use super::{ModelEntry, Node, RuleSettings};
use crate::spec::columns::upstream_first;
use indexmap::IndexMap;
use stages::columns::Columns;
use stages::stage::{Form, Input, Stage};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Under this name goes what a trained model has seen.
const WEIGHTS: &str = "\0weights";

/// Made column to the kept-back column that it is made from; `None` where it is made from what may go. What is not in here is judged by
/// its name.
type Roots = BTreeMap<String, Option<String>>;

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
        match before.get(column) {
            Some(root) => root.clone(),
            None => self.rule.holds_back(column).then(|| column.to_string()),
        }
    }

    fn pass(&self, node: &Node, models: &IndexMap<String, ModelEntry>, inputs: &[Input]) -> Through {
        let before = self.before(node, inputs);
        let asked = node.stage.models().into_iter().filter_map(|(_, name)| models.get(&name)?.spec.node());
        let asked: Vec<String> = asked.map(|from| from.node).collect();
        let models =
            inputs.iter().filter(|input| input.form == Form::Model).map(|input| &input.from.node).chain(&asked);
        let of_weights = |from: &String| self.through.get(from.as_str())?.after.get(WEIGHTS)?.clone();
        let read = models.filter_map(of_weights).next();
        let read = read.or_else(|| read_by(&*node.stage).iter().find_map(|word| self.root(&before, word)));
        let read = read.filter(|_| !inputs.is_empty());
        let mut after = before.clone();
        for made in made_by(&*node.stage) {
            let own = (self.rule.denies(&made) && !self.rule.frees(&made)).then(|| made.clone());
            // A row that does not go on may keep what stood there before.
            let made_from = || read.clone().or_else(|| before.get(&made).cloned().flatten());
            let root = own.or_else(|| made_from().filter(|_| !self.rule.frees(&made)));
            after.insert(made, root);
        }
        if node.stage.outputs().iter().any(|output| output.form == Form::Model) {
            after.insert(WEIGHTS.to_string(), read.clone());
        }
        Through { before, read, after }
    }

    /// What all tables that a node reads have made columns from; of two with one name the kept-back one counts.
    fn before(&self, node: &Node, inputs: &[Input]) -> Roots {
        let mut before = Roots::new();
        let tables = inputs.iter().zip(&self.given[node.name.as_str()]).filter(|(input, _)| input.form == Form::Rows);
        let tables: Vec<(&Through, &Columns)> = tables
            .filter_map(|(input, columns)| Some((self.through.get(input.from.node.as_str())?, columns)))
            .collect();
        for name in tables.iter().flat_map(|(from, _)| from.after.keys()).filter(|name| *name != WEIGHTS) {
            let may_have = |columns: &Columns| columns.names().is_none_or(|names| names.contains(name));
            let roots =
                tables.iter().filter(|(_, columns)| may_have(columns)).map(|(from, _)| self.root(&from.after, name));
            before.insert(name.clone(), roots.flatten().next());
        }
        before
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

//! The `egress:` part of a recipe: which models may see which columns and which rows. What it forbids for certain is a mistake of the
//! recipe; what only a row can tell is kept back row by row (`stages::llm::gate`).
//!
//! A rule holds for a column wherever it is, and for whatever is made from it, until the rule itself releases a column.

mod flow;

use super::columns::{self, shown};
use super::diagnostic::{Diagnostic, Place};
use super::prices::fits;
use super::resolve::placed;
use super::tree::{self, Tree};
use super::{ModelEntry, Node};
use flow::{Flow, shown_to};
use indexmap::IndexMap;
use stages::columns::Columns;
use stages::llm::{Expression, Passage};
use stages::settings::{Reader, Settings, Step, nearest_hint};
use stages::stage::{Form, Input};
use std::collections::{BTreeSet, HashMap};

/// Every model that answers on this machine.
const LOCAL: &str = "local";

stages::choice! {
    /// What goes to a server that no rule names.
    pub enum EgressDefault {
        /// Nothing.
        "deny" => Deny,
        /// Everything.
        "allow" => Allow,
    }
}

stages::settings! {
    /// What may leave for which model. Models that answer in this process are free unless a rule names them.
    pub struct EgressSettings {
        /// What goes to a server that no rule names: nothing (`deny`) or everything (`allow`).
        pub default: EgressDefault = EgressDefault::Deny,
        /// All rules that name a model hold for it together.
        pub rules: Vec<RuleSettings> = Vec::new(),
    }
}

stages::settings! {
    /// What may go to some models.
    pub struct RuleSettings {
        /// Models by name, servers by host (`*.openai.com`, `10.0.0.7:8000`), or `local`: every model on this machine.
        pub to: Vec<String>,
        /// Which columns; all where left out.
        pub columns: Option<ColumnSettings> = None,
        /// Only rows for which this holds, in the words of `filter`'s `where`.
        pub rows: Option<Expression> = None,
    }
}

stages::settings! {
    /// Columns that models may see.
    pub struct ColumnSettings {
        /// Only these, and what is made from them alone; or `deny`.
        pub allow: Option<Vec<String>> = None,
        /// All but these and what is made from them.
        pub deny: Vec<String> = Vec::new(),
        /// May go although they are made from columns that may not (a text without names).
        pub release: Vec<String> = Vec::new(),
    }
}

impl RuleSettings {
    /// Whether the rule holds for a model.
    pub fn names(&self, model: &ModelEntry) -> bool {
        self.to.iter().any(|to| names(to, model))
    }

    /// Whether the rule itself lets a column of this name go, whatever it is made from.
    fn frees(&self, column: &str) -> bool {
        let Some(columns) = &self.columns else { return true };
        let is_in = |names: &[String]| names.iter().any(|name| name == column);
        is_in(&columns.release) || columns.allow.as_deref().is_some_and(is_in)
    }

    /// Whether the rule denies a column by name.
    fn denies(&self, column: &str) -> bool {
        self.columns.iter().any(|columns| columns.deny.iter().any(|name| name == column))
    }

    /// Whether the rule keeps back a column of this name.
    fn holds_back(&self, column: &str) -> bool {
        let Some(columns) = &self.columns else { return false };
        (self.denies(column) || columns.allow.is_some()) && !self.frees(column)
    }

    fn passage(&self, index: usize) -> Passage {
        let denied = self.columns.iter().flat_map(|columns| columns.deny.iter()).filter(|name| !self.frees(name));
        Passage { rule: index + 1, rows: self.rows.clone(), hidden: denied.cloned().collect() }
    }
}

fn names(to: &str, model: &ModelEntry) -> bool {
    let name = model.name.split('/').next().unwrap_or_default();
    if to == model.name || to == name {
        return true;
    }
    let hosts = model.spec.hosts();
    if to == LOCAL {
        return hosts.iter().all(|host| is_loopback(host));
    }
    let pattern = to.to_lowercase();
    hosts.iter().any(|host| fits(&pattern, host) || fits(&pattern, without_port(host)))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Reads the part.
pub fn read(recipe: &Tree) -> (Option<EgressSettings>, Vec<Diagnostic>) {
    let Some(part) = recipe.get("egress").filter(|part| !part.is_null()) else { return Default::default() };
    let mut reader = Reader::default();
    let settings = match part.as_map() {
        Some(entries) => EgressSettings::read_fields(&tree::json_fields(entries), &mut reader),
        None => {
            let hint = "`egress: { rules: [{ to: [teacher], columns: { deny: [name] } }] }`".to_string();
            reader.mistake("wrong-type", "`egress` must be a mapping", Some(hint));
            None
        }
    };
    let place = |steps: &[Step]| recipe.place(&[&[Step::Key("egress".to_string())], steps].concat());
    (settings, reader.mistakes.into_iter().map(|mistake| placed(mistake, place)).collect())
}

/// Gives each node what passes to its models, and finds what a rule forbids for certain, or names in vain.
pub fn apply(
    settings: &EgressSettings,
    recipe: &Tree,
    nodes: &mut IndexMap<String, Node>,
    models: &IndexMap<String, ModelEntry>,
) -> Vec<Diagnostic> {
    let check = Check { settings, recipe, nodes, models };
    let mut mistakes = check.wrong_rules();
    mistakes.extend(check.unnamed());
    let inputs = columns::inputs_of(nodes);
    let given = columns::given(nodes, &inputs);
    mistakes.extend(check.unknown_columns(&given));
    for (index, rule) in settings.rules.iter().enumerate() {
        mistakes.extend(check.missing_in_rows(index, rule, &inputs, &given));
        mistakes.extend(check.shown_in_vain(index, rule, &inputs, &given));
    }
    let passages = check.passages();
    for (node, passages) in nodes.values_mut().zip(passages) {
        node.passages = passages;
    }
    mistakes
}

struct Check<'a> {
    settings: &'a EgressSettings,
    recipe: &'a Tree,
    nodes: &'a IndexMap<String, Node>,
    models: &'a IndexMap<String, ModelEntry>,
}

impl Check<'_> {
    fn place(&self, index: usize, steps: &[Step]) -> Place {
        let rule = [Step::Key("egress".into()), Step::Key("rules".into()), Step::Index(index)];
        Place::At(self.recipe.place(&[&rule, steps].concat()))
    }

    /// Names of models that are not there, and columns given in two ways.
    fn wrong_rules(&self) -> Vec<Diagnostic> {
        let mut mistakes = Vec::new();
        for (index, rule) in self.settings.rules.iter().enumerate() {
            for (number, to) in rule.to.iter().enumerate() {
                let is_host = to == LOCAL || to == "localhost" || to.contains(['.', ':', '*']);
                if !is_host && !self.models.values().any(|model| names(to, model)) {
                    let at = self.place(index, &[Step::Key("to".into()), Step::Index(number)]);
                    let known = self.models.keys().map(String::as_str).chain([LOCAL]);
                    let message = format!("unknown model `{to}`");
                    mistakes.push(Diagnostic::error("unknown-model", at, message).with_hint(nearest_hint(to, known)));
                }
            }
            if rule.columns.as_ref().is_some_and(|columns| columns.allow.is_some() && !columns.deny.is_empty()) {
                let at = self.place(index, &[Step::Key("columns".into())]);
                let hint = Some("`allow` lets nothing else through: leave `deny` out".to_string());
                mistakes
                    .push(Diagnostic::error("both-given", at, "`allow` and `deny` exclude each other").with_hint(hint));
            }
        }
        mistakes
    }

    /// Servers that are asked, and that no rule names although it needs one.
    fn unnamed(&self) -> Vec<Diagnostic> {
        if self.settings.default == EgressDefault::Allow {
            return Vec::new();
        }
        let mistake = |(node, model): (&Node, &ModelEntry)| {
            let (name, hosts) = (&model.name, model.spec.hosts().join("`, `"));
            let message =
                format!("`{}` asks `{name}`, and no rule of `egress` lets anything go to `{hosts}`", node.name);
            let hint = Some(format!("name it in a rule: `- to: [{name}]` with the columns that it may see"));
            Diagnostic::error("may-not-leave", Place::At(node.span), message).with_hint(hint)
        };
        let is_unnamed = |model: &ModelEntry| {
            !model.spec.hosts().is_empty() && !self.settings.rules.iter().any(|rule| rule.names(model))
        };
        let mut asked: Vec<(&Node, &ModelEntry)> = self.asked().map(|(node, _, model)| (node, model)).collect();
        asked.dedup_by_key(|(node, model)| (&node.name, &model.name));
        asked.into_iter().filter(|(_, model)| is_unnamed(model)).map(mistake).collect()
    }

    /// Node, port and model of each way out.
    fn asked(&self) -> impl Iterator<Item = (&Node, String, &ModelEntry)> {
        let ports = |node| Node::ports(node).into_iter().map(move |(port, model)| (node, port, model));
        self.nodes.values().flat_map(ports).filter_map(|(node, port, name)| Some((node, port, self.models.get(&name)?)))
    }

    /// Columns that a rule names and no rows have, where all columns are known.
    fn unknown_columns(&self, given: &HashMap<&str, Vec<Columns>>) -> Vec<Diagnostic> {
        let mut there: BTreeSet<&str> = BTreeSet::new();
        let outputs = |node: &Node| {
            let rows = node.stage.outputs().into_iter().filter(|output| output.form == Form::Rows);
            rows.map(|output| node.stage.columns(&output.name, &given[node.name.as_str()])).collect::<Vec<_>>()
        };
        let all: Vec<Columns> = self.nodes.values().flat_map(outputs).collect();
        for columns in &all {
            let Some(names) = columns.names() else { return Vec::new() };
            there.extend(names.iter().map(String::as_str));
        }
        let mut mistakes = Vec::new();
        for (index, rule) in self.settings.rules.iter().enumerate() {
            let columns = rule.columns.iter();
            let lists = columns.flat_map(|columns| {
                let allow = columns.allow.as_deref().unwrap_or_default();
                [("allow", allow), ("deny", &columns.deny), ("release", &columns.release)]
            });
            for (key, names) in lists {
                for (number, name) in names.iter().enumerate().filter(|(_, name)| !there.contains(name.as_str())) {
                    let steps = [Step::Key("columns".into()), Step::Key(key.into()), Step::Index(number)];
                    let message = format!("no rows of the recipe have a column `{name}`");
                    let hint = nearest_hint(name, there.iter().copied());
                    let mistake = Diagnostic::error("unknown-column", self.place(index, &steps), message);
                    mistakes.push(mistake.with_hint(hint));
                }
            }
        }
        mistakes
    }

    /// Rows of which a rule could not tell whether they may go.
    fn missing_in_rows(
        &self,
        index: usize,
        rule: &RuleSettings,
        inputs: &HashMap<&str, Vec<Input>>,
        given: &HashMap<&str, Vec<Columns>>,
    ) -> Vec<Diagnostic> {
        let Some(rows) = &rule.rows else { return Vec::new() };
        let mut missing: Vec<(&str, String)> = Vec::new();
        for (node, _, _) in self.asked().filter(|(.., model)| rule.names(model)) {
            let columns = inputs[node.name.as_str()].iter().zip(&given[node.name.as_str()]);
            for (input, columns) in columns.filter(|(input, _)| input.form == Form::Rows) {
                let is_missing = |name: &&String| columns.names().is_some_and(|names| !names.contains(name));
                let from = shown(&input.from);
                missing.extend(rows.columns.iter().filter(is_missing).map(|name| (name.as_str(), from.clone())));
            }
        }
        missing.sort();
        missing.dedup();
        let mistake = |(column, from): (&str, String)| {
            let at = self.place(index, &[Step::Key("rows".into())]);
            let message = format!("rule {} decides by the column `{column}`, which `{from}` does not have", index + 1);
            Diagnostic::error("unknown-column", at, message)
                .with_hint(Some("without it no row of these could be known to be free to go".to_string()))
        };
        missing.into_iter().map(mistake).collect()
    }

    /// Prompts that would show a model what a rule keeps from it.
    fn shown_in_vain(
        &self,
        index: usize,
        rule: &RuleSettings,
        inputs: &HashMap<&str, Vec<Input>>,
        given: &HashMap<&str, Vec<Columns>>,
    ) -> Vec<Diagnostic> {
        if rule.columns.is_none() {
            return Vec::new();
        }
        let flow = Flow::of(rule, self.nodes, self.models, inputs, given);
        let mut mistakes = Vec::new();
        for (node, port, model) in self.asked().filter(|(.., model)| rule.names(model)) {
            for word in shown_to(&*node.stage, &port) {
                let Some(root) = flow.kept_back(node, &word) else { continue };
                let (rule, name) = (index + 1, &model.name);
                let made = if root == word { String::new() } else { format!(": it is made from `{root}`") };
                let message = format!(
                    "`{}` would show `{word}` to `{name}`, from which rule {rule} of `egress` keeps it{made}",
                    node.name
                );
                let hint = match root == word {
                    true => {
                        format!("leave `{{{{ {word} }}}}` out of the prompt, or let a model answer that may see it")
                    }
                    false => format!("if nothing of `{root}` is left in it, say so in the rule: `release: [{word}]`"),
                };
                mistakes.push(Diagnostic::error("may-not-leave", Place::At(node.span), message).with_hint(Some(hint)));
            }
        }
        mistakes.dedup_by(|one, other| one.repeats(other));
        mistakes
    }

    /// What passes, by port, for each node in its order.
    fn passages(&self) -> Vec<std::collections::BTreeMap<String, Vec<Passage>>> {
        let of_port = |(port, name): (String, String)| {
            let model = self.models.get(&name)?;
            let rules = self.settings.rules.iter().enumerate().filter(|(_, rule)| rule.names(model));
            let passages: Vec<Passage> = rules.map(|(index, rule)| rule.passage(index)).collect();
            (!passages.is_empty()).then_some((port, passages))
        };
        self.nodes.values().map(|node| node.ports().into_iter().filter_map(of_port).collect()).collect()
    }
}

/// What one node shows one model, as far as rows and prompts go.
pub struct Sight<'a> {
    pub model: &'a str,
    pub hosts: Vec<String>,
    /// Columns and what the node makes of them, by the names that its prompts use.
    pub words: Vec<String>,
    /// Numbers of the rules that hold for the model.
    pub rules: Vec<usize>,
}

/// What a node shows the models that do not answer in this process, and those that a rule names.
pub fn sights<'a>(node: &Node, models: &'a IndexMap<String, ModelEntry>) -> Vec<Sight<'a>> {
    let mut sights: Vec<Sight> = Vec::new();
    for (port, name) in node.ports() {
        let (Some(model), passages) = (models.get(&name), node.passages.get(&port)) else { continue };
        let (hosts, words) = (model.spec.hosts(), shown_to(&*node.stage, &port));
        let rules = passages.into_iter().flatten().map(|passage| passage.rule).collect::<Vec<_>>();
        let is_known = sights.iter().any(|sight| sight.model == model.name);
        let is_free = hosts.is_empty() && rules.is_empty();
        if !is_known && !is_free {
            sights.push(Sight { model: &model.name, hosts, words: words.into_iter().collect(), rules });
        }
    }
    sights
}

impl Node {
    /// Its model ports, each with the model's name.
    fn ports(&self) -> Vec<(String, String)> {
        self.stage.models()
    }
}

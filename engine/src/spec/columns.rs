//! Follows the names of columns through the graph, as far as kinds tell them, and finds those that a node will look for in vain.

use super::Node;
use super::diagnostic::{Diagnostic, Place};
use super::references::Names;
use super::source::Span;
use indexmap::IndexMap;
use stages::columns::{Columns, Need, NeedFrom};
use stages::settings::{Step, near_hint, nearest_hint};
use stages::stage::{Form, Input, NodeRef};
use std::collections::HashMap;

/// `written` leads from a node's name and a path inside of it to where that stands, if the recipe says it.
pub fn check(
    names: &Names,
    nodes: &IndexMap<String, Node>,
    written: impl Fn(&str, &[Step]) -> Option<Span>,
) -> Vec<Diagnostic> {
    let inputs = inputs_of(nodes);
    let given = given(nodes, &inputs);
    let mut mistakes = Vec::new();
    for node in upstream_first(nodes, &inputs) {
        let (read, columns) = (&inputs[node.name.as_str()], &given[node.name.as_str()]);
        for need in node.stage.needs() {
            let found = read.iter().zip(columns).find(|(input, _)| input.port == need.port);
            if let Some((input, columns)) = found.filter(|(_, columns)| need.is_missing(columns)) {
                let at = match &need.from {
                    NeedFrom::Setting(steps) => written(&node.name, steps),
                    NeedFrom::Prompt { setting, .. } => {
                        Some(written(&node.name, &[Step::Key(setting.to_string())]).unwrap_or(node.span))
                    }
                    NeedFrom::Kind => None,
                };
                // What a setting names by default, the kind looks for.
                let from = if at.is_none() { NeedFrom::Kind } else { need.from };
                let at = at.or_else(|| names.span_of(&node.name, &input.from)).unwrap_or(node.span);
                mistakes.push(missing(node, Need { from, ..need }, input, columns, at));
            }
        }
    }
    mistakes
}

/// What each node reads, by its name.
pub fn inputs_of(nodes: &IndexMap<String, Node>) -> HashMap<&str, Vec<Input>> {
    nodes.values().map(|node| (node.name.as_str(), node.stage.inputs())).collect()
}

/// The columns of each of a node's inputs, by the node's name.
pub fn given<'a>(
    nodes: &'a IndexMap<String, Node>,
    inputs: &HashMap<&str, Vec<Input>>,
) -> HashMap<&'a str, Vec<Columns>> {
    let mut given: HashMap<&str, Vec<Columns>> = HashMap::with_capacity(nodes.len());
    for node in upstream_first(nodes, inputs) {
        let read = &inputs[node.name.as_str()];
        let columns = read.iter().map(|input| columns_of(nodes, &given, input)).collect();
        given.insert(&node.name, columns);
    }
    given
}

/// Every node after those that it reads; in a circle as it comes.
pub fn upstream_first<'a>(nodes: &'a IndexMap<String, Node>, inputs: &HashMap<&str, Vec<Input>>) -> Vec<&'a Node> {
    let mut order = Vec::with_capacity(nodes.len());
    let mut seen = vec![false; nodes.len()];
    let mut ahead: Vec<(usize, bool)> = (0..nodes.len()).rev().map(|index| (index, false)).collect();
    while let Some((index, is_ready)) = ahead.pop() {
        if is_ready {
            order.push(&nodes[index]);
        } else if !std::mem::replace(&mut seen[index], true) {
            ahead.push((index, true));
            let read = inputs[nodes[index].name.as_str()].iter();
            ahead.extend(read.filter_map(|input| Some((nodes.get_index_of(&input.from.node)?, false))));
        }
    }
    order
}

/// Unknown for what could not be read, for what stands in a circle, and where only a run can tell.
fn columns_of(nodes: &IndexMap<String, Node>, given: &HashMap<&str, Vec<Columns>>, input: &Input) -> Columns {
    let from = nodes.get(&input.from.node).filter(|_| input.form == Form::Rows);
    let columns = from.and_then(|from| Some((from, given.get(from.name.as_str())?)));
    columns.map_or_else(Columns::unknown, |(from, inputs)| from.stage.columns(&input.from.output, inputs))
}

fn missing(node: &Node, need: Need, input: &Input, columns: &Columns, at: Span) -> Diagnostic {
    let Need { any, from, .. } = need;
    let (given, wanted) = (shown(&input.from), any.join("` or `"));
    let known = || columns.names().into_iter().flatten().map(String::as_str);
    let hint = nearest_hint(&any[0], known());
    match from {
        NeedFrom::Kind => {
            let message =
                format!("`{}` looks for the column `{wanted}`, which `{given}` does not have", node.kind.name);
            Diagnostic::error("missing-column", Place::At(at), message).with_hint(hint)
        }
        NeedFrom::Setting(_) => {
            let message = format!("`{given}` has no column `{wanted}`");
            Diagnostic::error("unknown-column", Place::At(at), message).with_hint(hint)
        }
        NeedFrom::Prompt { place: file, .. } => {
            let message = format!("the prompt reads the column `{wanted}`, which `{given}` does not have");
            let ask = format!("ask first: `{{% if {0} %}}{{{{ {0} }}}}{{% endif %}}`", any[0]);
            let hint = near_hint(&any[0], known()).unwrap_or(ask);
            Diagnostic::error("missing-column", Place::File { file, named_at: at }, message).with_hint(Some(hint))
        }
    }
}

pub fn shown(from: &NodeRef) -> String {
    if from.output.is_empty() { from.node.clone() } else { format!("{}.{}", from.node, from.output) }
}

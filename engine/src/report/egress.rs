//! What may leave this machine by a recipe's `egress:`, for a plan: which model sees what of which node's rows, and which rows stay.

use super::words::counted;
use crate::forecast::Foreseen;
use crate::spec::Recipe;
use crate::spec::egress::{Sight, sights};
use serde_json::{Value, json};

/// Lines for people; none where the recipe has no such rules.
pub fn lines<'a>(recipe: &Recipe, nodes: impl Iterator<Item = (&'a str, &'a Foreseen)>) -> Vec<String> {
    if recipe.egress.is_none() {
        return Vec::new();
    }
    let mut lines = vec!["what leaves (`egress:`):".to_string()];
    for (name, foreseen) in nodes {
        let stay = foreseen.rows_kept_back.map(|rows| format!("; {} may not leave", counted(rows, "row")));
        let of_node = sights(&recipe.nodes[name], &recipe.models);
        lines.extend(
            of_node.iter().map(|sight| format!("  {name}: {}{}", line(sight), stay.as_deref().unwrap_or_default())),
        );
    }
    if lines.len() == 1 { vec!["what leaves (`egress:`): nothing".to_string()] } else { lines }
}

fn line(sight: &Sight) -> String {
    let place = if sight.hosts.is_empty() { "this process".to_string() } else { sight.hosts.join(", ") };
    let rules: Vec<String> = sight.rules.iter().map(usize::to_string).collect();
    let rules = match rules.len() {
        0 => "no rule".to_string(),
        1 => format!("rule {}", rules[0]),
        _ => format!("rules {}", rules.join(", ")),
    };
    format!("`{}` ({place}) sees {} by {rules}", sight.model, sight.words.join(", "))
}

/// The same for programs; null where the recipe has no such rules.
pub fn to_json<'a>(recipe: &Recipe, nodes: impl Iterator<Item = (&'a str, &'a Foreseen)>) -> Value {
    if recipe.egress.is_none() {
        return Value::Null;
    }
    let of_node = |(name, foreseen): (&str, &Foreseen)| {
        let sight = |sight: &Sight| {
            json!({"node": name, "model": sight.model, "hosts": sight.hosts, "sees": sight.words, "rules": sight.rules,
                "rows_kept_back": foreseen.rows_kept_back})
        };
        sights(&recipe.nodes[name], &recipe.models).iter().map(sight).collect::<Vec<_>>()
    };
    nodes.flat_map(of_node).collect()
}

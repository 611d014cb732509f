//! What differs between two records of ingredients, as the edit that was made: in the recipe's words, and without what only follows
//! from an edit that is told already.

use cache::{Difference, Preimage};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Older → newer. Empty exactly where both have one key.
pub fn differences(old: &Preimage, new: &Preimage) -> Vec<Difference> {
    let all = old.differences(new);
    let Some(told) = told(old, new, &all) else { return all };
    told
}

/// `None` where the words hide what the records say, such as parts in another order.
fn told(old: &Preimage, new: &Preimage, all: &[Difference]) -> Option<Vec<Difference>> {
    let mut told = in_words(old).differences(&in_words(new));
    let hides_settings = !told.iter().any(is_setting) && all.iter().any(is_setting);
    if hides_settings {
        return None;
    }
    told = models_as_one(old, new, told);
    let paths: BTreeSet<String> = told.iter().map(|one| one.path.clone()).collect();
    let has_setting = told.iter().any(|one| is_setting(one) && !is_name(one));
    told.retain(|one| !(is_told_below(one, &paths) || has_setting && follows(one, old, new)));
    let is_all_names = told.iter().all(is_name);
    told.retain(|one| is_all_names || !is_name(one));
    (!told.is_empty() || all.is_empty()).then_some(told)
}

fn in_words(record: &Preimage) -> Preimage {
    let mut record = json!(record);
    let kind = record["kind"].as_str().unwrap_or_default().to_string();
    if let Some(settings) = record.get_mut("settings") {
        *settings = stages::told::settings(&kind, settings);
    }
    serde_json::from_value(record).expect("a record is a mapping")
}

fn is_setting(one: &Difference) -> bool {
    one.path.starts_with("settings.")
}

/// A name that came or went: no key holds names, only that there is one.
fn is_name(one: &Difference) -> bool {
    let nothing = |value: &Option<Value>| value.as_ref().is_none_or(Value::is_null);
    is_setting(one) && nothing(&one.old) && nothing(&one.new)
}

/// A list or mapping that was empty and now holds something is told by what it holds.
fn is_told_below(one: &Difference, paths: &BTreeSet<String>) -> bool {
    let is_empty = |value: &Option<Value>| match value {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        _ => false,
    };
    let is_below = |path: &String| path.strip_prefix(&one.path).is_some_and(|rest| rest.starts_with(['.', '[']));
    (is_empty(&one.old) || is_empty(&one.new)) && paths.iter().any(is_below)
}

/// A setting decides whether a prompt is read at all, and whether anything is drawn.
fn follows(one: &Difference, old: &Preimage, new: &Preimage) -> bool {
    let draws_nothing = |record: &Preimage| record.get("draws").is_none_or(Value::is_null);
    let comes_or_goes = one.old.is_none() || one.new.is_none();
    (one.path.starts_with("prompts.") && comes_or_goes)
        || (one.path.starts_with("draws") && draws_nothing(old) != draws_nothing(new))
}

/// A model that came or went is one difference, whatever it declares.
fn models_as_one(old: &Preimage, new: &Preimage, differences: Vec<Difference>) -> Vec<Difference> {
    let ports = |record: &Preimage| -> BTreeSet<String> {
        let models = record.get("models").and_then(Value::as_object);
        models.map(|models| models.keys().cloned().collect()).unwrap_or_default()
    };
    let name = |record: &Preimage, port: &str| {
        let identity = record.get("models")?.get(port)?.get("identity")?;
        Some(identity.pointer("/settings/model").or_else(|| identity.get("provider"))?.clone())
    };
    let (before, after) = (ports(old), ports(new));
    let moved: Vec<&String> = before.symmetric_difference(&after).collect();
    let is_of = |one: &Difference, port: &str| {
        let path = one.path.strip_prefix("models.").map(|path| path.replace('"', ""));
        path.is_some_and(|path| path.strip_prefix(port).is_some_and(|rest| rest.starts_with('.')))
    };
    let rest = differences.into_iter().filter(|one| !moved.iter().any(|port| is_of(one, port)));
    let models = moved.iter().map(|port| Difference {
        path: format!("models.{port}"),
        old: name(old, port),
        new: name(new, port),
    });
    models.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: Value, new: Value, expected: &[&str]) {
        let record = |value: &Value| -> Preimage { serde_json::from_value(value.clone()).unwrap() };
        let (old, new) = (record(&old), record(&new));
        let told: Vec<String> = differences(&old, &new).into_iter().map(|one| one.path).collect();
        assert_eq!(told, expected, "{old:?} {new:?}");
    }

    #[test]
    fn the_edit_is_told_and_not_what_follows_from_it() {
        let search = |reveal: bool, prompts: Value| json!({"kind": "search", "settings": {"reveal": reveal}, "prompts": prompts});
        check(search(false, json!({})), search(true, json!({"reveal": "a"})), &["settings.reveal"]);
        check(search(true, json!({"reveal": "a"})), search(true, json!({"reveal": "b"})), &["prompts.reveal"]);
        check(search(true, json!({})), search(true, json!({"reveal": "b"})), &["prompts.reveal"]);
        let source =
            |limit: Value, draws: Value| json!({"kind": "source", "settings": {"limit": limit}, "draws": draws});
        check(
            source(json!(null), json!(null)),
            source(json!(5), json!({"seed": 7, "stream": "source"})),
            &["settings.limit"],
        );
        check(source(json!(5), json!({"seed": 7})), source(json!(5), json!({"seed": 8})), &["draws.seed"]);
        check(json!({"extra": {}}), json!({"extra": {"k": 1}}), &["extra.k"]);
        check(json!({"extra": {}}), json!({"extra": []}), &["extra"]);
    }

    #[test]
    fn a_mapping_is_told_by_its_names() {
        let split = |parts: Value| json!({"kind": "split", "settings": {"by": [], "parts": parts}});
        let half = json!([["a", {"share": 0.5}], ["b", {"count": 3}]]);
        check(split(half.clone()), split(json!([["a", {"share": 0.5}], ["b", {"share": 0.3}]])), &["settings.parts.b"]);
        check(split(half.clone()), split(json!([["b", {"count": 3}]])), &["settings.parts.a"]);
        let turned = split(json!([["b", {"count": 3}], ["a", {"share": 0.5}]]));
        check(
            split(half.clone()),
            turned,
            &[
                "settings.parts[0][0]",
                "settings.parts[0][1].count",
                "settings.parts[0][1].share",
                "settings.parts[1][0]",
                "settings.parts[1][1].count",
                "settings.parts[1][1].share",
            ],
        );
        let search = |weights: Value| json!({"kind": "search", "settings": {"strategies": weights}});
        check(
            search(json!([1.0, 0.0, 1.0, 1.0])),
            search(json!([1.0, 2.0, 1.0, 1.0])),
            &["settings.strategies.backtrack"],
        );
    }

    #[test]
    fn a_model_that_came_is_one_difference() {
        let weak =
            json!({"identity": {"provider": "rehearsal", "settings": {"seed": 1, "skill": 0.5}}, "weights": null});
        let filter = |names: Value, models: Value| json!({"kind": "filter", "settings": {"drop_if_all_solve": names}, "models": models});
        let one = filter(json!([null]), json!({"solver.0": weak}));
        check(
            one.clone(),
            filter(json!([null, null]), json!({"solver.0": weak, "solver.1": weak})),
            &["models.solver.1"],
        );
        check(one.clone(), one, &[]);
    }
}

//! What is laid over a recipe before it is read: profiles, then `--set`, then `--limit`.

use super::Overrides;
use super::diagnostic::{Diagnostic, Place};
use super::matrix;
use super::source::{Sources, Span};
use super::tree::{self, Entry, Tree, Value};
use indexmap::IndexMap;
use stages::settings::nearest_hint;

/// Parts of a recipe that a profile may hold. `egress` is not among them: what may not leave does not hang on a flag.
pub const PROFILE_KEYS: &[&str] = &["params", "matrix", "models", "nodes", "cache", "prices"];
const PARAMS: &str = "params";
/// Parts of a recipe that `--set` may reach into.
const SETTABLE_KEYS: &[&str] = &["params", "matrix", "models", "nodes", "prompts", "salt", "cache", "prices"];

pub fn apply(tree: &mut Tree, overrides: &Overrides, sources: &mut Sources, mistakes: &mut Vec<Diagnostic>) {
    for name in &overrides.profile {
        let source = sources.add("--profile", name);
        match profile(tree, name, Span { source, start: 0, end: name.len() }) {
            Ok(profile) => lay(tree, profile),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    for argument in &overrides.set {
        let source = sources.add("--set", argument);
        if let Err(mistake) = set(tree, argument, source, mistakes) {
            mistakes.push(mistake);
        }
    }
    if let Some(limit) = overrides.limit {
        let text = limit.to_string();
        let span = Span { source: 0, start: 0, end: text.len() };
        limit_sources(tree, limit, Span { source: sources.add("--limit", text), ..span });
    }
}

fn profile(tree: &Tree, name: &str, span: Span) -> Result<Tree, Diagnostic> {
    let profiles = tree.get("profiles").and_then(Tree::as_map);
    let found = profiles.and_then(|profiles| profiles.get(name));
    found.map(|entry| entry.tree.clone()).ok_or_else(|| {
        let hint = match profiles {
            Some(profiles) => nearest_hint(name, profiles.keys().map(String::as_str)),
            None => Some("the recipe has no `profiles:`".to_string()),
        };
        Diagnostic::error("unknown-profile", Place::At(span), format!("unknown profile `{name}`")).with_hint(hint)
    })
}

/// Lays a profile over a recipe. A parameter pins the axis of its name, unless the profile gives that axis values itself.
fn lay(tree: &mut Tree, profile: Tree) {
    let names = |part: &str| {
        let entries = profile.get(part).and_then(Tree::as_map).into_iter().flatten();
        entries.map(|(name, _)| name.clone()).collect::<Vec<String>>()
    };
    let (params, axes) = (names("params"), names(matrix::MATRIX));
    merge(tree, profile);
    params.iter().filter(|name| !axes.contains(name)).for_each(|name| matrix::pin(tree, name));
}

/// Lays `over` on `tree`: mappings merge, anything else replaces, nothing (`null`) takes the key away. An entry that names another `kind` or
/// `provider` starts anew, as settings of the old one would mean nothing to the new one.
fn merge(tree: &mut Tree, over: Tree) {
    let over = match (&tree.value, over.value) {
        (Value::Map(below), Value::Map(above)) if !changes_nature(below, &above) => above,
        (_, value) => {
            *tree = Tree { value, span: over.span };
            return;
        }
    };
    let Value::Map(entries) = &mut tree.value else { unreachable!("it was a mapping a line above") };
    for (key, entry) in over {
        merge_entry(entries, key, entry);
    }
}

fn merge_entry(entries: &mut IndexMap<String, Entry>, key: String, entry: Entry) {
    if entry.tree.is_null() {
        entries.shift_remove(&key);
        return;
    }
    give_way(entries, &key);
    match entries.get_mut(&key) {
        Some(below) => merge(&mut below.tree, entry.tree),
        None => drop(entries.insert(key, entry)),
    }
}

fn changes_nature(below: &IndexMap<String, Entry>, above: &IndexMap<String, Entry>) -> bool {
    // A base model read from a folder has nothing of one made from nothing.
    if below.contains_key("architecture") && above.contains_key("path") {
        return true;
    }
    ["kind", "provider"].iter().any(|key| {
        let words = [below, above].map(|entries| entries.get(*key).and_then(|entry| entry.tree.as_text()));
        words[0].is_some() && words[1].is_some() && words[0] != words[1]
    })
}

/// A `path` that is laid over a source replaces what the recipe would generate.
fn give_way(entries: &mut IndexMap<String, Entry>, key: &str) {
    if key == "path" {
        entries.shift_remove("generate");
    }
}

/// `a.b.c=value`, the value being YAML.
fn set(tree: &mut Tree, argument: &str, source: usize, mistakes: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
    let whole = Span { source, start: 0, end: argument.len() };
    let Some((path, value)) = argument.split_once('=') else {
        let hint = "write `--set nodes.name.setting=value`".to_string();
        return Err(Diagnostic::error("not-an-assignment", Place::At(whole), "`=` is missing").with_hint(Some(hint)));
    };
    // Blanks in front keep every place that the parser reports true.
    let padded = " ".repeat(path.len() + 1) + value;
    let value = tree::parse(&padded, source, mistakes).map_err(|mistake| {
        mistake.with_hint(Some("the value is read as YAML; put it in quotes if it is text".to_string()))
    })?;
    let steps = steps(path, source);
    check_start(tree, &steps)?;
    if let ([(part, _)], true) = (&steps[..], value.as_map().is_none() && !value.is_null())
        && PROFILE_KEYS.contains(part)
    {
        return Err(Diagnostic::error("wrong-type", Place::At(value.span), format!("`{part}` must be a mapping")));
    }
    descend(tree, &steps, value)?;
    if let [("params", _), (name, _), ..] = steps[..] {
        matrix::pin(tree, name);
    }
    Ok(())
}

/// The words between the dots, each with its place.
fn steps(path: &str, source: usize) -> Vec<(&str, Span)> {
    let mut start = 0;
    path.split('.')
        .map(|word| {
            let span = Span { source, start, end: start + word.len() };
            start += word.len() + 1;
            (word, span)
        })
        .collect()
}

/// The part, and below it the parameter, model or node, must exist; settings below are checked when they are read.
fn check_start(tree: &Tree, steps: &[(&str, Span)]) -> Result<(), Diagnostic> {
    let (part, span) = steps[0];
    if !SETTABLE_KEYS.contains(&part) {
        return Err(unknown_path(part, span, SETTABLE_KEYS.iter().copied()));
    }
    let Some((name, span)) = steps.get(1).filter(|_| part != "cache") else { return Ok(()) };
    // A parameter may become an axis, and an axis a parameter.
    let places = if [PARAMS, matrix::MATRIX].contains(&part) { vec![PARAMS, matrix::MATRIX] } else { vec![part] };
    let known = || places.iter().filter_map(|part| tree.get(part)?.as_map()).flat_map(IndexMap::keys);
    if known().any(|known| known == name) {
        return Ok(());
    }
    let unknown = unknown_path(name, *span, known().map(String::as_str));
    match tree.get(part).and_then(Tree::as_map) {
        Some(_) => Err(unknown),
        None => Err(unknown.with_hint(Some(format!("the recipe has no `{part}:`")))),
    }
}

fn unknown_path<'a>(word: &str, span: Span, known: impl IntoIterator<Item = &'a str>) -> Diagnostic {
    let message = format!("`{word}` is not in the recipe");
    Diagnostic::error("unknown-path", Place::At(span), message).with_hint(nearest_hint(word, known))
}

fn descend(tree: &mut Tree, steps: &[(&str, Span)], value: Tree) -> Result<(), Diagnostic> {
    let Some(((word, span), rest)) = steps.split_first() else {
        *tree = value;
        return Ok(());
    };
    match &mut tree.value {
        Value::Map(entries) if rest.is_empty() && value.is_null() => {
            entries.shift_remove(*word);
            Ok(())
        }
        Value::Map(entries) => {
            give_way(entries, word);
            let fresh = || Entry { name: *span, tree: Tree::empty_map(*span) };
            descend(&mut entries.entry(word.to_string()).or_insert_with(fresh).tree, rest, value)
        }
        Value::List(items) => {
            let count = items.len();
            let item = word.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            let message = || format!("`{word}` is not an index into a list of {count}");
            let item = item.ok_or_else(|| Diagnostic::error("unknown-path", Place::At(*span), message()))?;
            descend(item, rest, value)
        }
        Value::Plain(_) => {
            let message = format!("there is nothing to set below a plain value, so `{word}` leads nowhere");
            Err(Diagnostic::error("unknown-path", Place::At(*span), message))
        }
    }
}

fn limit_sources(tree: &mut Tree, limit: usize, span: Span) {
    let Value::Map(parts) = &mut tree.value else { return };
    let Some(Entry { tree: Tree { value: Value::Map(nodes), .. }, .. }) = parts.get_mut("nodes") else { return };
    for node in nodes.values_mut().filter(|node| node.tree.get("kind").and_then(Tree::as_text) == Some("source")) {
        let Value::Map(fields) = &mut node.tree.value else { continue };
        fields.insert("limit".to_string(), Entry { name: span, tree: Tree::plain(limit, span) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RECIPE: &str = "\
params: { seed: 7 }
models: { teacher: { provider: rehearsal, slips: 0.1 } }
nodes:
  exam: { kind: source, generate: tablets, rows: 9 }
  mixed: { kind: mix, inputs: [exam, exam] }
profiles:
  api: { models: { teacher: { provider: openai, model: m } } }
  few: { nodes: { exam: { rows: 3, generate: null } } }
";

    fn applied(overrides: Overrides) -> (serde_json::Value, Vec<String>) {
        let (mut sources, mut mistakes) = (Sources::default(), Vec::new());
        sources.add("recipe.yaml", RECIPE);
        let mut tree = tree::parse(RECIPE, 0, &mut mistakes).unwrap();
        apply(&mut tree, &overrides, &mut sources, &mut mistakes);
        let shown = |one: &Diagnostic| format!("{} {} {:?}", one.code, sources.slice(one.span()), one.hint);
        (tree.to_json(), mistakes.iter().map(shown).collect())
    }

    fn check(profile: &[&str], set: &[&str], limit: Option<usize>, pointer: &str, expected: serde_json::Value) {
        let own = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
        let (json, mistakes) = applied(Overrides { profile: own(profile), set: own(set), limit });
        assert_eq!(mistakes, Vec::<String>::new());
        assert_eq!(json.pointer(pointer).cloned().unwrap_or_default(), expected, "{profile:?} {set:?}");
    }

    #[test]
    fn profiles_merge_deep_and_a_new_provider_starts_anew() {
        check(&["api"], &[], None, "/models/teacher", json!({"provider": "openai", "model": "m"}));
        check(&["few"], &[], None, "/nodes/exam", json!({"kind": "source", "rows": 3}));
        check(&["few", "api"], &["nodes.exam.rows=4"], None, "/nodes/exam/rows", json!(4));
    }

    #[test]
    fn set_reads_yaml_and_a_path_replaces_what_is_generated() {
        check(&[], &["params.seed=8"], None, "/params/seed", json!(8));
        check(&[], &["nodes.exam.columns.question=q"], None, "/nodes/exam/columns", json!({"question": "q"}));
        check(&[], &["nodes.mixed.inputs.1=other"], None, "/nodes/mixed/inputs", json!(["exam", "other"]));
        check(&[], &["nodes.mixed.inputs=[a, b]"], None, "/nodes/mixed/inputs", json!(["a", "b"]));
        check(&[], &["salt=x=y"], None, "/salt", json!("x=y"));
        let path = json!({"kind": "source", "rows": 9, "path": "a b.jsonl"});
        check(&[], &["nodes.exam.path=a b.jsonl"], None, "/nodes/exam", path);
        check(&[], &[], Some(5), "/nodes/exam/limit", json!(5));
        check(&[], &[], Some(5), "/nodes/mixed/limit", json!(null));
    }

    #[test]
    fn words_that_lead_nowhere_are_mistakes_with_a_hint() {
        for (argument, expected) in [
            ("params.sed=8", r#"unknown-path sed Some("did you mean `seed`?")"#),
            ("node.exam.rows=8", r#"unknown-path node Some("did you mean `nodes`?")"#),
            ("nodes.exma.rows=8", r#"unknown-path exma Some("did you mean `exam`?")"#),
            ("nodes.mixed.inputs.2=x", "unknown-path 2 None"),
            ("nodes.exam.rows.deep=8", "unknown-path deep None"),
            ("params", r#"not-an-assignment params Some("write `--set nodes.name.setting=value`")"#),
        ] {
            let (_, mistakes) = applied(Overrides { set: vec![argument.to_string()], ..Default::default() });
            assert_eq!(mistakes, [expected], "{argument}");
        }
        let (_, mistakes) = applied(Overrides { profile: vec!["ap".to_string()], ..Default::default() });
        assert_eq!(mistakes, [r#"unknown-profile ap Some("did you mean `api`?")"#]);
    }
}

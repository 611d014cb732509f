//! The outermost layer of a recipe: its version, the words that may stand at its top, and what shape they have.

use super::diagnostic::{Diagnostic, Place};
use super::overlay::PROFILE_KEYS;
use super::tree::Tree;
use stages::settings::{Step, nearest_hint};

/// The version of the recipe language that we read.
const VERSION: u64 = 1;
/// Words at the top of a recipe.
const PARTS: &[&str] =
    &["version", "params", "matrix", "models", "nodes", "profiles", "prompts", "salt", "cache", "egress", "prices"];

pub fn check(tree: &Tree, mistakes: &mut Vec<Diagnostic>) {
    unknown_keys(tree, PARTS, mistakes);
    match tree.get("version").map(|version| (version, version.to_json())) {
        None => {
            let hint = Some(format!("start the recipe with `version: {VERSION}`"));
            let mistake = Diagnostic::error("missing-key", Place::At(tree.span), "`version` is missing");
            mistakes.push(mistake.with_hint(hint));
        }
        Some((_, version)) if version == VERSION => {}
        Some((at, version)) => {
            let message = format!("this decoct reads version {VERSION} of the recipe language, not `{version}`");
            let hint = Some(format!("write `version: {VERSION}`"));
            mistakes.push(Diagnostic::error("unknown-version", Place::At(at.span), message).with_hint(hint));
        }
    }
    for part in ["params", "models", "nodes", "profiles"] {
        require_map(tree, &[part], mistakes);
    }
    for profile in tree.get("profiles").and_then(Tree::as_map).into_iter().flatten() {
        require_map(tree, &["profiles", profile.0], mistakes);
        unknown_keys(&profile.1.tree, PROFILE_KEYS, mistakes);
        for part in PROFILE_KEYS {
            require_map(tree, &["profiles", profile.0, part], mistakes);
        }
    }
}

fn unknown_keys(tree: &Tree, known: &[&str], mistakes: &mut Vec<Diagnostic>) {
    for (key, entry) in tree.as_map().into_iter().flatten().filter(|(key, _)| !known.contains(&key.as_str())) {
        let hint = nearest_hint(key, known.iter().copied());
        let message = format!("unknown key `{key}`");
        mistakes.push(Diagnostic::error("unknown-key", Place::At(entry.name), message).with_hint(hint));
    }
}

/// What stands at `path`, if anything does, must be a mapping (or nothing).
fn require_map(tree: &Tree, path: &[&str], mistakes: &mut Vec<Diagnostic>) {
    let found = path.iter().try_fold(tree, |below, key| below.get(key));
    if found.is_some_and(|found| found.as_map().is_none() && !found.is_null()) {
        let steps: Vec<Step> = path.iter().map(|key| Step::Key(key.to_string())).collect();
        let message = format!("`{}` must be a mapping", path.join("."));
        mistakes.push(Diagnostic::error("wrong-type", Place::At(tree.place(&steps)), message));
    }
}

/// Of a text that holds something else, or nothing.
pub fn no_mapping(tree: &Tree) -> Diagnostic {
    let (code, message) = match tree.is_null() {
        true => ("empty-file", "the recipe is empty"),
        false => ("wrong-type", "a recipe is a mapping with `version`, `nodes` and what they need"),
    };
    let hint = Some("see `decoct schema`, or start from pipelines/medical.yaml".to_string());
    Diagnostic::error(code, Place::At(tree.span), message).with_hint(hint)
}

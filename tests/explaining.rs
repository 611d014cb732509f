//! What changed, and why: `explain` names the edited field and nothing else, `diff` shows what became of the rows.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use serde_json::Value;

const RECIPE: &str = "\
version: 1
params: { seed: 7 }
models:
  teacher: { provider: rehearsal, slip: 0.1 }
nodes:
  exam:     { kind: source, generate: tablets, rows: 40 }
  problems: { kind: reformat, input: exam, model: teacher }
  chains:   { kind: cot, input: problems, model: teacher, prompt: cot.md }
  halves:   { kind: split, input: chains, parts: { train: 0.5, test: 0.5 } }
";

fn cooked() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    let prompt = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/medical/prompts/cot.md");
    kitchen.write("cot.md", &std::fs::read_to_string(prompt).unwrap());
    kitchen.run(&[]).expect_done();
    kitchen
}

fn explained(kitchen: &Kitchen, node: &str, more: &[&str]) -> Value {
    let arguments = [&["explain", "recipe.yaml", node, "--format", "json"], more].concat();
    serde_json::from_str(&kitchen.says(&arguments)).unwrap()
}

/// `node:path` of every edit at the beginning of the story.
fn roots(story: &Value) -> Vec<String> {
    let root = |root: &Value| format!("{}:{}", root["node"].as_str().unwrap(), root["path"].as_str().unwrap());
    story["roots"].as_array().unwrap().iter().map(root).collect()
}

/// From the last node, whatever lies between: before the run, when contents on the way are not known, and after it.
#[test]
fn every_edit_is_named_and_nothing_else() {
    for (from, to, more, expected) in [
        ("rows: 40", "rows: 41", &[][..], "exam:settings.rows"),
        ("seed: 7", "seed: 7", &["--limit", "20"], "exam:settings.limit"),
        ("input: exam, model: teacher", "input: exam, model: teacher, asks: 2", &[], "problems:settings.asks"),
        ("prompt: cot.md", "prompt: cot.md, asks: 5", &[], "chains:settings.asks"),
        ("train: 0.5, test: 0.5", "train: 0.25, test: 0.5", &[], "halves:settings.parts.train"),
        ("version: 1", "version: 1", &["--set", "nodes.halves.seed=9"], "halves:draws.seed"),
        ("version: 1", "version: 1", &["--set", "nodes.halves.stream=other"], "halves:draws.stream"),
    ] {
        let kitchen = cooked();
        kitchen.edit("recipe.yaml", from, to);
        assert_eq!(roots(&explained(&kitchen, "halves", more)), [expected], "before the run, {to} {more:?}");
        kitchen.run(more).expect_done();
        let after = explained(&kitchen, "halves", more);
        assert_eq!(after["state"], "hit");
        // Where the same rows came out, the last node never had another key, and there is nothing to tell.
        let told = roots(&after);
        assert!(told.is_empty() || told == [expected], "after the run, {to} {more:?}: {told:?}");
    }
}

#[test]
fn an_edited_prompt_is_shown_as_edits_of_its_lines() {
    let kitchen = cooked();
    let prompt = kitchen.read("cot.md");
    kitchen.write("cot.md", &format!("{}\nBe brief.\n", prompt.trim_end()));
    assert_eq!(roots(&explained(&kitchen, "halves", &[])), ["chains:prompts.cot"]);
    let told = kitchen.says(&["explain", "recipe.yaml", "chains"]);
    let edits: Vec<&str> = told.lines().map(str::trim).filter(|line| line.starts_with(['+', '-'])).collect();
    assert_eq!(edits, ["+Be brief."], "{told}");
}

#[test]
fn an_edit_of_a_model_is_named_at_every_node_that_asks_it() {
    let kitchen = cooked();
    kitchen.edit("recipe.yaml", "slip: 0.1", "slip: 0.2");
    let mut told = roots(&explained(&kitchen, "halves", &[]));
    told.sort();
    let expected = ["chains", "problems"].map(|node| format!("{node}:models.model.identity.settings.slip"));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter().zip(&expected).all(|(told, node)| told.split(':').next() == node.split(':').next()),
        "{told:?}"
    );
    assert!(told.iter().all(|root| root.ends_with("slip")), "{told:?}");
}

/// Ports of lists are named with a dot: an edit is followed through them too.
#[test]
fn an_edit_is_followed_through_mixed_and_listed_inputs() {
    let every_kind = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/every_kind");
    let kitchen = Kitchen::copy_of(std::path::Path::new(every_kind));
    kitchen.run(&["--until", "lessons"]).expect_done();
    for (node, from, to, expected) in [
        ("lessons", "style: simple", "style: simple, asks: 4", "paths:settings.asks"),
        ("clean", "rows: 40", "rows: 41", "benchmark:settings.rows"),
    ] {
        kitchen.edit("recipe.yaml", from, to);
        assert_eq!(roots(&explained(&kitchen, node, &[])), [expected]);
        kitchen.edit("recipe.yaml", to, from);
    }
}

#[test]
fn an_earlier_generation_can_be_named() {
    let kitchen = cooked();
    kitchen.run(&["--set", "nodes.halves.seed=8"]).expect_done();
    kitchen.run(&["--set", "nodes.halves.seed=9"]).expect_done();
    let first = explained(&kitchen, "halves", &[]);
    assert_eq!(first["state"], "hit");
    let key = first["against"]["key"].as_str().unwrap();
    let named = explained(&kitchen, "halves", &["--against", &key[..12]]);
    assert_eq!(named["against"]["key"], key);
    assert_eq!(named["changes"][0]["old"], 9);
    let unknown = kitchen.decoct(&["explain", "recipe.yaml", "halves", "--against", "zzz"]);
    assert_eq!(unknown.status.code(), Some(2));
}

fn diff(kitchen: &Kitchen, arguments: &[&str]) -> Value {
    serde_json::from_str(&kitchen.says(&[&["diff"], arguments, &["--format", "json"]].concat())).unwrap()
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

#[test]
fn the_rows_before_and_after_an_edit_stand_side_by_side() {
    let kitchen = cooked();
    let lonely = kitchen.decoct(&["diff", "recipe.yaml:chains"]);
    assert_eq!(lonely.status.code(), Some(2), "there is one version only");
    kitchen.edit("recipe.yaml", "slip: 0.1", "slip: 0.9");
    kitchen.run(&[]).expect_done();
    let changes = diff(&kitchen, &["recipe.yaml:chains"]);
    let (changed, same) = (count(&changes["changed"]), changes["same"].as_u64().unwrap() as usize);
    assert!(changed > 0, "another teacher thinks otherwise: {changes}");
    assert_eq!(changed + same + count(&changes["removed"]), changes["old"]["rows"].as_u64().unwrap() as usize);
    assert!(changes["columns"].as_array().unwrap().iter().any(|column| column["column"] == "chain"), "{changes}");
    let told = kitchen.says(&["diff", "recipe.yaml:chains", "--rows", "1"]);
    assert!(told.contains("\nrow ") && told.contains("more changed row"), "{told}");

    let key = changes["old"]["key"].as_str().unwrap();
    let named = diff(&kitchen, &[&format!("recipe.yaml:chains@{}", &key[..10]), "recipe.yaml:chains"]);
    assert_eq!(named, changes);
    let none = diff(&kitchen, &["recipe.yaml:chains", "recipe.yaml:chains"]);
    assert_eq!((count(&none["changed"]), count(&none["columns"])), (0, 0));
    let halves = diff(&kitchen, &["recipe.yaml:halves.train", "recipe.yaml:halves.test"]);
    assert_eq!((halves["same"].as_u64(), count(&halves["changed"])), (Some(0), 0), "halves have no row in common");
}

#[test]
fn what_cannot_be_compared_is_said() {
    let kitchen = cooked();
    for (arguments, expected) in [
        (&["recipe.yaml"][..], "names no version"),
        (&["recipe.yaml:chians"], "did you mean `chains`?"),
        (&["recipe.yaml:halves.tset"], "has no output `tset`"),
        (&["recipe.yaml:chains@ffffffffffff", "recipe.yaml:chains"], "no such earlier version"),
        (&["recipe.yaml:chains@ff"], "one version alone"),
    ] {
        let output = kitchen.decoct(&[&["diff"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
}

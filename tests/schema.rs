//! The schema that editors read: valid itself, as printed, and of one mind with the loader about every recipe of the house.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::Kitchen;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn says(arguments: &[&str]) -> String {
    Kitchen::new("").says(arguments)
}

/// Checks files of YAML with the schema, by a validator that is not ours; for each file what is wrong with it.
fn validated(schema: &Path, files: &[PathBuf]) -> Vec<(String, Vec<String>)> {
    let venv = Command::new(house().join("tests/support/venv")).output().expect("tests/support/venv is there");
    assert!(venv.status.success(), "{}", String::from_utf8_lossy(&venv.stderr));
    let python = Path::new(String::from_utf8(venv.stdout).unwrap().trim()).join("bin/python");
    let script = house().join("tests/support/validate.py");
    let output = Command::new(python).arg(script).arg(schema).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_printed_schema_is_the_one_beside_the_recipes() {
    let kept = std::fs::read_to_string(house().join("pipelines/recipe.schema.json")).unwrap();
    assert_eq!(says(&["schema"]), kept, "`decoct schema > pipelines/recipe.schema.json` renews it");
}

#[test]
fn a_foreign_validator_takes_every_recipe_of_the_house_and_no_wrong_one() {
    let kitchen = Kitchen::new("");
    kitchen.write("recipe.schema.json", &kitchen.says(&["schema"]));
    kitchen.says(&["init", ".", "--domain", "law"]);
    let bundled = std::fs::read_dir(house().join("pipelines")).unwrap().map(|entry| entry.unwrap().path());
    let mut right: Vec<PathBuf> =
        bundled.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    assert!(right.len() >= 2, "{right:?}");
    for path in right.iter().chain([&kitchen.path("law.yaml")]) {
        let first = std::fs::read_to_string(path).unwrap().lines().next().unwrap().to_string();
        assert_eq!(first, "# yaml-language-server: $schema=./recipe.schema.json", "{}", path.display());
    }
    right.extend([kitchen.path("law.yaml"), house().join("tests/every_kind/recipe.yaml")]);
    let source = "  exam: { kind: source, generate: tablets, rows: 9 }\n";
    let head = format!("version: 1\nnodes:\n{source}");
    let sound =
        ["", "  a: { kind: dedup, input: exam, seed: '${s}', matrix: { s: [1, 2], lr: { low: 1 }, one: 3 } }\n"];
    for (index, more) in sound.iter().enumerate() {
        kitchen.write(&format!("right{index}.yaml"), &format!("{head}{more}"));
        right.push(kitchen.path(&format!("right{index}.yaml")));
    }
    let wrong = [
        format!("version: 2\nnodes:\n{source}"),
        format!("nodes:\n{source}"),
        format!("{head}extra: 1\n"),
        format!("{head}  a: {{ kind: dedupe, input: exam }}\n"),
        format!("{head}  a: {{ kind: dedup, input: exam, nearr: 1 }}\n"),
        format!("{head}  a: {{ kind: dedup }}\n"),
        format!("{head}  a: {{ kind: dedup, input: exam, matrix: [1] }}\n"),
        format!("{head}  a: {{ kind: dedup, input: exam, matrix: {{ n: [] }} }}\n"),
        format!("{head}  a: {{ kind: dedup, input: exam, matrix: {{ n: [[1]] }} }}\n"),
        format!("{head}models: {{ m: {{ provider: rehearsal, skil: 1 }} }}\n"),
        format!("{head}models: {{ m: {{ provider: rehearsal, skill: high }} }}\n"),
        format!("{head}profiles: {{ p: {{ nods: {{}} }} }}\n"),
    ];
    let wrong: Vec<PathBuf> = wrong
        .iter()
        .enumerate()
        .map(|(index, text)| {
            kitchen.write(&format!("wrong{index}.yaml"), text);
            kitchen.path(&format!("wrong{index}.yaml"))
        })
        .collect();
    let found = validated(&kitchen.path("recipe.schema.json"), &[right.as_slice(), &wrong].concat());
    for (file, mistakes) in &found[..right.len()] {
        assert!(mistakes.is_empty(), "{file}: {mistakes:#?}");
    }
    for (file, mistakes) in &found[right.len()..] {
        assert!(!mistakes.is_empty(), "{file}: {}", std::fs::read_to_string(file).unwrap());
    }
    let schema: Value = serde_json::from_str(&kitchen.read("recipe.schema.json")).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
}

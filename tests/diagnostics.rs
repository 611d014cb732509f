//! What a wrong recipe brings about: all its mistakes at once, exit code 2, nothing written and nothing spent.

use std::path::Path;
use std::process::{Command, Output};

const FIVE_MISTAKES: &str = r#"version: 1
params: { seed: 7, share: 0.9 }
models:
  teacher: { provider: rehersal }
nodes:
  exam:    { kind: source, path: exam.jsonl, limt: 100 }
  clear:   { kind: dedup, input: exma }
  halves:  { kind: split, input: clear, parts: { train: "${shaer}", test: 0.1 } }
  mixed:   { kind: mix, inputs: [halves.train, again] }
  again:   { kind: dedup, input: mixed }
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..40).map(|row| format!("{{\"question\": \"how much is {row} + 1?\"}}\n")).collect();
    std::fs::write(folder.path().join("exam.jsonl"), rows).unwrap();
    folder
}

fn decoct(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
    command.args(arguments).current_dir(folder).env("DECOCT_CACHE", folder.join("store")).output().unwrap()
}

/// Checks the exit code, and that the folder holds just what it held; gives what stderr said.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let output = decoct(folder, arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
    assert_eq!(names(), before, "{arguments:?} wrote something");
    told
}

#[test]
fn five_mistakes_are_all_told_with_their_lines_and_hints() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.yaml"), FIVE_MISTAKES).unwrap();
    let screen = refused(folder.path(), &["check", "recipe.yaml"]);
    insta::assert_snapshot!("five_mistakes", screen);
    for command in ["plan", "run"] {
        assert_eq!(refused(folder.path(), &[command, "recipe.yaml"]), screen, "{command}");
    }
}

#[test]
fn a_malformed_line_of_a_source_is_shown_before_anything_runs() {
    let folder = folder();
    let file = folder.path().join("exam.jsonl");
    let lines: Vec<String> = std::fs::read_to_string(&file).unwrap().lines().map(str::to_string).collect();
    let broken: Vec<&str> =
        lines.iter().enumerate().map(|(at, line)| if at == 36 { &line[..20] } else { line.as_str() }).collect();
    std::fs::write(&file, broken.join("\n")).unwrap();
    let recipe = "version: 1\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    let told = refused(folder.path(), &["run", "recipe.yaml"]);
    for expected in ["exam.jsonl:37", &lines[36][..20], "recipe.yaml:3:31"] {
        assert!(told.contains(expected), "`{expected}` is missing in\n{told}");
    }
}

#[test]
fn programs_get_the_same_as_json() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.yaml"), FIVE_MISTAKES).unwrap();
    let output = decoct(folder.path(), &["check", "recipe.yaml", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, diagnostics) = events.split_last().unwrap();
    let json_of = |command: &str| decoct(folder.path(), &[command, "recipe.yaml", "--format", "json"]).stdout;
    assert_eq!(String::from_utf8(json_of("run")).unwrap(), text);
    assert_eq!((last["event"].as_str(), last["ok"].as_bool()), (Some("finished"), Some(false)));
    let places: Vec<(u64, u64)> =
        diagnostics.iter().map(|one| (one["line"].as_u64().unwrap(), one["column"].as_u64().unwrap())).collect();
    assert_eq!(places, [(4, 24), (6, 46), (7, 34), (8, 58), (9, 48)]);
    assert!(diagnostics.iter().all(|one| one["file"] == "recipe.yaml" && one["hint"].is_string()), "{text}");
}

#[test]
fn a_key_that_is_missing_is_named_before_anything_runs() {
    let folder = folder();
    let recipe = "version: 1\nmodels:\n  api: { provider: openai, base_url: http://127.0.0.1:9/v1, model: m, \
                  api_key_env: DECOCT_TEST_NO_SUCH_KEY }\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n  \
                  clear: { kind: filter, input: exam, model: api, keep: [pass] }\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    for command in ["check", "run"] {
        let output = decoct(folder.path(), &[command, "recipe.yaml"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {told}");
        assert!(told.contains("`DECOCT_TEST_NO_SUCH_KEY`") && !told.contains("exam"), "{command}: {told}");
    }
    let output = decoct(folder.path(), &["run", "recipe.yaml", "--until", "exam"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_recipe_that_is_not_there_or_no_recipe_is_told_plainly() {
    let folder = folder();
    std::fs::write(folder.path().join("recipe.yaml"), "version: 1").unwrap();
    assert!(refused(folder.path(), &["check", "recipe.yml"]).contains("did you mean `recipe.yaml`?"));
    std::fs::write(folder.path().join("broken.yaml"), "version: 1\nnodes: { a: [\n").unwrap();
    assert!(refused(folder.path(), &["check", "broken.yaml"]).contains("broken.yaml:"));
    std::fs::write(folder.path().join("bytes.yaml"), b"version: 1\n\xff\xfe").unwrap();
    assert!(refused(folder.path(), &["check", "bytes.yaml"]).contains("line 2"));
}

#[test]
fn a_sound_recipe_is_called_so() {
    let folder = folder();
    let recipe =
        "version: 1\nnodes:\n  exam: { kind: source, path: exam.jsonl }\n  few: { kind: dedup, input: exam }\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    let output = decoct(folder.path(), &["check", "recipe.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "`recipe.yaml` is sound: 2 nodes, 0 models\n");
}

//! `decoct show --tensorboard`: event files that readers other than ours accept, with the numbers of `decoct show`.

#[path = "support/kitchen.rs"]
mod kitchen;

use kitchen::{Kitchen, questions};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::Command;

const RECIPE: &str = "\
version: 1
nodes:
  exam:     { kind: source, path: exam.jsonl }
  student:  { kind: sft, input: exam, response: answer, steps: 7, evaluation: { share: 0.2, every: 3 },
              base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2, tokenizer: { train: words, size: 300 } } }
  graduate: { kind: ppo, policy: student, problems: exam, truth: answer, verifier: rules, iterations: 3, rollouts: 8, minibatch: 4,
              max_new_tokens: 6 }
";

fn cooked() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(60));
    kitchen.run(&[]).expect_done();
    kitchen
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support").join(name)
}

/// `tag → [[step, value], …]` as a Python script reads it.
fn read_by(python: &str, script: &Path, run: &Path) -> Map<String, Value> {
    let output = Command::new(python).arg(script).arg(run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same from the rows that `show` prints.
fn shown(kitchen: &Kitchen, node: &str) -> Map<String, Value> {
    let mut tags: Map<String, Value> = Map::new();
    for line in kitchen.says(&["show", "recipe.yaml", node, "--format", "json"]).lines() {
        let row: Map<String, Value> = serde_json::from_str(line).unwrap();
        for (name, value) in row.iter().filter(|(name, _)| !["row_id", "step"].contains(&name.as_str())) {
            let Some(value) = value.as_f64() else { continue };
            let tag = match name.strip_prefix("evaluation_") {
                Some(rest) => format!("evaluation/{rest}"),
                None => format!("training/{name}"),
            };
            let points = tags.entry(tag).or_insert_with(|| Value::Array(Vec::new()));
            points.as_array_mut().unwrap().push(serde_json::json!([row["step"], value as f32]));
        }
    }
    tags
}

fn check(kitchen: &Kitchen, python: &str, script: &Path) {
    for (node, tags) in [
        ("student", &["training/loss", "training/tokens_per_second", "evaluation/perplexity"][..]),
        ("graduate", &["training/reward"]),
    ] {
        let told = kitchen.decoct(&["show", "recipe.yaml", node, "--tensorboard", "curves"]);
        assert!(told.status.success() && told.stdout.is_empty(), "{}", String::from_utf8_lossy(&told.stderr));
        assert!(String::from_utf8_lossy(&told.stderr).contains("tensorboard --logdir curves"));
        let (read, shown) = (read_by(python, script, &kitchen.path(&format!("curves/{node}"))), shown(kitchen, node));
        assert!(tags.iter().all(|tag| read.contains_key(*tag)), "{node}: {:?}", read.keys().collect::<Vec<_>>());
        assert_eq!(read.keys().collect::<Vec<_>>(), shown.keys().collect::<Vec<_>>(), "{node}");
        for (tag, points) in &read {
            let near = |a: &Value, b: &Value| {
                let of = |point: &Value, place: usize| point[place].as_f64().unwrap();
                of(a, 0) == of(b, 0) && (of(a, 1) - of(b, 1)).abs() <= 1e-6 * of(b, 1).abs()
            };
            let (read, shown) = (points.as_array().unwrap(), shown[tag].as_array().unwrap());
            assert!(read.len() == shown.len() && read.iter().zip(shown).all(|(a, b)| near(a, b)), "{node} {tag}");
        }
    }
}

#[test]
fn another_reader_finds_the_numbers_of_show() {
    check(&cooked(), "python3", &script("read_events.py"));
}

/// `tests/run --full`: TensorBoard itself, from PyPI.
#[test]
fn tensorboard_finds_them_too() {
    if std::env::var_os("DECOCT_TESTS_FULL").is_none() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv-tensorboard");
    let python = folder.join("bin/python");
    let has = |module: &str| Command::new(&python).args(["-c", module]).output().is_ok_and(|it| it.status.success());
    if !has("import tensorboard") {
        assert!(Command::new("python3").args(["-m", "venv"]).arg(&folder).status().unwrap().success());
        let install = ["-m", "pip", "install", "--quiet", "tensorboard", "setuptools<81"];
        assert!(Command::new(&python).args(install).status().unwrap().success());
    }
    check(&cooked(), python.to_str().unwrap(), &script("read_by_tensorboard.py"));
}

#[test]
fn what_has_no_metrics_is_told() {
    let kitchen = cooked();
    for node in ["exam", "student.base"] {
        let told = kitchen.decoct(&["show", "recipe.yaml", node, "--tensorboard", "curves"]);
        let message = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("`{node}` holds no metrics of a training")), "{message}");
    }
}

#[test]
fn times_are_shown_and_count_in_no_hash() {
    let (one, other) = (cooked(), cooked());
    let [first, second] = [&one, &other].map(|kitchen| kitchen.run(&[]).expect_done());
    assert_eq!(first.outputs(), second.outputs());
    let times = |kitchen: &Kitchen| shown(kitchen, "student")["training/seconds"].clone();
    assert_ne!(times(&one), times(&other), "two trainings of seven steps took the same microseconds");
    let rates = shown(&one, "student")["training/tokens_per_second"].clone();
    assert_eq!(rates.as_array().unwrap().len(), 7);
    assert!(rates.as_array().unwrap().iter().all(|point| point[1].as_f64().unwrap() > 0.0), "{rates}");
}

//! The kinds that reinforce: what comes out of `grpo`, `rloo` and `dpo`, that a stop changes nothing, and that settings which came
//! later left the identity of older recipes alone.

mod plain;

use plain::{PlainContext, output, read};
use serde_json::{Value, json};
use stages::answers::matches_truth;
use stages::failure::{Failure, Result};
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::stage::{Artifact, Inputs, Outputs};
use stages::train::evaluate::final_response;
use std::path::{Path, PathBuf};

/// Copy the digit: the smallest task with a right answer.
fn lessons(count: usize) -> Rows {
    let columns = ["problem", "thought", "response", "truth"];
    let column = |name: &str| Column { name: name.to_string(), column_type: ColumnType::Text };
    let mut rows = Rows::new(columns.iter().map(|name| column(name)).collect());
    let row = |index: usize| {
        let digit = (index % 10).to_string();
        let texts = [format!("copy {digit}"), format!("it says {digit}"), digit.clone(), digit];
        Row { id: format!("row {index}"), cells: texts.map(Value::from).to_vec() }
    };
    rows.rows = (0..count).map(row).collect();
    rows
}

fn run(kind: &str, settings: Value, inputs: &[(&str, Artifact)], context: &PlainContext) -> Result<Outputs> {
    let stage = read(kind, settings, Path::new(".")).expect("the settings are right");
    stage.run(Inputs(inputs.iter().map(|(port, artifact)| (port.to_string(), artifact.clone())).collect()), context)
}

fn model(outputs: &Outputs, name: &str) -> PathBuf {
    match &outputs.artifacts[name] {
        Artifact::Model(folder) => folder.clone(),
        _ => panic!("`{name}` is a table"),
    }
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A student that is right more often than not, but not always.
fn student(context: &PlainContext) -> PathBuf {
    let settings = json!({
        "input": "x", "tokens": 20_000, "lr": 3e-3,
        "base": {"architecture": "qwen2", "layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "tokenizer": {"train": "words", "size": 300}},
    });
    let outputs = run("sft", settings, &[("input", Artifact::Rows(lessons(200)))], context).unwrap();
    model(&outputs, "")
}

/// Settings under which each kind does a little of everything.
fn kinds() -> Vec<(&'static str, Value)> {
    let practice = |more: Value| {
        let mut settings = json!({
            "policy": "x", "problems": "y", "verifier": "rules", "iterations": 3, "rollouts": 32, "minibatch": 16, "max_new_tokens": 24,
        });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    vec![
        ("grpo", practice(json!({"group": 8}))),
        ("grpo", practice(json!({"group": 4, "deviation": false, "loss_over": "budget", "kl_as": "reward"}))),
        ("rloo", practice(json!({"group": 4, "kl_target": 2.0, "epochs": 2}))),
        ("rloo", practice(json!({"group": 4, "ratio": "token", "whiten": true, "mask_truncated": true}))),
        ("ppo", practice(json!({"critic": "shared", "value_coefficient": 0.5, "kl_as": "loss", "kl_stop": 0.05}))),
        ("ppo", practice(json!({"value_minibatch": 8, "value_epochs": 3, "lambda": 0.95, "value_lambda": 1.0}))),
        ("ppo", practice(json!({"lora": {"rank": 4, "keep_adapter": true}, "lr": 3e-3}))),
        ("grpo", practice(json!({"lora": {"rank": 4, "targets": ["q", "v"], "keep_adapter": true}, "group": 8}))),
        (
            "dpo",
            json!({
                "policy": "x", "problems": "y", "verifier": "rules", "temperature": 1.2, "max_new_tokens": 24, "batch": 4,
                "lora": {"keep_adapter": true},
            }),
        ),
        (
            "dpo",
            json!({
                "policy": "x", "problems": "y", "verifier": "rules", "temperature": 1.2, "max_new_tokens": 24, "batch": 4, "epochs": 2,
            }),
        ),
    ]
}

#[test]
fn every_kind_gives_a_model_with_its_metrics_and_the_same_after_a_stop() {
    let school = PlainContext::with_device(7, 2);
    let policy = Artifact::Model(student(&school));
    let inputs = [("policy", policy), ("problems", Artifact::Rows(lessons(50)))];
    for (kind, settings) in kinds() {
        let whole = PlainContext::with_device(7, 1);
        let outputs =
            run(kind, settings.clone(), &inputs, &whole).unwrap_or_else(|failure| panic!("{kind}: {failure}"));
        let stopped = PlainContext::with_device(7, 3);
        stopped.patience.store(2, std::sync::atomic::Ordering::Relaxed);
        let interrupted = run(kind, settings.clone(), &inputs, &stopped);
        assert!(matches!(interrupted, Err(Failure::Cancelled)), "{kind} {settings}");
        stopped.patience.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
        let resumed = run(kind, settings.clone(), &inputs, &stopped).unwrap();
        let adapter = settings.get("lora").map(|_| "adapter/adapter_model.safetensors");
        for file in ["model.safetensors", "metrics.parquet", "config.json"].into_iter().chain(adapter) {
            let same = bytes(&model(&outputs, ""), file) == bytes(&model(&resumed, ""), file);
            assert!(same, "{kind} {settings}: {file}");
        }
        for table in &outputs.report.tables {
            assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{kind}: {table:?}");
            assert!(!table.rows.iter().flatten().any(|cell| cell == "NaN"), "{kind}: {table:?}");
        }
    }
}

#[test]
fn sampled_pairs_are_an_output_that_can_be_given_again() {
    let school = PlainContext::with_device(7, 2);
    let policy = Artifact::Model(student(&school));
    let settings = kinds().pop().unwrap().1;
    let context = PlainContext::with_device(7, 2);
    let inputs = [("policy", policy.clone()), ("problems", Artifact::Rows(lessons(50)))];
    let sampled = run("dpo", settings, &inputs, &context).unwrap();
    let pairs = output(&sampled, "pairs").clone();
    let names: Vec<&str> = pairs.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["problem", "truth", "chosen", "rejected"]);
    assert!(pairs.len() > 5, "{} pairs", pairs.len());
    for row in &pairs.rows {
        let text = |column: usize| row.cells[column].as_str().unwrap();
        let right = |answer: &str| final_response(answer).is_some_and(|response| matches_truth(response, text(1)));
        assert!(right(text(2)) && !right(text(3)), "{row:?}");
    }
    let given = json!({"policy": "x", "input": "y", "batch": 4});
    let context = PlainContext::with_device(7, 2);
    let inputs = [("policy", policy), ("input", Artifact::Rows(pairs.clone()))];
    let again = run("dpo", given.clone(), &inputs, &context).unwrap();
    assert_eq!(again.report.tables[0].rows[0], ["pairs".to_string(), pairs.len().to_string()]);
    let curve = &again.report.tables[1];
    let last = curve.rows.last().unwrap();
    assert!(last[3].parse::<f64>().unwrap() > 0.0, "the margin grows: {curve:?}");

    let mut short = given;
    short["max_length"] = json!(4);
    let message = run("dpo", short, &inputs, &context).err().unwrap().to_string();
    assert!(message.contains("none is within `4` tokens"), "{message}");
}

#[test]
fn settings_that_came_later_left_the_identity_of_older_recipes_alone() {
    let identity = |settings: Value| read("ppo", settings, Path::new(".")).ok().unwrap().settings();
    let short = json!({"policy": "x", "problems": "y", "verifier": "rules"});
    let keys: Vec<String> = identity(short.clone()).as_object().unwrap().keys().cloned().collect();
    let first_release = [
        "policy",
        "problems",
        "verifier",
        "prompt",
        "reward",
        "kl",
        "iterations",
        "episodes",
        "passes",
        "rollouts",
        "minibatch",
        "epochs",
        "lr",
        "schedule",
        "warmup",
        "floor",
        "value_lr",
        "value_epochs",
        "value_warmup",
        "gamma",
        "lambda",
        "clip",
        "value_clip",
        "temperature",
        "max_new_tokens",
        "whiten",
        "weight_decay",
        "question",
        "truth",
        "precision",
        "checkpoint_every",
    ];
    assert_eq!(keys, first_release);
    let with = |more: Value| {
        let mut settings = short.clone();
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        identity(settings)
    };
    let defaults = json!({
        "critic": "separate", "value_coefficient": 1.0, "kl_as": "reward", "kl_horizon": 1e4, "mask_truncated": false, "entropy": 0.0,
        "kl_target": null, "kl_stop": null, "clip_high": null, "value_minibatch": null, "value_lambda": null, "kl_limit": 50.0,
        "lora": null,
    });
    assert_eq!(with(defaults), identity(short.clone()), "defaults written out, and a limit that changes no result");
    let named = json!({"lora": {"rank": 16, "alpha": 32, "targets": ["feed_forward", "attention"]}});
    assert_eq!(with(named), with(json!({"lora": {}})), "equal adapters have one name");
    for other in [
        json!({"critic": "shared"}),
        json!({"value_coefficient": 0.5}),
        json!({"kl_as": "loss"}),
        json!({"kl_target": 6}),
        json!({"kl_horizon": 500}),
        json!({"kl_stop": 0.01}),
        json!({"clip_high": 0.3}),
        json!({"mask_truncated": true}),
        json!({"entropy": 0.01}),
        json!({"value_minibatch": 8}),
        json!({"value_lambda": 1.0}),
        json!({"lora": {}}),
        json!({"lora": {"rank": 8}}),
    ] {
        assert_ne!(with(other.clone()), identity(short.clone()), "{other}");
    }
}

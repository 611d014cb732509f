//! What a recipe can say of a fine-tuning: its length, its evaluation, what stops it and which weights come out.

mod plain;

use plain::{PlainContext, read};
use serde_json::{Value, json};
use stages::failure::Result;
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::stage::{Artifact, Inputs, Outputs};
use std::path::{Path, PathBuf};

/// Copy the number: rows `from..to`, each with a question of its own.
fn lessons(rows: std::ops::Range<usize>) -> Rows {
    let column = |name: &str| Column { name: name.to_string(), column_type: ColumnType::Text };
    let mut table = Rows::new(["problem", "response"].map(column).to_vec());
    let row = |row: usize| Row {
        id: format!("row {row}"),
        cells: vec![json!(format!("copy {row}")), json!(format!("{}", row % 10))],
    };
    table.rows = rows.map(row).collect();
    table
}

fn settings(more: Value) -> Value {
    let mut settings = json!({
        "input": "x", "steps": 20, "lr": 3e-3, "batch_tokens": 128,
        "base": {"architecture": "qwen2", "layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "tokenizer": {"train": "words", "size": 300}},
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settings
}

fn train(more: Value, inputs: &[(&str, Rows)], context: &PlainContext) -> Result<Outputs> {
    let stage = read("sft", settings(more), Path::new(".")).expect("the settings are right");
    let inputs = inputs.iter().map(|(port, rows)| (port.to_string(), Artifact::Rows(rows.clone()))).collect();
    stage.run(Inputs(inputs), context)
}

fn model(outputs: &Outputs) -> PathBuf {
    let Artifact::Model(folder) = &outputs.artifacts[""] else { panic!("a table") };
    folder.clone()
}

/// A table of the report, by row.
fn told(outputs: &Outputs, title: &str) -> Vec<Vec<String>> {
    outputs.report.tables.iter().find(|table| table.title == title).expect(title).rows.clone()
}

fn count(outputs: &Outputs, what: &str) -> usize {
    told(outputs, "examples").iter().find(|row| row[0] == what).expect(what)[1].parse().unwrap()
}

#[test]
fn a_share_is_held_out_and_asked_every_so_many_steps_and_at_the_end() {
    let context = PlainContext::with_device(7, 2);
    let evaluation = json!({"share": 0.2, "every": 6});
    let outputs = train(json!({"evaluation": evaluation}), &[("input", lessons(0..200))], &context).unwrap();
    let held_out = count(&outputs, "held out");
    assert!((20..60).contains(&held_out), "{held_out} of 200");
    assert_eq!(count(&outputs, "rows"), 200 - held_out);
    let evaluations = told(&outputs, "evaluation");
    assert_eq!(evaluations.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["6", "12", "18", "20"]);
    assert_eq!(evaluations.last().unwrap()[4], "weights kept");
    let number = |row: usize, column: usize| evaluations[row][column].parse::<f64>().unwrap();
    assert!(number(3, 1) < number(0, 1) && number(3, 2) > 0.0, "it learns what it can: {evaluations:?}");
    assert!((number(3, 1).exp() - number(3, 3)).abs() < 0.05 * number(3, 3), "{evaluations:?}");
}

#[test]
fn another_nodes_rows_are_asked_and_left_out_of_the_training() {
    let context = PlainContext::with_device(7, 2);
    let more = json!({"evaluation": {"input": "y", "every": 50, "patience": 2, "min_delta": 0.01, "best": true}});
    let inputs = [("input", lessons(0..100)), ("evaluation", lessons(90..110))];
    let outputs = train(more, &inputs, &context).unwrap();
    assert_eq!((count(&outputs, "rows"), count(&outputs, "held out")), (90, 20));
    assert_eq!(told(&outputs, "evaluation").len(), 1);
    let warnings = context.warnings.lock().unwrap().clone();
    assert_eq!(warnings, ["10 of 100 rows are not trained on: the evaluation asks the same"]);
}

#[test]
fn an_evaluation_with_no_rows_on_one_side_is_told() {
    for (share, rows, missing) in [(1e-9, 50, "evaluate on"), (1.0 - 1e-9, 50, "train on")] {
        let context = PlainContext::with_device(7, 2);
        let trained = train(json!({"evaluation": {"share": share}}), &[("input", lessons(0..rows))], &context);
        let message = trained.expect_err(missing).to_string();
        assert!(message.contains(&format!("leaves nothing to {missing}: 50 rows")), "{message}");
    }
}

#[test]
fn an_early_stop_is_told_with_the_weights_that_were_kept() {
    let context = PlainContext::with_device(7, 2);
    // Four numbers are learnt by heart; nothing of the others can be known.
    let more = json!({"steps": 400, "evaluation": {"input": "y", "every": 10, "patience": 2, "best": true}});
    let inputs = [("input", lessons(0..4)), ("evaluation", lessons(120..150))];
    let outputs = train(more, &inputs, &context).unwrap();
    let evaluations = told(&outputs, "evaluation");
    let [last, kept] = ["stopped early", "weights kept"]
        .map(|note| evaluations.iter().find(|row| row[4].contains(note)).expect(note)[0].parse::<u64>().unwrap());
    assert!(last < 400 && kept == last - 20, "{evaluations:?}");
    assert!(model(&outputs).join("timings.parquet").is_file());
}

#[test]
fn times_lie_beside_the_metrics() {
    let runs = [1, 2].map(|threads| {
        let context = PlainContext::with_device(7, threads);
        let outputs = train(json!({"micro_batch_tokens": 40}), &[("input", lessons(0..40))], &context).unwrap();
        let read = |file: &str| std::fs::read(model(&outputs).join(file)).unwrap();
        (read("model.safetensors"), read("metrics.parquet"), read("timings.parquet"))
    });
    assert!(runs[0].0 == runs[1].0 && runs[0].1 == runs[1].1, "times or threads changed what came out");
    assert_ne!(runs[0].2, runs[1].2);
}

#[test]
fn what_is_left_out_counts_in_no_key_and_what_is_said_does() {
    let identity = |more: Value| read("sft", settings(more), Path::new(".")).ok().unwrap().settings();
    let old = json!({"steps": null, "epochs": 3});
    for key in ["steps", "micro_batch_tokens", "evaluation", "compute"] {
        assert!(identity(old.clone()).get(key).is_none(), "{key} would move the keys of finished work");
    }
    for more in [
        json!({"steps": 21}),
        json!({"micro_batch_tokens": 40}),
        json!({"compute": "bf16"}),
        json!({"evaluation": {"share": 0.1}}),
        json!({"evaluation": {"share": 0.1, "best": true}}),
    ] {
        assert_ne!(identity(more.clone()), identity(json!({})), "{more}");
    }
    let short = json!({"evaluation": {"share": 0.1}});
    let long = json!({"evaluation": {"share": 0.1, "input": null, "every": 100, "patience": null, "min_delta": 0, "best": false}});
    assert_eq!(identity(short), identity(long));
    assert_eq!(identity(json!({"compute": "f32"})), identity(json!({})));
}

#[test]
fn impossible_options_are_found_before_anything_runs() {
    let check = |more: Value, codes: &[&str]| {
        let mistakes = read("sft", settings(more.clone()), Path::new(".")).err().unwrap_or_default();
        assert_eq!(mistakes.iter().map(|mistake| mistake.code).collect::<Vec<_>>(), codes, "{more}");
    };
    check(json!({}), &[]);
    check(json!({"evaluation": {"input": "y"}}), &[]);
    check(json!({"epochs": 1}), &["both-given"]);
    check(json!({"steps": 0}), &["out-of-range"]);
    check(json!({"micro_batch_tokens": 0}), &["out-of-range"]);
    check(json!({"evaluation": {}}), &["missing-key"]);
    check(json!({"evaluation": {"share": 0.1, "input": "y"}}), &["both-given"]);
    check(json!({"evaluation": {"share": 1.0, "every": 0}}), &["out-of-range", "out-of-range"]);
    check(json!({"evaluation": {"share": 0.1, "patience": 0, "min_delta": -1}}), &["out-of-range", "out-of-range"]);
    check(json!({"evaluation": {"shar": 0.1}}), &["unknown-key", "missing-key"]);
}

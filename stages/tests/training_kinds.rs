//! What the training kinds promise: a student that learns, a graduate that learns more, the same bits after an interruption.

mod plain;

use indexmap::IndexMap;
use plain::{PlainContext, output, read};
use serde_json::{Value, json};
use stages::failure::{Failure, Result};
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::stage::{Artifact, Inputs, Outputs};
use std::path::{Path, PathBuf};

/// Copy the digit: the smallest task with a right answer.
fn lessons(count: usize) -> Rows {
    let columns = ["problem", "thought", "response", "truth"];
    let column = |name: &str| Column { name: name.to_string(), column_type: ColumnType::Text };
    let mut rows = Rows::new(columns.iter().map(|name| column(name)).collect());
    rows.rows = (0..count)
        .map(|index| {
            let digit = (index % 10).to_string();
            let texts = [format!("copy {digit}"), format!("it says {digit}"), digit.clone(), digit];
            Row { id: format!("row {index}"), cells: texts.map(Value::from).to_vec() }
        })
        .collect();
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

fn student_settings(tokens: f64) -> Value {
    json!({
        "input": "x", "tokens": tokens, "lr": 3e-3, "checkpoint_every": 5,
        "base": {"architecture": "qwen2", "layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "tokenizer": {"train": "words", "size": 300}},
    })
}

fn student(tokens: f64, context: &PlainContext) -> Result<Outputs> {
    run("sft", student_settings(tokens), &[("input", Artifact::Rows(lessons(200)))], context)
}

#[test]
fn a_student_learns_a_graduate_goes_on_and_the_evaluation_tells_them_apart() {
    let context = PlainContext::with_device(7, 2);
    let trained = student(30_000.0, &context).unwrap();
    let settings = json!({
        "policy": "x", "problems": "y", "verifier": "rules", "iterations": 3, "rollouts": 32, "minibatch": 16, "max_new_tokens": 40,
    });
    let policy = Artifact::Model(model(&trained, ""));
    let reinforced = PlainContext::with_device(7, 2);
    let inputs = [("policy", policy), ("problems", Artifact::Rows(lessons(50)))];
    let graduate = run("ppo", settings, &inputs, &reinforced).unwrap();

    let inputs = [
        ("input", Artifact::Rows(lessons(20))),
        ("models.base", Artifact::Model(model(&trained, "base"))),
        ("models.sft", Artifact::Model(model(&trained, ""))),
        ("models.sft + ppo", Artifact::Model(model(&graduate, ""))),
    ];
    let models = json!({"base": "a", "sft": "b", "sft + ppo": "c"});
    let settings = json!({"input": "x", "models": models, "max_new_tokens": 40});
    let score = run("eval", settings, &inputs, &context).unwrap();
    let answers = output(&score, "");
    assert_eq!(answers.len(), 20 * 3 * 2);
    let mut right: IndexMap<String, usize> = IndexMap::new();
    for row in answers.rows.iter().filter(|row| row.cells[1] == json!("greedy")) {
        *right.entry(row.cells[0].as_str().unwrap().to_string()).or_default() +=
            usize::from(row.cells[6] == json!(true));
    }
    assert!(right["base"] <= 2 && right["sft"] >= 18 && right["sft + ppo"] >= 18, "{right:?}");
    let titles: Vec<&str> = score.report.tables.iter().map(|table| table.title.as_str()).collect();
    assert_eq!(titles, ["accuracy on 20 problems", "paired differences", "answers"]);
    assert_eq!(score.report.tables[0].columns, ["model", "greedy % (95 %)", "T=1 % (95 %)", "format %", "mean tokens"]);
    assert_eq!(score.report.tables[1].rows[1][0], "sft + ppo − sft");
    for table in trained.report.tables.iter().chain(&graduate.report.tables).chain(&score.report.tables) {
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{table:?}");
    }
}

#[test]
fn what_a_stop_interrupts_goes_on_to_the_same_bytes_on_any_number_of_threads() {
    let whole = PlainContext::with_device(7, 1);
    let expected = model(&student(8_000.0, &whole).unwrap(), "");
    let stopped = PlainContext::with_device(7, 3);
    stopped.patience.store(7, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(student(8_000.0, &stopped), Err(Failure::Cancelled)));
    stopped.patience.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    let resumed = model(&student(8_000.0, &stopped).unwrap(), "");
    for file in ["model.safetensors", "metrics.parquet", "tokenizer.json", "config.json"] {
        assert_eq!(bytes(&expected, file), bytes(&resumed, file), "{file}");
    }
    assert!(resumed.join("timings.json").is_file());
}

#[test]
fn a_student_can_start_from_a_folder_and_from_another_node() {
    let context = PlainContext::with_device(7, 2);
    let first = model(&student(4_000.0, &context).unwrap(), "");
    let further = |base: Value, inputs: &[(&str, Artifact)]| {
        let settings = json!({"input": "x", "tokens": 2_000, "lr": 1e-3, "schedule": "cosine", "base": base});
        let context = PlainContext::with_device(7, 2);
        let outputs = run("sft", settings, inputs, &context).unwrap();
        let (model, base) = (model(&outputs, ""), model(&outputs, "base"));
        assert_eq!(bytes(&base, "model.safetensors"), bytes(&first, "model.safetensors"));
        bytes(&model, "model.safetensors")
    };
    let rows = Artifact::Rows(lessons(30));
    let by_node =
        further(json!({"node": "first"}), &[("input", rows.clone()), ("base", Artifact::Model(first.clone()))]);
    let by_folder = further(json!({"path": first.to_str().unwrap()}), &[("input", rows)]);
    assert!(by_node == by_folder, "the same base gives other weights");
    assert!(by_node != bytes(&first, "model.safetensors"), "nothing was learnt");
}

#[test]
fn impossible_settings_are_found_before_anything_runs() {
    let check = |kind: &str, settings: Value, codes: &[&str]| {
        let mistakes = read(kind, settings.clone(), Path::new(".")).err().unwrap_or_default();
        assert_eq!(mistakes.iter().map(|mistake| mistake.code).collect::<Vec<_>>(), codes, "{kind} {settings}");
    };
    let fresh = json!({"architecture": "qwen2"});
    check("sft", json!({"input": "x", "base": fresh, "lr": 1e-3}), &[]);
    check(
        "sft",
        json!({"input": "x", "base": fresh, "lr": 0.0, "epochs": 1, "tokens": 9}),
        &["both-given", "out-of-range"],
    );
    check("sft", json!({"input": "x", "base": fresh}), &[]);
    check("sft", json!({"input": "x"}), &["missing-key"]);
    let ppo = |extra: Value| {
        let mut settings = json!({"policy": "x", "problems": "y", "verifier": "rules"});
        settings.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        settings
    };
    check("ppo", ppo(json!({})), &[]);
    check("ppo", ppo(json!({"verifier": "judge"})), &[]);
    check("ppo", ppo(json!({"iterations": 5, "episodes": 100, "rollouts": 0})), &["both-given", "out-of-range"]);
    check("ppo", ppo(json!({"reward": {"rigth": 1}})), &["unknown-key"]);
    check("eval", json!({"input": "x", "models": {}}), &["nothing-given"]);
    check("eval", json!({"input": "x", "models": {"a": "b"}, "modes": ["greedily"]}), &["unknown-word"]);
    check(
        "eval",
        json!({"input": "x", "models": {"a": "b"}, "samples": 0, "temperature": [1, 1]}),
        &["out-of-range"; 2],
    );
    check(
        "eval",
        json!({"input": "x", "models": {"a": "b"}, "temperature": [], "baseline": "c"}),
        &["unknown-label", "out-of-range"],
    );
}

#[test]
fn a_default_that_is_written_out_changes_no_identity() {
    let identity = |kind: &str, settings: Value| read(kind, settings, Path::new(".")).ok().unwrap().settings();
    let fresh = json!({"architecture": "qwen2"});
    let short = json!({"input": "x", "base": fresh});
    let long = json!({"input": "x", "base": fresh, "lr": 3e-3, "epochs": 3, "batch_tokens": 384});
    assert_eq!(identity("sft", short.clone()), identity("sft", long));
    assert_ne!(identity("sft", short), identity("sft", json!({"input": "x", "base": fresh, "lr": 2e-3})));
    let ppo = json!({"policy": "x", "problems": "y", "verifier": "rules"});
    let long = json!({"policy": "x", "problems": "y", "verifier": "rules", "iterations": 60});
    assert_eq!(identity("ppo", ppo), identity("ppo", long));
}

#[test]
fn options_are_put_to_the_model_and_the_rules_that_found_them_told() {
    let context = PlainContext::with_device(7, 2);
    let trained = student(30_000.0, &context).unwrap();
    let column = |name: &str, column_type| Column { name: name.to_string(), column_type };
    let columns = [("question", ColumnType::Text), ("options", ColumnType::Json), ("answer_idx", ColumnType::Text)];
    let mut rows = Rows::new(columns.map(|(name, kind)| column(name, kind)).to_vec());
    let cells = vec![json!("copy 3"), json!({"A": "3", "B": "copy"}), json!("A")];
    rows.rows = vec![Row { id: "only".into(), cells }];
    let inputs = [("input", Artifact::Rows(rows)), ("models.sft", Artifact::Model(model(&trained, "")))];
    let settings =
        json!({"input": "x", "models": {"sft": "b"}, "matching": "options", "modes": "greedy", "max_new_tokens": 40});
    let score = run("eval", settings, &inputs, &context).unwrap();
    assert_eq!(output(&score, "").rows[0].cells[2], json!("copy 3\nA. 3\nB. copy"));
    let found = score.report.tables.last().unwrap();
    assert_eq!(found.title, "how options were found");
    let shares: f64 = found.rows[0][2..].iter().map(|share| share.parse::<f64>().unwrap()).sum();
    assert!((shares - 100.0).abs() < 0.2, "{found:?}");
}

#[test]
fn several_answers_to_a_problem_go_on_from_the_single_one() {
    let context = PlainContext::with_device(7, 2);
    let trained = student(4_000.0, &context).unwrap();
    let inputs = [
        ("input", Artifact::Rows(lessons(20))),
        ("models.base", Artifact::Model(model(&trained, "base"))),
        ("models.sft", Artifact::Model(model(&trained, ""))),
    ];
    let score = |more: Value| {
        let mut settings = json!({"input": "x", "models": {"base": "a", "sft": "b"}, "max_new_tokens": 40});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run("eval", settings, &inputs, &context).unwrap()
    };
    let (single, several) = (score(json!({})), score(json!({"samples": 4, "baseline": "base"})));
    let (one, four) = (output(&single, ""), output(&several, ""));
    assert_eq!(four.len(), 20 * 2 * (1 + 4));
    let (sample, text) = (four.position("sample").unwrap(), four.position("text").unwrap());
    let firsts: Vec<&Value> =
        four.rows.iter().filter(|row| row.cells[sample] == 1).map(|row| &row.cells[text]).collect();
    assert_eq!(
        firsts,
        one.rows.iter().map(|row| &row.cells[text]).collect::<Vec<_>>(),
        "the first is the one that there was"
    );
    let drawn: Vec<&Value> =
        four.rows.iter().filter(|row| row.id.starts_with("row 0 sft sampled")).map(|row| &row.cells[text]).collect();
    assert!(drawn.len() == 4 && drawn.iter().any(|text| text != &drawn[0]), "each is drawn by itself: {drawn:?}");

    let titles: Vec<&str> = several.report.tables.iter().map(|table| table.title.as_str()).collect();
    let expected = [
        "accuracy on 20 problems",
        "paired differences",
        "pass@k of 4 answers to a problem",
        "paired tests, by problem",
        "answers",
    ];
    assert_eq!(titles, expected);
    assert_eq!(several.report.tables[0].columns[2..4], ["T=1 pass@1 % (95 %)", "T=1 pass@4 % (95 %)"]);
    for table in &several.report.tables {
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{table:?}");
    }

    let apart = score(json!({"temperature": [0.5, 1], "modes": "sampled"}));
    let apart = output(&apart, "");
    let at_one = apart.rows.iter().filter(|row| row.cells[1] == "T=1").map(|row| &row.cells[text]);
    let before = one.rows.iter().filter(|row| row.cells[1] == "sampled").map(|row| &row.cells[text]);
    assert_eq!(
        at_one.collect::<Vec<_>>(),
        before.collect::<Vec<_>>(),
        "a temperature does not depend on those beside it"
    );
}

//! Every family goes the whole way: made from nothing, trained, reinforced, written, and its own base again, with the same bits on
//! any number of threads.

mod plain;

use plain::{PlainContext, read};
use serde_json::{Value, json};
use stages::model::{DecoderConfig, ModelFolder};
use stages::rows::{Column, ColumnType, Row, Rows};
use stages::stage::{Artifact, Inputs};
use std::path::{Path, PathBuf};

const BASES: [&str; 3] = [
    r#"{"architecture": "qwen2"}"#,
    r#"{"architecture": "qwen3", "head_dim": 24, "heads": 3, "kv_heads": 3}"#,
    r#"{"architecture": "llama", "heads": 4, "kv_heads": 1}"#,
];

fn base(settings: &str) -> Value {
    let mut base = json!({"layers": 1, "hidden": 32, "heads": 2, "tokenizer": {"train": "words", "size": 300}});
    let fields: serde_json::Map<String, Value> = serde_json::from_str(settings).unwrap();
    base.as_object_mut().unwrap().extend(fields);
    base
}

/// Copy the digit.
fn lessons(count: usize) -> Rows {
    let column = |name: &str| Column { name: name.to_string(), column_type: ColumnType::Text };
    let mut rows = Rows::new(["problem", "thought", "response", "truth"].map(column).into());
    let row = |index: usize| {
        let digit = (index % 10).to_string();
        let texts = [format!("copy {digit}"), format!("it says {digit}"), digit.clone(), digit];
        Row { id: format!("row {index}"), cells: texts.map(Value::from).to_vec() }
    };
    rows.rows = (0..count).map(row).collect();
    rows
}

/// The model that a node gives; its context keeps the folder.
fn made(kind: &str, settings: Value, inputs: &[(&str, Artifact)], context: &PlainContext) -> PathBuf {
    let stage = read(kind, settings, Path::new(".")).expect("the settings are right");
    let inputs = Inputs(inputs.iter().map(|(port, artifact)| (port.to_string(), artifact.clone())).collect());
    match &stage.run(inputs, context).unwrap().artifacts[""] {
        Artifact::Model(folder) => folder.clone(),
        _ => panic!("a training gives a model"),
    }
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn every_family_is_trained_and_reinforced_to_the_same_bits_on_any_number_of_threads() {
    for settings in BASES {
        let on = |threads: usize| {
            let (context, reinforced) = (PlainContext::with_device(7, threads), PlainContext::with_device(7, threads));
            let taught = json!({"input": "x", "tokens": 30_000, "lr": 3e-3, "base": base(settings)});
            let student = made("sft", taught, &[("input", Artifact::Rows(lessons(200)))], &context);
            let task = json!({"policy": "x", "problems": "y", "verifier": "rules", "iterations": 3, "rollouts": 32,
                "minibatch": 16, "max_new_tokens": 40});
            let inputs = [("policy", Artifact::Model(student.clone())), ("problems", Artifact::Rows(lessons(50)))];
            let graduate = made("ppo", task, &inputs, &reinforced);
            assert!(weights(&student) != weights(&graduate), "{settings}: PPO learnt nothing");
            let config = ModelFolder::load(&graduate).unwrap().config;
            (weights(&student), weights(&graduate), config)
        };
        let (one, three) = (on(1), on(3));
        assert!(one == three, "{settings}: other bits on three threads");
    }
}

#[test]
fn a_family_stays_what_it_is_from_base_to_export() {
    for settings in BASES {
        let first = PlainContext::with_device(7, 2);
        let lessons = [("input", Artifact::Rows(lessons(30)))];
        let made_first = json!({"input": "x", "tokens": 1_000, "lr": 1e-3, "base": base(settings)});
        let folder = made("sft", made_first, &lessons, &first);
        // What only a published base has.
        std::fs::write(folder.join("special_tokens_map.json"), "{ }").unwrap();
        let again = PlainContext::with_device(7, 2);
        let onwards = json!({"input": "x", "tokens": 1_000, "lr": 1e-3, "base": {"path": folder.to_str().unwrap()}});
        let export = made("sft", onwards, &lessons, &again);
        for name in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "special_tokens_map.json",
        ] {
            let bytes = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(bytes(&folder) == bytes(&export), "{settings}: {name}");
        }
        let text = std::fs::read_to_string(export.join("config.json")).unwrap();
        let family = serde_json::from_str::<Value>(settings).unwrap()["architecture"].clone();
        assert_eq!(json!(DecoderConfig::from_json(&text, "config.json").unwrap().family), family);
    }
}

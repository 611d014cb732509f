//! A local model as a language model: its answers depend on the question and the weights, never on company or place.

mod support;

use serde_json::{Value, json};
use stages::context::Context;
use stages::llm::{LanguageModel, ModelSpec, for_each_row};
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, ModelFolder, Tokenizer, chat};
use stages::settings::Reader;
use std::path::Path;
use std::sync::Arc;
use support::{FakeContext, numbered_rows, question};

/// A random model, small enough to answer at once.
fn write_model(folder: &Path, seed: u64) {
    let tokenizer = Tokenizer::train(Training::Words, 300, ["q one two"].into_iter(), &[]).unwrap();
    let end = tokenizer.id(END_OF_TEXT).unwrap();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        intermediate_size: 16,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        bos_token_id: None,
        eos_token_ids: vec![end],
        ..DecoderConfig::default()
    };
    let weights = Decoder::fresh(&support::device(), &config, seed).weights();
    let template = Some(ChatTemplate::new(chat::PLAIN, "", END_OF_TEXT));
    ModelFolder { config, weights, tokenizer, template, carried: Carried::default() }
        .save(folder, Precision::F32)
        .unwrap();
}

fn open(folder: &Path, extra: Value) -> Arc<dyn LanguageModel> {
    let mut entry = json!({"provider": "local", "path": ".", "max_tokens": 12});
    entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut reader = Reader::new(folder, None);
    let spec =
        ModelSpec::read(entry.as_object().unwrap(), &mut reader).unwrap_or_else(|| panic!("{:?}", reader.mistakes));
    assert_eq!(spec.folder().unwrap(), folder.join("."));
    spec.open(support::device(), None, FakeContext::new().runtime.handle()).unwrap()
}

fn context(model: Arc<dyn LanguageModel>) -> FakeContext {
    let mut context = FakeContext::new();
    context.models.insert("model".to_string(), model);
    context
}

fn answers(context: &FakeContext, count: usize, concurrency: usize) -> Vec<String> {
    let caller = context.caller("model").unwrap();
    let work = move |item: stages::llm::crowd::Item| {
        let caller = caller.clone();
        async move { Ok(caller.ask(&question(item.text("question"))).await?.text) }
    };
    for_each_row(context, concurrency, numbered_rows(count), work).unwrap()
}

#[test]
fn an_answer_is_the_same_alone_and_in_company() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let model = open(folder.path(), json!({"temperature": 1.0}));
    let together = answers(&context(model.clone()), 30, 30);
    assert_eq!(answers(&context(model), 30, 1), together);
    assert!(together.iter().any(|answer| answer != &together[0]), "different questions, different answers");
}

#[test]
fn samples_differ_and_greedy_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let ask = |temperature: f64, sample| {
        let context = context(open(folder.path(), json!({"temperature": temperature})));
        let caller = context.caller("model").unwrap();
        context.runtime.block_on(caller.ask(&question("q").sample(sample))).unwrap().text
    };
    assert_ne!(ask(1.0, 0), ask(1.0, 1));
    assert_eq!(ask(1.0, 1), ask(1.0, 1));
    assert_eq!(ask(0.0, 0), ask(0.0, 1));
}

#[test]
fn the_identity_is_the_weights_wherever_they_lie() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (folder, seed) in folders.iter().zip([1, 1, 2]) {
        write_model(folder.path(), seed);
    }
    let identities: Vec<Value> = folders.iter().map(|folder| open(folder.path(), json!({})).identity()).collect();
    assert_eq!(identities[0], identities[1]);
    assert_ne!(identities[0], identities[2]);
    assert_ne!(identities[0], open(folders[0].path(), json!({"max_tokens": 13})).identity());
}

#[test]
fn a_question_that_does_not_fit_is_a_cut_off_answer_and_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let context = context(open(folder.path(), json!({})));
    let caller = context.caller("model").unwrap();
    let reply = context.runtime.block_on(caller.ask(&question(&"x".repeat(100)))).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish_reason.as_str()), ("", "length"));
    assert_eq!(context.meter.read().calls, 1);
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let free = answers(&context(open(folder.path(), json!({"temperature": 1.0}))), 30, 30);
    let seldom = free.iter().find_map(|answer| answer.chars().nth(2)).unwrap().to_string();
    let stopped = answers(&context(open(folder.path(), json!({"temperature": 1.0, "stop": seldom}))), 30, 30);
    // Which replies are drawn does not depend on where they end, but their address, and with it their seed, does.
    assert!(
        stopped.iter().all(|answer| !answer.contains(&seldom)) && free.iter().any(|answer| answer.contains(&seldom))
    );
}

#[test]
fn new_settings_are_in_the_identity_only_where_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    let identity = |extra: Value| open(folder.path(), extra).identity();
    let plain = identity(json!({}));
    assert_eq!(identity(json!({"min_p": 0.0, "stop": []})), plain);
    let names: Vec<&String> = plain["settings"].as_object().unwrap().keys().collect();
    assert!(!names.iter().any(|name| ["min_p", "stop"].contains(&name.as_str())), "{names:?}");
    assert_ne!(identity(json!({"min_p": 0.1})), plain);
    assert_ne!(identity(json!({"stop": "x"})), plain);
}

#[test]
fn sampling_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1);
    for (key, value) in [("top_p", json!(1.5)), ("min_p", json!(-0.1)), ("temperature", json!(-1)), ("stop", json!(""))]
    {
        let entry = json!({"provider": "local", "path": ".", key: value});
        let mut reader = Reader::new(folder.path(), None);
        assert!(ModelSpec::read(entry.as_object().unwrap(), &mut reader).is_none());
        let mistakes: Vec<&str> = reader.mistakes.iter().map(|mistake| mistake.code).collect();
        assert_eq!(mistakes, ["out-of-range"], "{key}");
    }
}

#[test]
fn a_model_without_a_template_gets_a_line_a_message() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&with, &without] {
        write_model(folder.path(), 1);
    }
    let path = without.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(config.as_object_mut().unwrap().remove("chat_template").is_some());
    std::fs::write(path, config.to_string()).unwrap();
    let greedy = |folder: &Path| answers(&context(open(folder, json!({"system": "one"}))), 5, 5);
    assert_eq!(greedy(without.path()), greedy(with.path()));
}

//! Text in, text out: stop strings, samples, answers aloud, scores, and what the chat template sees.

mod support;

use serde_json::{Value, json};
use stages::model::chat::{Clock, Message};
use stages::model::complete::{Completer, Completion, Prompt, Question, Wanted};
use stages::model::generate::{Finish, Sampling};
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, ModelFolder, Tokenizer, chat};
use std::path::Path;
use std::sync::Mutex;

const LENGTH: usize = 200;

/// A random model that writes what looks like words, and bytes that are no characters.
fn model(template: Option<&str>) -> ModelFolder {
    let corpus = ["one two three four five", "un deux trois quatre cinq", "über dé 日本"];
    let tokenizer = Tokenizer::train(Training::Bpe, 320, corpus.into_iter().chain(corpus), &[]).unwrap();
    let config = json!({
        "model_type": "qwen2", "vocab_size": tokenizer.vocab_size(), "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "tie_word_embeddings": true,
        "max_position_embeddings": LENGTH, "eos_token_id": tokenizer.id(END_OF_TEXT).unwrap(),
    });
    let config = DecoderConfig::from_json(&config.to_string(), "config.json").unwrap();
    let weights = Decoder::fresh(&support::device(), &config, 4).weights();
    let template = template.map(|source| ChatTemplate::new(source, "", END_OF_TEXT));
    ModelFolder { config, weights, tokenizer, template, carried: Carried::default() }
}

struct Opened {
    folder: tempfile::TempDir,
    completer: Completer,
}

impl Opened {
    fn new(template: Option<&str>, clock: Clock) -> Opened {
        let folder = tempfile::tempdir().unwrap();
        model(template).save(folder.path(), Precision::F32).unwrap();
        Opened::of(folder, clock)
    }

    fn of(folder: tempfile::TempDir, clock: Clock) -> Opened {
        let completer = Completer::open(&support::device(), folder.path(), clock).unwrap();
        Opened { folder, completer }
    }
}

fn opened() -> Opened {
    Opened::new(Some(chat::PLAIN), Clock::default())
}

fn prompts(completer: &Completer, count: usize) -> Vec<Prompt> {
    (0..count).map(|index| completer.prompt(&Question::User(format!("question {index}"))).unwrap()).collect()
}

fn wanted(temperature: f32, stop: &[&str]) -> Wanted {
    let sampling = Sampling { temperature, tokens_max: 60, ..Sampling::default() };
    Wanted { sampling, stop: stop.iter().map(|stop| stop.to_string()).collect(), seed: 3, samples: 1 }
}

#[test]
fn a_text_ends_before_a_stop_string_and_is_the_same_till_there() {
    let Opened { completer, .. } = opened();
    let prompts = prompts(&completer, 40);
    let free = completer.complete(&prompts, 0, &wanted(1.0, &[])).unwrap();
    let stops = ["e", "tr", "0"];
    let stopped = completer.complete(&prompts, 0, &wanted(1.0, &stops)).unwrap();
    let mut count = 0;
    for (free, stopped) in free.iter().zip(&stopped) {
        let place = stops.iter().filter_map(|stop| free.text.find(stop)).min();
        count += usize::from(place.is_some());
        assert_eq!(stopped.text, free.text[..place.unwrap_or(free.text.len())]);
        assert_eq!(stopped.token_ids, free.token_ids[..stopped.token_ids.len()]);
        let (finish, ids) = (if place.is_some() { Finish::Stop } else { free.finish_reason }, &stopped.token_ids);
        assert_eq!((stopped.finish_reason, stopped.logprobs.len()), (finish, ids.len()));
        if place.is_some() {
            // The last token kept is the one that completed the stop string.
            let spelt = |ids: &[u32]| completer.text_of(ids).unwrap();
            let holds = |text: String| stops.iter().any(|stop| text.contains(stop));
            assert!(holds(spelt(ids)) && !holds(spelt(&ids[..ids.len() - 1])), "{ids:?}");
        }
    }
    assert!(count > 10, "only {count} of 40 texts were stopped");
}

#[test]
fn a_first_sample_does_not_depend_on_how_many_there_are() {
    let Opened { completer, .. } = opened();
    let prompts = prompts(&completer, 6);
    let one = completer.complete(&prompts, 0, &wanted(1.0, &[])).unwrap();
    let four = completer.complete(&prompts, 0, &Wanted { samples: 4, ..wanted(1.0, &[]) }).unwrap();
    assert_eq!(four.len(), 24);
    for (index, one) in one.iter().enumerate() {
        let samples = &four[4 * index..4 * index + 4];
        assert_eq!(&samples[0], one);
        assert!(samples.iter().all(|sample| sample.prompt == one.prompt));
        assert!(samples.iter().skip(1).all(|sample| sample.token_ids != one.token_ids), "samples differ");
    }
    let later = completer.complete(&prompts[4..], 4, &wanted(1.0, &[])).unwrap();
    assert_eq!(later, one[4..], "batches may be cut anywhere");
}

#[test]
fn an_answer_aloud_is_the_same_in_whole_characters_and_ends_when_nobody_listens() {
    let Opened { completer, .. } = opened();
    let prompts = prompts(&completer, 12);
    for stops in [&[][..], &["e"]] {
        let expected = completer.complete(&prompts, 0, &wanted(1.0, stops)).unwrap();
        for (place, (prompt, expected)) in prompts.iter().zip(&expected).enumerate() {
            let heard: Mutex<Vec<String>> = Mutex::default();
            let hear = |piece: &str| {
                heard.lock().unwrap().push(piece.to_string());
                true
            };
            let answer = completer.complete_aloud(prompt, place as u64, &wanted(1.0, stops), &hear).unwrap();
            assert_eq!(&answer, expected);
            let heard = heard.into_inner().unwrap();
            assert_eq!(heard.concat(), expected.text);
            assert!(heard.len() > expected.token_ids.len().min(3), "piece by piece");
        }
    }
    let left = Mutex::new(4);
    let hear = |_: &str| {
        *left.lock().unwrap() -= 1;
        *left.lock().unwrap() > 0
    };
    let answer = completer.complete_aloud(&prompts[0], 0, &wanted(0.0, &[]), &hear).unwrap();
    assert_eq!((answer.finish_reason, answer.token_ids.len()), (Finish::Interrupted, 4));
}

#[test]
fn a_score_is_bit_for_bit_what_generation_reported() {
    let Opened { completer, .. } = opened();
    for (temperature, count) in [(1.0, 150), (0.5, 20)] {
        let prompts = prompts(&completer, count);
        let written = completer.complete(&prompts, 0, &wanted(temperature, &[])).unwrap();
        let texts: Vec<(&Prompt, &[u32])> =
            prompts.iter().zip(&written).map(|(prompt, answer)| (prompt, &answer.token_ids[..])).collect();
        let reported: Vec<&Vec<f32>> = written.iter().map(|answer| &answer.logprobs).collect();
        assert_eq!(completer.score(&texts, temperature).unwrap().iter().collect::<Vec<_>>(), reported);
    }
}

#[test]
fn nothing_has_no_score_and_what_the_model_cannot_read_is_refused() {
    let Opened { completer, .. } = opened();
    let prompt = completer.prompt(&Question::Raw("one".into())).unwrap();
    let long = vec![5; LENGTH + 1 - prompt.tokens.len()];
    let scores = completer.score(&[(&prompt, &[]), (&prompt, &long), (&prompt, &[])], 1.0).unwrap();
    assert_eq!(scores.iter().map(Vec::len).collect::<Vec<_>>(), [0, long.len(), 0]);
    let check = |tokens: &[u32], expected: &str| {
        let message = completer.score(&[(&prompt, tokens)], 1.0).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(&vec![5; long.len() + 1], "`202` tokens exceed the model's `200`");
    check(&[9999], "`9999`");
    let message = completer.prompt(&Question::Raw("x ".repeat(300))).unwrap_err().to_string();
    assert!(message.contains("exceeds the model's `200` positions"), "{message}");
}

/// As Llama's: one token before every text.
fn put_a_beginning_before_texts(folder: &Path) {
    let path = folder.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let id = Tokenizer::from_json(tokenizer.to_string(), "x").unwrap().id("<|im_start|>").unwrap();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [id], "tokens": ["<|im_start|>"]}},
    });
    std::fs::write(path, tokenizer.to_string()).unwrap();
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["bos_token"] = json!("<|im_start|>");
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_text_begins_with_one_beginning_and_no_more() {
    let template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}";
    for template in [Some(template), None] {
        let folder = tempfile::tempdir().unwrap();
        model(template).save(folder.path(), Precision::F32).unwrap();
        put_a_beginning_before_texts(folder.path());
        let Opened { completer, .. } = Opened::of(folder, Clock::default());
        let begin = completer.folder().tokenizer.id("<|im_start|>").unwrap();
        let messages = Question::Messages(vec![Message::user("one")]);
        let begun = Question::Raw("<|im_start|>one".into());
        for question in [Question::Raw("one".into()), begun, Question::User("one".into()), messages] {
            let tokens = completer.prompt(&question).unwrap().tokens;
            let beginnings = tokens.iter().filter(|&&token| token == begin).count();
            assert_eq!((tokens[0], beginnings), (begin, 1), "{template:?} {question:?}");
        }
        assert!(!completer.completion_tokens("one").unwrap().contains(&begin), "a completion is no beginning");
    }
}

#[test]
fn a_template_is_told_the_time() {
    let template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}";
    let opened = Opened::new(Some(template), Clock(951_782_400));
    let prompt = opened.completer.prompt(&Question::Messages(vec![Message::user("one")])).unwrap();
    assert_eq!(prompt.text, "29 Feb 2000 one");
    assert!(opened.folder.path().join("config.json").exists());
}

#[test]
fn the_makers_sampling_is_read() {
    let folder = tempfile::tempdir().unwrap();
    model(None).save(folder.path(), Precision::F32).unwrap();
    let check = |file: Value, expected: [Option<f64>; 4], left_out: &[&str]| {
        std::fs::write(folder.path().join("generation_config.json"), file.to_string()).unwrap();
        let own = Carried::read(folder.path()).unwrap().sampling();
        let found = [own.temperature, own.top_k.map(|k| k as f64), own.top_p, own.min_p];
        assert_eq!((found, &own.left_out[..]), (expected, left_out), "{file}");
    };
    check(json!({"eos_token_id": 1}), [None; 4], &[]);
    check(
        json!({"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}),
        [Some(0.7), Some(20.0), Some(0.8), None],
        &["repetition_penalty"],
    );
    check(json!({"do_sample": false, "temperature": 0.7, "min_p": 0.1}), [Some(0.0), None, None, Some(0.1)], &[]);
    check(json!({"temperature": "hot", "top_p": 7, "repetition_penalty": 1.0}), [None; 4], &[]);
}

#[test]
fn completions_are_told_by_their_names() {
    let Opened { completer, .. } = opened();
    let completion: Completion = completer.complete(&prompts(&completer, 1), 0, &wanted(0.0, &[])).unwrap().remove(0);
    let told = serde_json::to_value(&completion).unwrap();
    let names: Vec<&String> = told.as_object().unwrap().keys().collect();
    assert_eq!(names, ["prompt", "text", "token_ids", "logprobs", "finish_reason"]);
}

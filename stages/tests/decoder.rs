//! The decoder against transformers (`tests/reference/`), and generation against the training pass.

use kernels::{Device, logits};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use stages::model::batch::Batch;
use stages::model::generate::{Finish, Generation, Request, Room, Sampling, generate, generate_watched};
use stages::model::parameters::Layout;
use stages::model::workspace::{Purpose, Workspace};
use stages::model::{Decoder, DecoderConfig, heads, tensors};
use stages::train::batches::Example;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(name)
}

/// Every model of `make_decoder_reference.py`, and those of them that answer.
const MODELS: [&str; 6] = ["tied", "untied", "odd", "qwen3", "llama", "biased"];
const ANSWERING: [&str; 3] = ["odd", "qwen3", "llama"];
/// Largest ‖difference‖ / ‖reference‖ of a tensor, some twenty times what float32 needs.
const TOLERANCE: f64 = 1e-5;

struct Reference {
    decoder: Decoder,
    documents: Vec<Example>,
    expected: Vec<u8>,
}

impl Reference {
    fn load(name: &str) -> Reference {
        let folder = reference(name);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let config = DecoderConfig::from_json(&read("config.json"), "config.json").unwrap();
        let weights = tensors::read(&folder, &config, &Layout::new(&config, false)).unwrap();
        let documents: Vec<Value> = serde_json::from_str(&read("documents.json")).unwrap();
        let documents = documents.into_iter().map(|document| serde_json::from_value(document).unwrap()).collect();
        let decoder = Decoder::new(&Device::cpu(Some(2)), &config, &weights);
        Reference { decoder, documents, expected: std::fs::read(folder.join("expected.safetensors")).unwrap() }
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
    }

    fn check(&self, name: &str, found: &[f32]) {
        let expected = self.expected(name);
        assert_eq!(found.len(), expected.len(), "{name}");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| (a - b) as f64));
        let error = difference / norm(&mut expected.iter().map(|&value| value as f64));
        println!("{name}: relative error {error:.2e}");
        assert!(error <= TOLERANCE, "{name}: relative error {error:.2e}");
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let reference = Reference::load(name);
        let (decoder, config) = (&reference.decoder, reference.decoder.config());
        let mut workspace = Workspace::new(decoder.device().stream(), Purpose::Inference);
        let batch = Batch::of_examples(&workspace.stream, reference.documents.iter());
        decoder.forward(&batch, &mut workspace);
        let (t, v, d, stream) = (batch.len(), config.vocab_size, config.hidden_size, &workspace.stream);
        let mut scores = stream.uninit(t * v);
        let head = decoder.weight(&decoder.layout().head);
        logits::forward(stream, t, v, d, workspace.normed(&batch), head, scores.view_mut());
        for document in 0..batch.segments.len() {
            let rows = batch.segments.range(document);
            let found = stream.download(scores.slice(rows.start * v..rows.end * v));
            reference.check(&format!("logits.{document}"), &found);
        }
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for name in MODELS {
        let reference = Reference::load(name);
        let decoder = &reference.decoder;
        let mut workspace = Workspace::new(decoder.device().stream(), Purpose::Training);
        let mut gradients = workspace.stream.zeros(decoder.layout().len);
        let batch = Batch::of_examples(&workspace.stream, reference.documents.iter());
        decoder.forward(&batch, &mut workspace);
        heads::log_probabilities(decoder, &batch, 1.0, &mut workspace);
        workspace.fill_logp_gradient(&batch, -1.0 / batch.chosen() as f32);
        heads::log_probabilities_backward(decoder, &batch, 1.0, &mut workspace, &mut gradients);
        decoder.backward(&batch, &mut workspace, &mut gradients);
        let tensors = decoder.layout().tensors(decoder.config());
        for tensor in &tensors {
            let found = workspace.stream.download(gradients.slice(tensor.range.clone()));
            reference.check(&format!("gradient.{}", tensor.name), &found);
        }
        let compared = SafeTensors::deserialize(&reference.expected).unwrap().len();
        assert_eq!(tensors.len() + reference.documents.len(), compared, "every tensor of the reference is compared");
    }
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    for name in ANSWERING {
        let Reference { decoder, .. } = Reference::load(name);
        let rows: Vec<[Vec<u32>; 2]> =
            serde_json::from_str(&std::fs::read_to_string(reference(name).join("greedy.json")).unwrap()).unwrap();
        assert_eq!(rows.len(), 200, "{name}");
        let prompts: Vec<Vec<u32>> = rows.iter().map(|[prompt, _]| prompt.clone()).collect();
        let greedy = Sampling { temperature: 0.0, tokens_max: 64, ..Sampling::default() };
        for ([prompt, expected], found) in rows.iter().zip(answers(&decoder, &prompts, &greedy)) {
            assert_eq!(expected.len(), 64);
            assert_eq!(&found.tokens, expected, "{name}: {prompt:?}");
        }
    }
}

/// Every family, its optional parts among them.
fn families() -> [Value; 3] {
    let scaling = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    [
        json!({"model_type": "qwen2"}),
        json!({"model_type": "qwen3", "head_dim": 10}),
        json!({"model_type": "llama", "attention_bias": true, "rope_scaling": scaling}),
    ]
}

/// A random model whose texts end now and then.
fn random_of(family: &Value, threads: usize) -> Decoder {
    let mut config = json!({
        "vocab_size": 19, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 40, "eos_token_id": [3, 4], "tie_word_embeddings": false,
        "max_position_embeddings": 96,
    });
    config.as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    let config = DecoderConfig::from_json(&config.to_string(), "random").unwrap();
    Decoder::fresh(&Device::cpu(Some(threads)), &config, 5)
}

fn random(threads: usize) -> Decoder {
    random_of(&families()[0], threads)
}

fn prompts(count: usize) -> Vec<Vec<u32>> {
    (0..count as u32).map(|index| (0..1 + index % 37).map(|place| (index * 7 + place * 5) % 19).collect()).collect()
}

fn answers(decoder: &Decoder, prompts: &[Vec<u32>], sampling: &Sampling) -> Vec<Generation> {
    let seeded = prompts.iter().enumerate();
    let requests: Vec<Request> = seeded.map(|(index, prompt)| Request { prompt, seed: index as u64 }).collect();
    generate(decoder, &requests, sampling).unwrap()
}

fn sampled() -> Sampling {
    Sampling { tokens_max: 30, ..Sampling::default() }
}

#[test]
fn an_answer_depends_on_its_prompt_and_seed_alone() {
    let prompts = prompts(150);
    for family in families() {
        let random = |threads| random_of(&family, threads);
        let together = answers(&random(2), &prompts, &sampled());
        for threads in [1, 3] {
            assert!(answers(&random(threads), &prompts, &sampled()) == together, "{family}: {threads} threads");
        }
        assert!(answers(&random(2), &prompts[..40], &sampled()) == together[..40], "{family}: fewer neighbours");
        for index in [0, 17, 149] {
            let alone = Request { prompt: &prompts[index], seed: index as u64 };
            let answer = generate(&random(1), &[alone], &sampled()).unwrap();
            assert!(answer == together[index..=index], "{family}: answer {index} alone");
        }
    }
}

/// Answers in a room, and the most pages that sequences needed which had begun and not ended.
fn answers_in(
    room: Room,
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    expected: &[Generation],
) -> (Vec<Generation>, usize) {
    let requests: Vec<Request> =
        prompts.iter().enumerate().map(|(index, prompt)| Request { prompt, seed: index as u64 }).collect();
    let begun: Mutex<(BTreeMap<usize, usize>, usize)> = Mutex::default();
    let watch = |request: usize, generation: &Generation| {
        let (begun, most) = &mut *begun.lock().unwrap();
        let length = prompts[request].len() + generation.tokens.len();
        begun.insert(request, length.div_ceil(room.page_tokens));
        *most = (*most).max(begun.values().sum());
        if generation.tokens.len() == expected[request].tokens.len() {
            begun.remove(&request);
        }
        None
    };
    let answers = generate_watched(decoder, &requests, &sampled(), &room, &watch).unwrap();
    let most = begun.into_inner().unwrap().1;
    (answers, most)
}

#[test]
fn an_answer_depends_neither_on_pages_nor_on_being_put_back() {
    let prompts = prompts(60);
    for family in families() {
        let decoder = random_of(&family, 1);
        let expected = answers(&decoder, &prompts, &sampled());
        for page_tokens in [16, 32, 256] {
            let page = Room { page_tokens, cache_bytes: 0, sequences: 1 }.bytes(decoder.config(), 1, page_tokens);
            // For the longest sequence of 66 tokens, for a little more, and for all.
            for pages in [1, 7, 1000] {
                let room = Room { page_tokens, cache_bytes: pages * page, sequences: 24 };
                let (found, most) = answers_in(room, &decoder, &prompts, &expected);
                assert!(found == expected, "{family}: {pages} pages of {page_tokens}");
                let has = room.bytes(decoder.config(), 24, 66) / page;
                if pages == 7 && page_tokens == 16 {
                    assert!(
                        most > has,
                        "{family}: nobody was put back: {most} pages were needed at most, {has} are there"
                    );
                }
            }
        }
    }
}

#[test]
fn every_token_is_seen_once_and_in_order_and_an_onlooker_may_end_an_answer() {
    let (decoder, prompts) = (random(2), prompts(40));
    let page = Room { page_tokens: 16, cache_bytes: 0, sequences: 1 }.bytes(decoder.config(), 1, 16);
    let room = Room { page_tokens: 16, cache_bytes: 7 * page, sequences: 24 };
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: 1 }).collect();
    let whole = generate(&decoder, &requests, &sampled()).unwrap();
    let seen: Mutex<Vec<Vec<u32>>> = Mutex::new(vec![Vec::new(); requests.len()]);
    let watch = |request: usize, generation: &Generation| {
        seen.lock().unwrap()[request].push(*generation.tokens.last().unwrap());
        (generation.tokens.len() == 5).then_some(Finish::Interrupted)
    };
    let answers = generate_watched(&decoder, &requests, &sampled(), &room, &watch).unwrap();
    for (request, (answer, whole)) in answers.iter().zip(&whole).enumerate() {
        assert_eq!(answer.tokens, whole.tokens[..whole.tokens.len().min(5)], "{request}");
        assert_eq!(seen.lock().unwrap()[request], answer.tokens, "{request}");
        assert_eq!(answer.finish == Finish::Interrupted, answer.tokens.len() == 5, "{request}");
    }
}

#[test]
fn log_probabilities_are_bit_for_bit_those_of_training() {
    for (family, temperature) in families().iter().flat_map(|family| [(family, 1.0), (family, 0.6)]) {
        let (decoder, prompts) = (random_of(family, 2), prompts(60));
        let generations = answers(&decoder, &prompts, &Sampling { temperature, ..sampled() });
        let mut workspace = Workspace::new(decoder.device().stream(), Purpose::Inference);
        let examples: Vec<Example> =
            prompts.iter().zip(&generations).map(|(prompt, answer)| Example::new(prompt, &answer.tokens)).collect();
        let batch = Batch::of_examples(&workspace.stream, examples.iter());
        decoder.forward(&batch, &mut workspace);
        heads::log_probabilities(&decoder, &batch, temperature, &mut workspace);
        let when_sampled: Vec<f32> = generations.iter().flat_map(|answer| answer.logprobs.clone()).collect();
        assert_eq!(workspace.download_logp(&batch), when_sampled, "{family}: temperature {temperature}");
    }
}

#[test]
fn greedy_takes_the_likeliest_token_and_seeds_do_not_matter() {
    let decoder = random(2);
    let greedy = Sampling { temperature: 0.0, ..sampled() };
    let (first, again) = ([1, 2].map(|seed| Request { prompt: &[7, 8], seed })).into();
    let generations = generate(&decoder, &[first, again], &greedy).unwrap();
    assert_eq!(generations[0], generations[1]);
    for end in 0..generations[0].tokens.len() {
        let text = [&[7, 8], &generations[0].tokens[..end]].concat();
        let mut best = (f32::NEG_INFINITY, 0);
        for token in 0..19 {
            let mut workspace = Workspace::new(decoder.device().stream(), Purpose::Inference);
            let batch = Batch::of_examples(&workspace.stream, [Example::new(&text, &[token])].iter());
            decoder.forward(&batch, &mut workspace);
            heads::log_probabilities(&decoder, &batch, 1.0, &mut workspace);
            let logp = workspace.download_logp(&batch)[0];
            best = if logp > best.0 { (logp, token) } else { best };
        }
        assert_eq!(best.1, generations[0].tokens[end], "token {end}");
    }
}

#[test]
fn an_answer_ends_where_it_should() {
    let decoder = random(1);
    let generations = answers(&decoder, &prompts(150), &sampled());
    let stopped = generations.iter().filter(|answer| answer.finish == Finish::Stop).count();
    assert!(stopped > 20 && stopped < 150, "{stopped} of 150 stopped");
    for answer in &generations {
        let ends = |token: &u32| [3, 4].contains(token);
        let inside = answer.tokens.len() - 1;
        assert!(!answer.tokens[..inside].iter().any(ends), "{answer:?}");
        match answer.finish {
            Finish::Stop => assert!(ends(&answer.tokens[inside])),
            Finish::Interrupted => panic!("nobody looked on"),
            Finish::Length => assert!(!ends(&answer.tokens[inside]) && answer.tokens.len() == 30),
        }
        assert_eq!(answer.logprobs.len(), answer.tokens.len());
    }
}

#[test]
fn the_models_own_length_is_the_last_limit() {
    let decoder = random(1);
    let prompt = vec![1; 90];
    let endless = Sampling { temperature: 0.0, tokens_max: 500, ..Sampling::default() };
    let answer = generate(&decoder, &[Request { prompt: &prompt, seed: 0 }], &endless).unwrap().remove(0);
    assert!(answer.tokens.len() <= 7 && (answer.finish == Finish::Stop || answer.tokens.len() == 7), "{answer:?}");
    let check = |length: usize, expected: &str| {
        let prompt = vec![1; length];
        let message = generate(&decoder, &[Request { prompt: &prompt, seed: 0 }], &endless).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(97, "`97` tokens exceeds the model's `96`");
    check(0, "empty prompt");
    assert!(generate(&decoder, &[], &endless).unwrap().is_empty());
}

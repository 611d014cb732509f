//! Questions that join those under way, beside batches that are answered to their end before the next begins: one local model, the
//! same answers, by turns in one run.
//!
//! `cargo bench --workspace --bench batching [-- QUESTIONS]`. So many askers as sequences are generated side by side, each of whom asks again
//! as soon as it is answered.

#[path = "../tests/support/mod.rs"]
mod support;

use futures::StreamExt;
use kernels::Device;
use serde_json::json;
use stages::llm::{LanguageModel, ModelSpec, Request};
use stages::model::chat::{self, Clock};
use stages::model::complete::{Completer, Question, write};
use stages::model::generate::{self, Sampling};
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, ModelFolder, Tokenizer};
use stages::settings::Reader;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Turns of each side; a machine's other work comes and goes, so both are timed again and again.
const TURNS: usize = 7;
/// Tokens of an answer, on average where their lengths are drawn; and at most.
const TOKENS: usize = 40;
const TOKENS_MAX: usize = 400;

/// An answer's text and its tokens.
type Answer = (String, u64);

fn main() {
    let questions = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(256);
    let device = Device::cpu(None);
    println!("{questions} questions on {} threads; medians of {TURNS} turns, in tokens a second", device.threads());
    for at_once in [16, 64] {
        compare(&device, questions, at_once, true);
        compare(&device, questions, at_once, false);
    }
}

fn compare(device: &Device, questions: usize, at_once: usize, is_drawn: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let parameters = write_model(folder.path(), is_drawn);
    let most = if is_drawn { TOKENS_MAX } else { TOKENS };
    let sides = Sides::open(device, folder.path(), questions, at_once, most);
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut lengths = Vec::new();
    for _ in 0..TURNS {
        let (batches, joined) = (timed(&mut times[0], || sides.in_batches()), timed(&mut times[1], || sides.joining()));
        assert_eq!(batches, joined, "the answers are the same");
        lengths = joined.iter().map(|(_, tokens)| *tokens).collect();
    }
    let tokens: u64 = lengths.iter().sum();
    let [batches, joining] = times.map(|times| tokens as f64 / median(times));
    println!(
        "{:.2} M parameters, {at_once} at once, {} to {} tokens, {:.0} on average: batches {batches:.0}, joining {joining:.0} · {:.2} ×",
        parameters as f64 / 1e6,
        lengths.iter().min().unwrap_or(&0),
        lengths.iter().max().unwrap_or(&0),
        tokens as f64 / lengths.len() as f64,
        joining / batches
    );
}

fn timed<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let clock = Instant::now();
    let done = work();
    times.push(clock.elapsed().as_secs_f64());
    done
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A random model, which draws all tokens about as often: where some of them end a text, lengths are geometric. How many parameters it has.
fn write_model(folder: &Path, ends: bool) -> usize {
    let tokenizer =
        Tokenizer::train(Training::Words, 300, ["question one two three"].into_iter(), &[]).expect("a corpus");
    let vocabulary = tokenizer.vocab_size();
    let ends: Vec<usize> = if ends { (0..vocabulary.div_ceil(TOKENS)).collect() } else { Vec::new() };
    let config = json!({
        "model_type": "qwen2", "vocab_size": vocabulary, "hidden_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256, "tie_word_embeddings": true,
        "max_position_embeddings": 2 * TOKENS_MAX, "eos_token_id": ends,
    });
    let config = DecoderConfig::from_json(&config.to_string(), "the bench").expect("a model that can be");
    let weights = Decoder::fresh(&support::device(), &config, 1).weights();
    let parameters = weights.len();
    let template = Some(ChatTemplate::new(chat::PLAIN, "", END_OF_TEXT));
    let model = ModelFolder { config, weights, tokenizer, template, carried: Carried::default() };
    model.save(folder, Precision::F32).expect("a folder to write");
    parameters
}

/// The same questions to the same weights.
struct Sides {
    at_once: usize,
    requests: Vec<Request>,
    /// Joining.
    model: Arc<dyn LanguageModel>,
    /// In batches.
    decoder: Decoder,
    tokenizer: Tokenizer,
    sampling: Sampling,
    texts: Vec<String>,
    completer: Completer,
}

impl Sides {
    fn open(device: &Device, folder: &Path, questions: usize, at_once: usize, most: usize) -> Sides {
        let entry =
            json!({"provider": "local", "path": ".", "temperature": 1.0, "max_tokens": most, "concurrency": at_once});
        let spec = ModelSpec::read(entry.as_object().expect("an entry"), &mut Reader::new(folder, None));
        let spec = spec.expect("settings of a local model");
        let waiting = support::FakeContext::new();
        let model = spec.open(device.clone(), None, waiting.runtime.handle()).expect("a model");
        let texts: Vec<String> = (0..questions).map(|number| format!("question {number}")).collect();
        let requests = texts.iter().map(|text| support::question(text)).collect();
        let completer = Completer::open(device, folder, Clock::default()).expect("a model");
        let ModelFolder { config, weights, tokenizer, .. } = ModelFolder::load(folder).expect("a model");
        let sampling = Sampling { tokens_max: most, ..Sampling::default() };
        let decoder = Decoder::new(device, &config, &weights);
        Sides { at_once, requests, model, decoder, tokenizer, sampling, texts, completer }
    }

    /// A question as the model reads it, and the seed of its answer.
    fn prompt(&self, place: usize) -> (Vec<u32>, u64) {
        let address = self.requests[place].address(&json!(0), false);
        let seed = u64::from_le_bytes(address[..8].try_into().expect("an address has 32 bytes"));
        (self.completer.prompt(&Question::User(self.texts[place].clone())).expect("a short prompt").tokens, seed)
    }

    fn joining(&self) -> Vec<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let answers = self.requests.iter().enumerate().map(|(place, request)| async move {
            let reply = self.model.complete(request).await.expect("an answer");
            let reply = self.model.parse(&reply).expect("a reply of its own");
            (place, (reply.text, reply.usage.tokens_out))
        });
        let answers = futures::stream::iter(answers).buffer_unordered(self.at_once);
        let mut answers: Vec<(usize, Answer)> = runtime.block_on(answers.collect());
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn in_batches(&self) -> Vec<Answer> {
        let places: Vec<usize> = (0..self.requests.len()).collect();
        let batch = |places: &[usize]| {
            let prompts: Vec<(Vec<u32>, u64)> = places.iter().map(|&place| self.prompt(place)).collect();
            let requests: Vec<generate::Request> =
                prompts.iter().map(|(prompt, seed)| generate::Request { prompt, seed: *seed }).collect();
            write(&self.decoder, &self.tokenizer, &requests, (&self.sampling, &[]), None).expect("valid prompts")
        };
        let written = places.chunks(self.at_once).flat_map(batch);
        written.map(|(generation, text)| (text, generation.tokens.len() as u64)).collect()
    }
}

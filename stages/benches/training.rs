//! Tokens a second of training steps and of generation, for the model sizes that PyTorch was measured with.
//!
//! `cargo bench --workspace --bench training [-- LARGEST_MILLIONS]`; 0.3 M parameters in batches of 10 × 104 tokens, larger ones 4 × 256.

use kernels::Device;
use stages::draw::Draw;
use stages::model::generate::{Request, Sampling, generate};
use stages::model::{Decoder, DecoderConfig};
use stages::train::Quiet;
use stages::train::batches::{Example, Keep};
use stages::train::optimizer::AdamW;
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, train};
use std::time::Instant;

/// vocabulary, d, layers, H, K, F; documents a step, tokens a document; steps to measure.
const SIZES: [([usize; 6], [usize; 2], usize); 4] = [
    ([25, 96, 3, 4, 2, 256], [10, 104], 200),
    ([512, 192, 4, 6, 2, 512], [4, 256], 60),
    ([4096, 384, 10, 6, 2, 1024], [4, 256], 6),
    ([8192, 768, 16, 12, 4, 2048], [4, 256], 2),
];

fn main() {
    let largest = std::env::args().filter_map(|argument| argument.parse::<f64>().ok()).next_back().unwrap_or(20.0);
    let device = Device::cpu(None);
    println!("{} on {} threads", device.name(), device.threads());
    for (shape, batch, steps) in SIZES {
        let decoder = Decoder::fresh(&device, &config(shape), 1);
        let millions = decoder.layout().len as f64 / 1e6;
        if millions <= largest {
            let decoding = decode(&decoder, shape[0]);
            let training = step(decoder, shape[0], batch, steps);
            println!("{millions:7.2} M parameters: {training:9.0} tokens/s trained, {decoding:9.0} tokens/s generated");
        }
    }
}

fn config([vocab_size, hidden_size, layers, heads, key_value_heads, feed_forward]: [usize; 6]) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads,
        intermediate_size: feed_forward,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        max_position_embeddings: 512,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    }
}

/// Whole steps: forward, backward, clipping, AdamW; every token but the first is learnt.
fn step(decoder: Decoder, vocabulary: usize, [documents, length]: [usize; 2], steps: usize) -> f64 {
    let text =
        |index: usize| (0..length).map(|place| ((index * 31 + place * 17) % vocabulary) as u32).collect::<Vec<_>>();
    let examples: Vec<Example> =
        (0..documents * steps).map(|index| Example { tokens: text(index), prompt: 1 }).collect();
    let settings = SftSettings {
        duration: Duration::Epochs(1.0),
        batch: BatchSize::Rows(documents),
        schedule: Schedule { shape: Shape::Constant, peak: 1e-4, warmup: 0.0, floor: 0.0 },
        optimizer: AdamW::default(),
        length_max: length,
        keep: Keep::Head,
        micro_batch_tokens: None,
        evaluation: None,
    };
    let clock = Instant::now();
    train(decoder, &examples, &settings, &Draw::new(1, "bench"), &mut Quiet).expect("nothing to stop it");
    (documents * length * steps) as f64 / clock.elapsed().as_secs_f64()
}

/// 128 answers of 64 tokens to prompts of 24.
fn decode(decoder: &Decoder, vocabulary: usize) -> f64 {
    let prompts: Vec<Vec<u32>> =
        (0..128).map(|index| (0..24).map(|place| (index * 3 + place) % vocabulary as u32).collect()).collect();
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: prompt[0] as u64 }).collect();
    let sampling = Sampling { tokens_max: 64, ..Sampling::default() };
    let clock = Instant::now();
    let answers = generate(decoder, &requests, &sampling).expect("valid prompts");
    let tokens: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
    tokens as f64 / clock.elapsed().as_secs_f64()
}

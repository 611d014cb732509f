//! Whole trainings on an accelerator, through the same contracts as on the CPU: `sft` and `ppo` of a tiny model, every kernel emulated.
//!
//! That nothing fell back to the CPU needs no trust: the CPU twins look into memory through one function, which panics where the
//! memory is an accelerator's (`View::host` in kernels/src/buffer.rs), on the emulated one too. What was launched is counted beside.

use kernels::{Device, Emulation, Precision};
use stages::draw::Draw;
use stages::failure::Result;
use stages::model::generate::{Generation, Request, Sampling, generate};
use stages::model::lora::Target;
use stages::model::{Decoder, DecoderConfig, Lora};
use stages::train::batches::{Example, Keep};
use stages::train::optimizer::AdamW;
use stages::train::ppo::{Critic, PpoSettings};
use stages::train::practice::{Divergence, KlAs, PracticeSettings, Task, Truncated};
use stages::train::rollouts::{Answer, Environment, Judgement};
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings};
use stages::train::{Metrics, Quiet, ppo, sft};
use std::collections::BTreeSet;

const END: u32 = 1;

/// Two layers with grouped heads, biases and a tied head, as Qwen2 has them.
fn config() -> DecoderConfig {
    let config = r#"{"model_type": "qwen2", "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "max_position_embeddings": 64, "bos_token_id": null, "eos_token_id": 1}"#;
    DecoderConfig::from_json(config, "config").unwrap()
}

fn emulated() -> Device {
    Device::emulated(Emulation::default())
}

/// Kernels that were launched, by name.
fn launched(device: &Device) -> BTreeSet<&'static str> {
    device.launches().into_iter().map(|(kernel, _)| kernel).collect()
}

/// Panics where one of the parts has no kernel that was launched.
fn assert_launched(device: &Device, parts: &[&str]) {
    let launched = launched(device);
    for part in parts {
        assert!(launched.iter().any(|kernel| kernel.starts_with(part)), "nothing of `{part}` among {launched:?}");
    }
}

/// |a − b| ≤ tolerance · max(1, |b|) for a column of every row.
fn assert_alike(name: &str, accelerated: &[Metrics], on_cpu: &[Metrics], tolerance: f64) {
    assert_eq!(accelerated.len(), on_cpu.len(), "rows of `{name}`");
    for (step, (a, b)) in accelerated.iter().zip(on_cpu).enumerate() {
        let (a, b) = (a.get(name), b.get(name));
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "`{name}` of row {step}: {a} and {b} on the CPU");
    }
}

/// Relative distance of two models' weights.
fn distance(a: &Decoder, b: &Decoder) -> f64 {
    let (a, b) = (a.weights(), b.weights());
    let square = |value: f32| f64::from(value) * f64::from(value);
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

// --- supervised ------------------------------------------------------------------------------------------------------

/// Repeat the prompt, then end.
fn examples() -> Vec<Example> {
    let letters = |index: u32| (0..2 + index % 5).map(move |place| 2 + (index * 3 + place * place) % 10);
    (0..16)
        .map(|index| letters(index).collect::<Vec<_>>())
        .map(|it| Example::new(&[&it[..], &[0]].concat(), &[&it[..], &[END]].concat()))
        .collect()
}

fn supervise(device: &Device) -> (Decoder, Vec<Metrics>) {
    let settings = SftSettings {
        duration: Duration::Epochs(3.0),
        batch: BatchSize::Tokens(100),
        schedule: Schedule { shape: Shape::Cosine, peak: 1e-2, warmup: 0.1, floor: 0.0 },
        optimizer: AdamW::default(),
        length_max: 40,
        keep: Keep::Tail,
        micro_batch_tokens: None,
        checkpointing: false,
        evaluation: None,
    };
    let decoder = Decoder::fresh(device, &config(), 3);
    sft::train(decoder, &examples(), &settings, &Draw::new(7, "sft"), &mut Quiet).unwrap()
}

#[test]
fn sft_has_the_losses_of_the_cpu() {
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 1e-2)] {
        let accelerator = emulated().in_precision(precision);
        let (decoder, rows) = supervise(&accelerator);
        let (expected, expected_rows) = supervise(&Device::cpu(Some(1)).in_precision(precision));
        assert_alike("loss", &rows, &expected_rows, tolerance);
        let (first, last) = (rows[0].get("loss"), rows[rows.len() - 1].get("loss"));
        assert!(last < first - 0.1, "loss {first} → {last}: it learns nothing");
        let distance = distance(&decoder, &expected);
        println!("{precision:?}: {} steps, loss {first:.4} → {last:.4}, weights {distance:.1e} apart", rows.len());
        assert!(distance <= 10.0 * tolerance, "{precision:?}: weights are {distance:.1e} apart");
        assert_launched(
            &accelerator,
            &["adamw", "attention", "logprob", "matmul", "norm", "reduce", "rope", "rows", "swiglu"],
        );
    }
}

#[test]
fn the_same_training_has_the_same_bits_again_and_under_another_schedule() {
    let bits = |emulation: Emulation| {
        let (decoder, _) = supervise(&Device::emulated(emulation));
        decoder.weights().iter().map(|weight| weight.to_bits()).collect::<Vec<_>>()
    };
    let first = bits(Emulation::default());
    assert!(first == bits(Emulation::default()), "again");
    assert!(first == bits(Emulation { schedule: kernels::Schedule::Shuffled(5), threads: 2, ..Emulation::default() }));
}

// --- practice --------------------------------------------------------------------------------------------------------

/// Answers with the policy that learns, on its device, and writes the answers down; or plays back what was written down.
struct World {
    answers: Vec<Vec<Generation>>,
    played: Option<usize>,
}

impl Environment for World {
    fn answers(&mut self, policy: &Decoder, requests: &[Request], sampling: &Sampling) -> Result<Vec<Generation>> {
        if let Some(played) = &mut self.played {
            *played += 1;
            return Ok(self.answers[*played - 1].clone());
        }
        let answers = generate(policy, requests, sampling)?;
        self.answers.push(answers.clone());
        Ok(answers)
    }

    /// The share of sevens.
    fn judge(&mut self, answers: &[Answer]) -> Result<Vec<Judgement>> {
        let sevens = |answer: &Answer| answer.tokens.iter().filter(|&&token| token == 7).count();
        let share = |answer: &Answer| sevens(answer) as f32 / answer.tokens.len() as f32;
        Ok(answers.iter().map(|it| Judgement { reward: share(it), right: share(it) > 0.5, formatted: true }).collect())
    }
}

fn ppo_settings() -> PpoSettings {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.0, norm_max: 1.0 };
    let practice = PracticeSettings {
        iterations: 2,
        rollouts: 8,
        group: 1,
        temperature: 1.0,
        answer_tokens_max: 6,
        minibatch: 4,
        epochs: 1,
        idle: 0,
        schedule: Schedule { shape: Shape::Linear, peak: 5e-3, warmup: 0.1, floor: 0.1 },
        optimizer,
        clip: (0.2, 0.2),
        kl: Divergence { beta: 0.05, place: KlAs::Reward, adaptive: None },
        kl_stop: None,
        kl_limit: None,
        entropy: 0.01,
        truncated: Truncated::default(),
        checkpointing: false,
    };
    PpoSettings {
        critic: Critic::Separate { rate: 2e-3, optimizer, epochs: 1, minibatch: practice.minibatch },
        practice,
        discount: 1.0,
        trace: 0.95,
        value_trace: None,
        value_clip: Some(0.2),
        whiten: true,
    }
}

fn practise(device: &Device, lora: Option<&Lora>, world: &mut World) -> (Decoder, Vec<Metrics>) {
    let prompts: Vec<Vec<u32>> = (0..8).map(|index| vec![2 + index, 3, 4][..1 + index as usize % 3].to_vec()).collect();
    let (fresh, draw) = (Decoder::fresh(device, &config(), 3), Draw::new(7, "practice"));
    let policy = match lora {
        Some(lora) => fresh.adapted(lora, 5),
        None => fresh,
    };
    ppo::train(Task { policy, prompts: &prompts, ids: &[], draw: &draw }, &ppo_settings(), world, &mut Quiet).unwrap()
}

#[test]
fn ppo_answers_and_learns_on_the_accelerator_with_the_losses_of_the_cpu() {
    let lora = Lora { rank: 4, alpha: 8.0, targets: Target::ALL.to_vec() };
    for (precision, lora, tolerance) in
        [(Precision::F32, None, 1e-4), (Precision::F32, Some(&lora), 1e-4), (Precision::Bf16, None, 2e-2)]
    {
        let accelerator = emulated().in_precision(precision);
        let mut world = World { answers: Vec::new(), played: None };
        let (decoder, rows) = practise(&accelerator, lora, &mut world);
        world.played = Some(0);
        let (expected, expected_rows) = practise(&Device::cpu(Some(1)).in_precision(precision), lora, &mut world);
        let (decoder, expected) = (decoder.merged(), expected.merged());
        for name in ["policy_loss", "value_loss", "reward"] {
            assert_alike(name, &rows, &expected_rows, tolerance);
        }
        let distance = distance(&decoder, &expected);
        let learnt = if lora.is_some() { "adapters" } else { "all weights" };
        println!("{precision:?}, {learnt}: {} iterations, weights {distance:.1e} apart", rows.len());
        assert!(distance <= 10.0 * tolerance, "{precision:?}, {learnt}: weights are {distance:.1e} apart");
        assert_launched(&accelerator, &["attention_decode", "gae", "ppo", "sample"]);
    }
}

#[test]
fn greedy_answers_are_those_of_the_cpu() {
    let answers = |device: &Device| {
        let (decoder, _) = supervise(device);
        let prompts: Vec<Vec<u32>> = (2..10).map(|token| vec![token, 3, 0]).collect();
        let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: 1 }).collect();
        let sampling = Sampling { temperature: 0.0, tokens_max: 8, ..Sampling::default() };
        generate(&decoder, &requests, &sampling).unwrap()
    };
    for (ours, expected) in answers(&emulated()).iter().zip(&answers(&Device::cpu(Some(1)))) {
        assert_eq!((&ours.tokens, ours.finish), (&expected.tokens, expected.finish));
        let far = ours.logprobs.iter().zip(&expected.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-3, "log-probabilities are {far:.1e} apart");
    }
}

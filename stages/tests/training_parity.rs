//! One hundred steps of fine-tuning beside a plain PyTorch loop that gives each document to the model alone (`tests/reference/sft`).

use kernels::Device;
use serde::Deserialize;
use serde_json::Value;
use stages::draw::Draw;
use stages::model::parameters::Layout;
use stages::model::{Decoder, DecoderConfig, tensors};
use stages::train::batches::{Example, Keep, epoch_order, packed, truncated};
use stages::train::optimizer::AdamW;
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, train};
use stages::train::{Metrics, Quiet};
use std::path::PathBuf;

/// As the script spells them.
#[derive(Deserialize)]
struct Settings {
    steps: u64,
    batch_tokens: usize,
    length_max: usize,
    peak: f64,
    warmup: f64,
    floor: f64,
    decay: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    norm_max: f32,
}

impl Settings {
    fn ours(&self) -> SftSettings {
        let Settings { decay, beta1, beta2, epsilon, norm_max, .. } = *self;
        SftSettings {
            duration: Duration::Steps(self.steps),
            batch: BatchSize::Tokens(self.batch_tokens),
            schedule: Schedule { shape: Shape::Cosine, peak: self.peak, warmup: self.warmup, floor: self.floor },
            optimizer: AdamW { beta1, beta2, epsilon, decay, norm_max },
            length_max: self.length_max,
            keep: Keep::Tail,
            micro_batch_tokens: None,
            checkpointing: false,
            evaluation: None,
        }
    }
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/sft").join(file)
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(path(file)).unwrap()).unwrap()
}

fn draw() -> Draw {
    Draw::new(7, "parity")
}

/// Documents of each step, in the order that the loop takes them in.
fn batches(documents: &[Example], settings: &Settings) -> Vec<Vec<usize>> {
    let length = |index: usize| truncated(&documents[index], settings.length_max, Keep::Tail).unwrap().tokens.len();
    let epochs =
        (0..).flat_map(|epoch| packed(&epoch_order(documents.len(), &draw(), epoch), length, settings.batch_tokens));
    epochs.take(settings.steps as usize).collect()
}

/// The loop's rows, on the packed batches that the reference read one document at a time.
fn trained(settings: &Settings, micro_batch_tokens: Option<usize>) -> Vec<Metrics> {
    let config =
        DecoderConfig::from_json(&std::fs::read_to_string(path("config.json")).unwrap(), "config.json").unwrap();
    let weights = tensors::read(&path(""), &config, &Layout::new(&config, false)).unwrap();
    let decoder = Decoder::new(&Device::cpu(Some(2)), &config, &weights);
    let settings = SftSettings { micro_batch_tokens, ..settings.ours() };
    train(decoder, &read::<Vec<Example>>("documents.json"), &settings, &draw(), &mut Quiet).unwrap().1
}

#[test]
fn the_reference_was_given_our_batches() {
    let batches = batches(&read::<Vec<Example>>("documents.json"), &read("settings.json"));
    if std::env::var_os("DECOCT_BLESS").is_some() {
        std::fs::write(path("batches.json"), serde_json::to_string(&batches).unwrap() + "\n").unwrap();
    }
    assert_eq!(batches, read::<Vec<Vec<usize>>>("batches.json"), "see tests/reference/sft/make.py");
}

fn check(settings: &Settings, rows: &[Metrics]) {
    let expected: Vec<Value> = read("expected.json");
    assert_eq!((rows.len(), expected.len()), (settings.steps as usize, settings.steps as usize));
    let mut worst: f64 = 0.0;
    for (row, expected) in rows.iter().zip(&expected) {
        let number = |name: &str| expected[name].as_f64().unwrap();
        assert!((row.get("learning_rate") - number("learning_rate")).abs() < 1e-12, "step {}", row.step);
        let norms = (row.get("grad_norm"), number("grad_norm"));
        assert!((norms.0 - norms.1).abs() <= 1e-3 * norms.1, "step {}: gradient norms {norms:?}", row.step);
        let error = (row.get("loss") - number("loss")).abs();
        assert!(error <= 1e-4, "step {}: loss {}, PyTorch {}", row.step, row.get("loss"), number("loss"));
        worst = worst.max(error);
    }
    println!("largest difference of a loss over {} steps: {worst:.1e}", rows.len());
}

#[test]
fn a_hundred_losses_are_those_of_pytorch() {
    let settings: Settings = read("settings.json");
    let rows = trained(&settings, None);
    // Agreement of a run that learns nothing would say little.
    assert!(rows[99].get("loss") < 0.7 * rows[0].get("loss"), "{} → {}", rows[0].get("loss"), rows[99].get("loss"));
    let clipped = rows.iter().filter(|row| row.get("grad_norm") > settings.norm_max as f64).count();
    assert!((5..=95).contains(&clipped), "{clipped} steps were clipped: either way should be tried");
    check(&settings, &rows);
}

#[test]
fn they_are_with_accumulated_gradients_too() {
    let settings: Settings = read("settings.json");
    check(&settings, &trained(&settings, Some(50)));
}

//! Low-rank adaptation: beside a plain PyTorch loop (`tests/reference/lora`), by finite differences, through stops, and merged.

mod stopping;

use kernels::Device;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};
use stages::draw::Draw;
use stages::model::batch::Batch;
use stages::model::lora::{PeftAdapter, Target};
use stages::model::parameters::Layout;
use stages::model::workspace::{Purpose, Workspace};
use stages::model::{Decoder, DecoderConfig, Lora, heads, tensors};
use stages::train::batches::{Example, Keep, truncated};
use stages::train::held_out::score;
use stages::train::optimizer::AdamW;
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, train};
use stages::train::shards::Lanes;
use stages::train::{Host, Quiet};
use std::path::PathBuf;
use stopping::with_stops;

/// As the script spells them.
#[derive(Deserialize)]
struct Settings {
    steps: u64,
    rank: usize,
    alpha: f32,
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

    fn lora(&self) -> Lora {
        Lora { rank: self.rank, alpha: self.alpha, targets: Target::ALL.to_vec() }
    }
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(file)
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(path(file)).unwrap()).unwrap()
}

/// The model of the full fine-tuning's reference.
fn base(threads: usize) -> Decoder {
    let text = std::fs::read_to_string(path("sft/config.json")).unwrap();
    let config = DecoderConfig::from_json(&text, "config.json").unwrap();
    let weights = tensors::read(&path("sft"), &config, &Layout::new(&config, false)).unwrap();
    Decoder::new(&Device::cpu(Some(threads)), &config, &weights)
}

/// Its adapters as the reference starts them.
fn adapted(settings: &Settings, threads: usize) -> Decoder {
    let mut decoder = base(threads).adapted(&settings.lora(), 1);
    let bytes = std::fs::read(path("lora/adapters.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stream = decoder.device().stream();
    let layers = decoder.layout().layers.clone();
    for (index, layer) in layers.iter().enumerate() {
        let adapters = [&layer.qkv, &layer.out, &layer.gate_up, &layer.down].map(|it| it.adapters.clone()).concat();
        for (name, adapter) in ["q", "k", "v", "o", "gate", "up", "down"].iter().zip(adapters) {
            let tensor = file.tensor(&format!("layers.{index}.{name}.a")).unwrap();
            let values: Vec<f32> =
                tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            stream.write(decoder.learnt_mut().slice_mut(adapter.a), &values);
        }
    }
    decoder
}

fn draw() -> Draw {
    Draw::new(7, "parity")
}

fn documents() -> Vec<Example> {
    read("sft/documents.json")
}

#[test]
fn thirty_losses_are_those_of_pytorch() {
    let (settings, expected): (Settings, Value) = (read("lora/settings.json"), read("lora/expected.json"));
    let (decoder, rows) = train(adapted(&settings, 2), &documents(), &settings.ours(), &draw(), &mut Quiet).unwrap();
    let steps = expected["steps"].as_array().unwrap();
    assert_eq!((rows.len(), steps.len()), (30, 30));
    for (row, expected) in rows.iter().zip(steps) {
        let (loss, theirs) = (row.get("loss"), expected["loss"].as_f64().unwrap());
        assert!((loss - theirs).abs() <= 1e-4, "step {}: loss {loss}, PyTorch {theirs}", row.step);
        let norms = (row.get("grad_norm"), expected["grad_norm"].as_f64().unwrap());
        assert!((norms.0 - norms.1).abs() <= 1e-3 * norms.1, "step {}: gradient norms {norms:?}", row.step);
    }
    assert!(rows[29].get("loss") < 0.9 * rows[0].get("loss"), "{} → {}", rows[0].get("loss"), rows[29].get("loss"));
    let cut = |example: &Example| truncated(example, settings.length_max, Keep::Tail).unwrap();
    let merged = decoder.merged();
    let asked: Vec<Example> = documents().iter().map(cut).collect();
    let loss = score(&merged, &asked, &mut Lanes::new(&merged, Purpose::Inference)).loss;
    let theirs = expected["merged_loss"].as_f64().unwrap();
    assert!((loss - theirs).abs() <= 1e-4, "merged: loss {loss}, PyTorch {theirs}");
}

#[test]
fn adapters_change_nothing_before_they_learn_and_merging_changes_nothing_after() {
    let settings: Settings = read("lora/settings.json");
    let asked = documents();
    let loss = |decoder: &Decoder| score(decoder, &asked, &mut Lanes::new(decoder, Purpose::Inference)).loss;
    let before = adapted(&settings, 2);
    assert_eq!(loss(&base(2)), loss(&before));
    assert_eq!(before.copy().merged().weights(), base(2).weights());
    let (trained, _) = train(before, &documents(), &settings.ours(), &draw(), &mut Quiet).unwrap();
    assert_eq!(trained.weights(), base(2).weights(), "what is frozen stays as it is");
    let (beside, within) = (loss(&trained), loss(&trained.copy().merged()));
    assert!((beside - within).abs() < 1e-5, "{beside} with adapters, {within} merged");
}

/// A model of each family with adapters that do something.
fn adapted_of(family: &Value, targets: &[Target], is_critic: bool) -> Decoder {
    let mut config = json!({
        "vocab_size": 19, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "eos_token_id": 3, "tie_word_embeddings": true, "max_position_embeddings": 96,
    });
    config.as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    let config = DecoderConfig::from_json(&config.to_string(), "random").unwrap();
    let lora = Lora { rank: 3, alpha: 6.0, targets: targets.to_vec() };
    let policy = Decoder::fresh(&Device::cpu(Some(2)), &config, 5).adapted(&lora, 9);
    let mut decoder = if is_critic { policy.with_value_head() } else { policy };
    let stream = decoder.device().stream();
    let values: Vec<f32> = (0..decoder.learnt().len).map(|index| (index as f32 * 0.7).sin() * 0.15).collect();
    stream.write(decoder.learnt_mut().view_mut(), &values);
    decoder
}

fn texts() -> Vec<Example> {
    let text = |length: u32| (0..length).map(|place| (place * place * 5 + length) % 19).collect::<Vec<_>>();
    [5, 9, 14].map(|length| Example::new(&text(3), &text(length))).to_vec()
}

/// Σ log p of the targets, or of a critic Σ V, and its gradient.
fn gradient(decoder: &Decoder, purpose: Purpose) -> (f64, Vec<f32>) {
    let mut workspace = Workspace::new(decoder.device().stream(), purpose);
    let mut gradients = workspace.stream.zeros(decoder.learnt().len);
    let batch = Batch::of_examples(&workspace.stream, texts().iter());
    decoder.forward(&batch, &mut workspace);
    let is_critic = decoder.layout().value.is_some();
    let outputs = if is_critic {
        heads::values(decoder, &batch, &mut workspace);
        workspace.download_values(&batch)
    } else {
        heads::log_probabilities(decoder, &batch, 1.0, &mut workspace);
        workspace.download_logp(&batch)
    };
    let sum = outputs.iter().map(|&output| f64::from(output)).sum();
    if purpose.is_training() {
        workspace.fill_logp_gradient(&batch, 1.0);
        if is_critic {
            heads::values_backward(decoder, &batch, &mut workspace, &mut gradients);
        } else {
            heads::log_probabilities_backward(decoder, &batch, 1.0, &mut workspace, &mut gradients);
        }
        decoder.backward(&batch, &mut workspace, &mut gradients);
    }
    let gradients = workspace.stream.download(gradients.view());
    (sum, gradients)
}

#[test]
fn gradients_are_finite_differences() {
    for family in [json!({"model_type": "qwen2"}), json!({"model_type": "qwen3"}), json!({"model_type": "llama"})] {
        let some = [Target::Query, Target::Value, Target::Down];
        for (targets, is_critic) in [(&Target::ALL[..], false), (&some, false), (&some, true)] {
            let mut decoder = adapted_of(&family, targets, is_critic);
            let (_, gradients) = gradient(&decoder, Purpose::Training);
            let (stream, start) = (decoder.device().stream(), decoder.learnt_weights());
            // Along a direction of many coordinates at a time: single ones drown in rounding.
            for way in 0..12 {
                let direction: Vec<f32> =
                    (0..start.len()).map(|index| ((index * (way + 3)) as f32 * 1.3).cos().signum()).collect();
                let expected: f64 = gradients.iter().zip(&direction).map(|(&g, &d)| f64::from(g * d)).sum();
                let step = 1e-3f32;
                let mut at = |sign: f32| {
                    let moved: Vec<f32> = start.iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect();
                    stream.write(decoder.learnt_mut().view_mut(), &moved);
                    gradient(&decoder, Purpose::Inference).0
                };
                let found = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
                let scale = gradients.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                assert!(
                    (found - expected).abs() < 2e-2 * scale,
                    "{family} {targets:?}, critic {is_critic}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn checkpointing_gives_the_same_bits() {
    for family in [json!({"model_type": "qwen2"}), json!({"model_type": "qwen3"}), json!({"model_type": "llama"})] {
        let decoder = adapted_of(&family, &Target::ALL, false);
        assert_eq!(gradient(&decoder, Purpose::Training), gradient(&decoder, Purpose::Recomputation), "{family}");
    }
}

#[test]
fn stops_and_threads_change_no_bit() {
    let settings: Settings = read("lora/settings.json");
    let bits = |decoder: &Decoder| decoder.learnt_weights().iter().map(|it| it.to_bits()).collect::<Vec<_>>();
    let go = |threads: usize, host: &mut dyn Host| {
        train(adapted(&settings, threads), &documents(), &settings.ours(), &draw(), host)
    };
    let (whole, rows) = go(1, &mut Quiet).unwrap();
    assert_eq!(bits(&go(3, &mut Quiet).unwrap().0), bits(&whole));
    let (resumed, again) = with_stops(&[3, 6, 9], 4, |host| go(2, host));
    assert_eq!((bits(&resumed), again), (bits(&whole), rows));
}

#[test]
fn kept_adapters_are_peft_s_and_merging_them_gives_the_model() {
    let (settings, folder): (Settings, _) = (read("lora/settings.json"), tempfile::tempdir().unwrap());
    let lora = Lora { targets: vec![Target::Query, Target::Value, Target::Up, Target::Down], ..settings.lora() };
    let adapted = base(2).adapted(&lora, 1);
    let (trained, _) = train(adapted, &documents(), &settings.ours(), &draw(), &mut Quiet).unwrap();
    PeftAdapter::of(&trained, &lora).save(folder.path()).unwrap();
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(settings.rank)));
    assert_eq!(config["target_modules"], json!(["q_proj", "v_proj", "up_proj", "down_proj"]));
    let bytes = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> (Vec<usize>, Vec<f64>) {
        let tensor = file.tensor(name).unwrap();
        let values = tensor.data().as_chunks::<4>().0.iter().map(|&four| f64::from(f32::from_le_bytes(four)));
        (tensor.shape().to_vec(), values.collect())
    };
    let (merged, frozen) = (trained.copy().merged(), base(2));
    let (layout, layers) = (Layout::new(frozen.config(), false), frozen.config().num_hidden_layers);
    assert_eq!(file.len(), 2 * 4 * layers);
    let (before, after) = (frozen.weights(), merged.weights());
    for named in layout.tensors(frozen.config()) {
        let Some(module) =
            named.name.strip_suffix(".weight").filter(|it| file.names().iter().any(|name| name.contains(it)))
        else {
            assert_eq!(before[named.range.clone()], after[named.range], "{}", named.name);
            continue;
        };
        let (a_shape, a) = tensor(&format!("base_model.model.{module}.lora_A.weight"));
        let (b_shape, b) = tensor(&format!("base_model.model.{module}.lora_B.weight"));
        let [outputs, inputs] = named.shape[..] else { panic!("a matrix") };
        let rank = settings.rank;
        assert_eq!((&a_shape[..], &b_shape[..]), (&[rank, inputs][..], &[outputs, rank][..]), "{module}");
        for (place, index) in named.range.enumerate() {
            let (row, column) = (place / inputs, place % inputs);
            let added: f64 = (0..rank).map(|r| b[row * rank + r] * a[r * inputs + column]).sum();
            let expected = f64::from(before[index]) + f64::from(settings.alpha) / rank as f64 * added;
            assert!((f64::from(after[index]) - expected).abs() < 1e-5, "{module} [{row}, {column}]");
        }
    }
}

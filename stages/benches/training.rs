//! Training steps and generation beside PyTorch, by turns in one run: the same shapes, the same batches, as many threads.
//!
//! `cargo bench --workspace --bench training [-- --largest MILLIONS] [--smallest MILLIONS] [--threads N] [--alone] [--f32]`. PyTorch is found in
//! `target/venv-reference`, which `tests/reference/run` makes; without it, or with `--alone`, our own numbers are printed alone. `--f32` leaves
//! out steps in bf16, which PyTorch takes long for at 18.9 million parameters where a processor has no instructions for them.

use kernels::{Device, Layout, Precision, Write, matmul};
use stages::draw::Draw;
use stages::model::generate::{Request, Sampling, generate};
use stages::model::{Decoder, DecoderConfig, parameters};
use stages::train::batches::{Example, Keep};
use stages::train::optimizer::AdamW;
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, train};
use stages::train::{Host, Metrics};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// One size of model: V, d, layers, H, K, F; documents a step, tokens a document; tokens that a sequence generates.
struct Size {
    shape: [usize; 6],
    batch: [usize; 2],
    new: usize,
}

const SIZES: [Size; 4] = [
    Size { shape: [42, 96, 3, 4, 2, 256], batch: [10, 104], new: 64 },
    Size { shape: [512, 192, 4, 6, 2, 512], batch: [4, 256], new: 64 },
    Size { shape: [8192, 384, 10, 6, 2, 1024], batch: [4, 256], new: 24 },
    Size { shape: [32000, 768, 14, 12, 4, 2048], batch: [4, 256], new: 24 },
];
/// Sequences that are generated side by side, and the tokens that each begins with.
const SEQUENCES: usize = 64;
const PROMPT: usize = 23;
/// Turns of each side; a machine's other work comes and goes, so both are timed again and again.
const TURNS: usize = 5;
/// Of one turn.
const SECONDS: f64 = 1.5;
/// Of one turn, at least and at most.
const STEPS_LEAST: usize = 4;
const STEPS_MOST: u64 = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| -> Option<f64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments[at + 1].parse().unwrap_or_else(|_| panic!("`{name}` takes a number")))
    };
    let wanted = number("--smallest").unwrap_or(0.0)..=number("--largest").unwrap_or(20.0);
    let device = Device::cpu(number("--threads").map(|count| count as usize));
    let [is_alone, is_exact] = ["--alone", "--f32"].map(|flag| arguments.iter().any(|argument| argument == flag));
    let mut torch = if is_alone { None } else { Torch::start(device.threads()) };
    println!("{} on {} threads; medians of {TURNS} turns, in tokens a second", device.name(), device.threads());
    for size in &SIZES {
        let millions = parameters::Layout::new(&config(size.shape), false).len as f64 / 1e6;
        if wanted.contains(&millions) {
            println!("{millions:.2} M parameters");
            compare(&device, size, millions * 1e6, is_exact, torch.as_mut());
        }
    }
}

fn compare(device: &Device, size: &Size, parameters: f64, is_exact: bool, mut torch: Option<&mut Torch>) {
    let decoder = Decoder::fresh(device, &config(size.shape), 1);
    let half = Decoder::fresh(&device.clone().in_precision(Precision::Bf16), &config(size.shape), 1);
    let mut rates: [Vec<f64>; 8] = Default::default();
    for _ in 0..TURNS {
        rates[0].push(step(&decoder, size));
        rates[1].push(decode(&decoder, size));
        rates[2].push(gemm_peak(device));
        if let Some(torch) = torch.as_deref_mut() {
            rates[3].push(torch.ask("train", size.shape, &size.batch));
            rates[4].push(torch.ask("decode", size.shape, &[SEQUENCES, PROMPT, size.new]));
            rates[5].push(torch.ask("generate", size.shape, &[SEQUENCES, PROMPT, size.new]));
            if !is_exact {
                rates[7].push(torch.ask("train_bf16", size.shape, &size.batch));
            }
        }
        if !is_exact {
            rates[6].push(step(&half, size));
        }
    }
    let [trained, decoded, peak, torch_trained, torch_decoded, transformers, halves, torch_halves] = rates.map(median);
    let share = trained * operations(size, parameters) / peak;
    println!(
        "  step f32   {trained:>9.0} {} · {:.0} % of the GEMM peak",
        beside(trained, torch_trained),
        100.0 * share
    );
    if !is_exact {
        println!("  step bf16  {halves:>9.0} {}", beside(halves, torch_halves));
    }
    println!("  decode     {decoded:>9.0} {}", beside(decoded, torch_decoded));
    println!("  decode, beside transformers' generate {}", beside(decoded, transformers));
}

fn beside(ours: f64, other: f64) -> String {
    if other.is_nan() { String::new() } else { format!("PyTorch {other:>9.0} · {:.2} ×", ours / other) }
}

/// NaN of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of one token of a step: two products forward, four back; attention sees half of its document on average.
fn operations(size: &Size, parameters: f64) -> f64 {
    let [_, d, layers, ..] = size.shape;
    6.0 * parameters + 6.0 * (layers * size.batch[1] * d) as f64
}

/// Operations a second of a product of 1,024³.
fn gemm_peak(device: &Device) -> f64 {
    const SIDE: usize = 1024;
    let stream = device.stream();
    let (a, b, mut c) = (stream.zeros(SIDE * SIDE), stream.zeros(SIDE * SIDE), stream.zeros(SIDE * SIDE));
    let mut times = Vec::new();
    for _ in 0..10 {
        let clock = Instant::now();
        matmul(&stream, Layout::Nn, SIDE, SIDE, SIDE, a.view(), b.view(), Write::Overwrite, c.view_mut());
        times.push(clock.elapsed().as_secs_f64());
    }
    2.0 * (SIDE as f64).powi(3) / median(times)
}

fn config([vocab_size, hidden_size, layers, heads, key_value_heads, feed_forward]: [usize; 6]) -> DecoderConfig {
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": vocab_size, "hidden_size": hidden_size, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "intermediate_size": feed_forward,
        "tie_word_embeddings": true, "max_position_embeddings": 512,
    });
    DecoderConfig::from_json(&config.to_string(), "the bench").expect("a model that can be")
}

/// Steady steps (forward, backward, clipping, AdamW), as on the other side: the median after the first; every token but the first of
/// a document is learnt.
fn step(decoder: &Decoder, size: &Size) -> f64 {
    let ([vocabulary, ..], [documents, length]) = (size.shape, size.batch);
    // The first token of a document is only read, the last only learnt.
    let text = |index: usize| (0..=length).map(|place| ((index * 31 + place * 17) % vocabulary) as u32).collect();
    let examples: Vec<Example> = (0..16 * documents).map(|index| Example { tokens: text(index), prompt: 1 }).collect();
    let settings = SftSettings {
        duration: Duration::Steps(STEPS_MOST),
        batch: BatchSize::Rows(documents),
        schedule: Schedule { shape: Shape::Constant, peak: 1e-4, warmup: 0.0, floor: 0.0 },
        optimizer: AdamW::default(),
        length_max: length + 1,
        keep: Keep::Head,
        micro_batch_tokens: None,
        checkpointing: false,
        evaluation: None,
    };
    let mut watch = Watch { begin: Instant::now(), ends: Vec::new() };
    // The watch breaks the training off, which is a failure to `train`.
    let _ = train(decoder.copy(), &examples, &settings, &Draw::new(1, "bench"), &mut watch);
    let times: Vec<f64> = watch.ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(times.len() >= STEPS_LEAST - 1, "{} steps", watch.ends.len());
    (documents * length) as f64 / median(times)
}

/// Notes when steps end, and stops when time is up.
struct Watch {
    begin: Instant,
    ends: Vec<f64>,
}

impl Host for Watch {
    fn checkpoint_folder(&self) -> Option<&Path> {
        None
    }

    fn checkpoint_every(&self) -> u64 {
        u64::MAX
    }

    fn cancelled(&self) -> bool {
        self.ends.len() >= STEPS_LEAST && self.begin.elapsed().as_secs_f64() > SECONDS
    }

    fn report(&mut self, _: &Metrics, _: u64) {
        self.ends.push(self.begin.elapsed().as_secs_f64());
    }
}

fn decode(decoder: &Decoder, size: &Size) -> f64 {
    let vocabulary = size.shape[0] as u32;
    let prompts: Vec<Vec<u32>> = (0..SEQUENCES as u32)
        .map(|index| (0..PROMPT as u32).map(|place| (index * 3 + place) % vocabulary).collect())
        .collect();
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: prompt[0].into() }).collect();
    let sampling = Sampling { tokens_max: size.new, ..Sampling::default() };
    let (mut times, clock) = (Vec::new(), Instant::now());
    while times.len() < 3 || clock.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        let answers = generate(decoder, &requests, &sampling).expect("valid prompts");
        assert_eq!(answers.iter().map(|answer| answer.tokens.len()).sum::<usize>(), SEQUENCES * size.new);
        times.push(start.elapsed().as_secs_f64());
    }
    (SEQUENCES * size.new) as f64 / median(times)
}

/// PyTorch in a process of its own, which waits between its turns.
struct Torch {
    child: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Torch {
    fn start(threads: usize) -> Option<Torch> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../target/venv-reference/bin/python");
        if !python.exists() {
            println!("no PyTorch: `tests/reference/run` installs it into target/venv-reference");
            return None;
        }
        let mut command = Command::new(python);
        command.arg(root.join("benches/pytorch/lean.py")).arg(threads.to_string());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.expect("python starts");
        let (tasks, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Some(Torch { child, tasks, answers: BufReader::new(answers) })
    }

    fn ask(&mut self, task: &str, shape: [usize; 6], batch: &[usize]) -> f64 {
        let task = serde_json::json!({"task": task, "shape": shape, "batch": batch, "seconds": SECONDS});
        writeln!(self.tasks, "{task}").expect("PyTorch listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("PyTorch answers");
        // Its threads spin for a while before they sleep.
        std::thread::sleep(std::time::Duration::from_millis(300));
        answer.trim().parse().unwrap_or_else(|_| panic!("PyTorch failed at {task}"))
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

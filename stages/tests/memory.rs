//! What a training holds in memory is what its plan says, and gradient checkpointing takes less of it for the same bits.
//!
//! Every allocation of this program is counted, those of our buffers and all others; of an accelerator what it counts itself, its
//! buffers and workspaces. Tests take turns.

#[expect(dead_code, reason = "only its host is wanted here")]
mod stopping;

use kernels::{Architecture, Device, Emulation, Precision, Profile};
use serde_json::json;
use stages::draw::Draw;
use stages::failure::{Failure, Result};
use stages::model::generate::{Request, Sampling, generate};
use stages::model::lora::Target;
use stages::model::{Decoder, DecoderConfig, Lora};
use stages::train::batches::{Example, Keep, epoch_order};
use stages::train::dpo::{DpoSettings, Pair};
use stages::train::grpo::GrpoSettings;
use stages::train::memory::{
    CriticSizes, DpoSizes, Lengths, MemoryPlan, ModelSizes, PracticeSizes, SftSizes, generation,
};
use stages::train::optimizer::AdamW;
use stages::train::policy::{Over, Ratio};
use stages::train::ppo::{Critic, PpoSettings};
use stages::train::practice::{Divergence, KlAs, PracticeSettings, Task, Truncated};
use stages::train::rloo::RlooSettings;
use stages::train::rollouts::{Answer, Judgement};
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, batches_of};
use stages::train::{Host, Metrics, dpo, grpo, ppo, rloo, sft};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use stopping::Stopping;

/// Counts what is held of what was asked for since the last measurement began. What is older, and may be given back at any time (a
/// thread of an earlier test keeps its scratch until it ends), does not count: each block knows its measurement.
struct Counting;

static MEASUREMENT: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    /// The block with the number of its measurement in front, and the bytes of that.
    fn with_front(layout: Layout) -> (Layout, usize) {
        let front = layout.align().max(align_of::<usize>()).max(size_of::<usize>());
        (Layout::from_size_align(front + layout.size(), front).expect("a block of a possible size"), front)
    }

    /// # Safety
    /// `block` is what the system gave for [`Counting::with_front`] of this layout, or null.
    unsafe fn took(block: *mut u8, layout: Layout, front: usize) -> *mut u8 {
        if block.is_null() {
            return block;
        }
        let bytes = layout.size();
        MOST.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
        LARGEST.fetch_max(bytes, Relaxed);
        // SAFETY: the front has room for the number, which lies right before what the caller gets.
        unsafe {
            block.add(front).cast::<usize>().sub(1).write(MEASUREMENT.load(Relaxed));
            block.add(front)
        }
    }
}

// SAFETY: the system gives blocks with a front of whole alignments; the caller gets what lies behind it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (whole, front) = Counting::with_front(layout);
        // SAFETY: the caller's promise; the block is the system's.
        unsafe { Counting::took(System.alloc(whole), layout, front) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (whole, front) = Counting::with_front(layout);
        // SAFETY: as above.
        unsafe { Counting::took(System.alloc_zeroed(whole), layout, front) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        let (whole, front) = Counting::with_front(layout);
        // SAFETY: `address` came from `took`, so the number and the block's begin lie before it.
        unsafe {
            if address.cast::<usize>().sub(1).read() == MEASUREMENT.load(Relaxed) {
                HELD.fetch_sub(layout.size(), Relaxed);
            }
            System.dealloc(address.sub(front), whole);
        }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const TWO_THREADS: Profile = Profile::Cpu { threads: 2 };

fn two_threads() -> Device {
    Device::cpu(Some(2))
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The most bytes that were held of what `work` asked for, and the most that were asked for at once.
fn measured(work: impl FnOnce()) -> (usize, usize) {
    MEASUREMENT.fetch_add(1, Relaxed);
    for count in [&HELD, &MOST, &LARGEST] {
        count.store(0, Relaxed);
    }
    work();
    (MOST.load(Relaxed), LARGEST.load(Relaxed))
}

/// The same of a device: on an accelerator the most of its own memory.
fn measured_on(device: &Device, work: impl FnOnce()) -> (usize, usize) {
    let (most, largest) = measured(work);
    device.memory_used().map_or((most, largest), |(_, most)| (most as usize, largest))
}

fn check(what: &str, plan: &MemoryPlan, measured: usize) {
    let (planned, measured) = (plan.total() as f64, measured as f64);
    println!(
        "{what}: {:.2} MB planned, {:.2} MB measured ({:+.1} %)",
        planned / 1e6,
        measured / 1e6,
        100.0 * (measured / planned - 1.0)
    );
    assert!((measured / planned - 1.0).abs() <= 0.10, "{what}: planned {plan:#?}, measured {measured}");
}

fn config(vocabulary: usize, hidden: usize, layers: usize, feed_forward: usize) -> DecoderConfig {
    let config = json!({
        "model_type": "qwen2", "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": feed_forward, "tie_word_embeddings": true, "eos_token_id": 1,
        "max_position_embeddings": 2_048,
    });
    DecoderConfig::from_json(&config.to_string(), "sizes").unwrap()
}

fn texts(count: usize, vocabulary: usize) -> Vec<Example> {
    let token = |place: usize| 2 + (place * 7 % (vocabulary - 2)) as u32;
    let text = |index: usize| (0..24 + index * 13 % 60).map(|place| token(place + index)).collect::<Vec<_>>();
    (0..count).map(|index| Example::new(&text(index)[..12], &text(index)[12..])).collect()
}

fn settings(batch_tokens: usize, checkpointing: bool, micro_batch_tokens: Option<usize>) -> SftSettings {
    SftSettings {
        duration: Duration::Epochs(1.0),
        batch: BatchSize::Tokens(batch_tokens),
        schedule: Schedule { shape: Shape::Cosine, peak: 1e-3, warmup: 0.1, floor: 0.0 },
        optimizer: AdamW::default(),
        length_max: 512,
        keep: Keep::Tail,
        micro_batch_tokens,
        checkpointing,
        evaluation: None,
    }
}

/// Keeps a checkpoint every step.
struct Keeping<'a>(&'a Path);

impl Host for Keeping<'_> {
    fn checkpoint_folder(&self) -> Option<&Path> {
        Some(self.0)
    }

    fn checkpoint_every(&self) -> u64 {
        1
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn report(&mut self, _: &Metrics, _: u64) {}
}

/// Eight numbers to each row and column of every matrix.
fn adapters() -> Lora {
    Lora { rank: 8, alpha: 16.0, targets: Target::ALL.to_vec() }
}

fn learner(device: &Device, config: &DecoderConfig, lora: Option<&Lora>) -> Decoder {
    let decoder = Decoder::fresh(device, config, 3);
    match lora {
        Some(lora) => decoder.adapted(lora, 4),
        None => decoder,
    }
}

fn supervised(
    device: &Device,
    config: &DecoderConfig,
    lora: Option<&Lora>,
    settings: &SftSettings,
    examples: &[Example],
) -> (MemoryPlan, usize, Vec<u32>) {
    let lengths: Vec<Lengths> = examples.iter().map(|it| (it.tokens.len(), it.targets())).collect();
    let order = epoch_order(examples.len(), &Draw::new(7, "memory"), 0);
    let plan = SftSizes {
        model: &ModelSizes::new(config, lora, device.profile()),
        is_checkpointing: settings.checkpointing,
        micro_batch_tokens: settings.micro_batch_tokens,
        batches: &batches_of(settings.batch, &order, |text| lengths[text].0),
        lengths: &lengths,
        held_out: &[],
        keeps_best: false,
        keeps_checkpoints: true,
    }
    .plan();
    let (folder, mut weights) = (tempfile::tempdir().unwrap(), Vec::new());
    let (most, _) = measured_on(device, || {
        let decoder = learner(device, config, lora);
        let draw = Draw::new(7, "memory");
        let (decoder, _) = sft::train(decoder, examples, settings, &draw, &mut Keeping(folder.path())).unwrap();
        weights = decoder.learnt_weights();
    });
    (plan, most, weights.iter().map(|weight| weight.to_bits()).collect())
}

#[test]
fn fine_tuning_holds_what_its_plan_says() {
    let _turn = turn();
    let lora = adapters();
    for (what, config, lora, batch_tokens, micro) in [
        ("small, long batches", config(600, 96, 3, 256), None, 2_048, None),
        ("wide", config(3_000, 256, 2, 704), None, 1_024, None),
        ("deep", config(400, 64, 12, 192), None, 3_000, None),
        ("bounded", config(600, 192, 4, 512), None, 6_000, Some(1_000)),
        ("large vocabulary", config(40_000, 96, 1, 128), None, 1_024, None),
        ("adapters", config(3_000, 256, 4, 704), Some(&lora), 1_024, None),
    ] {
        for checkpointing in [false, true] {
            let settings = settings(batch_tokens, checkpointing, micro);
            let (plan, most, _) = supervised(&two_threads(), &config, lora, &settings, &texts(120, config.vocab_size));
            check(&format!("{what}, checkpointing {checkpointing}"), &plan, most);
        }
    }
}

#[test]
fn checkpointing_takes_less_and_changes_no_bit() {
    let _turn = turn();
    let config = config(400, 64, 12, 192);
    let (kept, again) = (settings(3_000, false, None), settings(3_000, true, None));
    let (device, examples) = (two_threads(), texts(120, config.vocab_size));
    let (_, with_all, expected) = supervised(&device, &config, None, &kept, &examples);
    let (_, with_less, found) = supervised(&device, &config, None, &again, &examples);
    assert_eq!(found, expected);
    assert!((with_less as f64) < 0.75 * with_all as f64, "{with_less} of {with_all} bytes");
}

#[test]
fn adapters_take_no_gradients_and_moments_for_what_is_frozen() {
    let config = config(3_000, 256, 4, 704);
    let lora = adapters();
    let (whole, adapted) =
        (ModelSizes::new(&config, None, TWO_THREADS), ModelSizes::new(&config, Some(&lora), TWO_THREADS));
    assert_eq!(whole.learnt, whole.parameters);
    assert!(20 * adapted.learnt < adapted.parameters, "{} of {}", adapted.learnt, adapted.parameters);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    PpoWithCritic,
    PpoShared,
    Grpo,
    Rloo,
}

fn practice(rollouts: usize, minibatch: usize, answer_tokens_max: usize) -> PracticeSettings {
    PracticeSettings {
        iterations: 2,
        rollouts,
        group: 1,
        temperature: 1.0,
        answer_tokens_max,
        minibatch,
        epochs: 1,
        idle: 0,
        schedule: Schedule { shape: Shape::Constant, peak: 1e-4, warmup: 0.0, floor: 1.0 },
        optimizer: AdamW::default(),
        clip: (0.2, 0.2),
        kl: Divergence { beta: 0.03, place: KlAs::Reward, adaptive: None },
        kl_stop: None,
        kl_limit: None,
        entropy: 0.0,
        truncated: Truncated::default(),
        checkpointing: false,
    }
}

impl Way {
    fn train(self, task: Task, practice: &PracticeSettings, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
        let mut judge = |answers: &[Answer]| {
            let reward = |answer: &Answer| (answer.tokens[0] % 5) as f32 / 5.0;
            let judged = answers.iter().map(|it| Judgement { reward: reward(it), right: false, formatted: true });
            Ok(judged.collect())
        };
        let practice = PracticeSettings { group: if self.is_grouped() { 4 } else { 1 }, ..practice.clone() };
        match self {
            Way::Grpo => {
                let settings = GrpoSettings { practice, deviation: true, over: Over::Answers };
                grpo::train(task, &settings, &mut judge, host)
            }
            Way::Rloo => {
                let settings = RlooSettings { practice, ratio: Ratio::Answer, whiten: false };
                rloo::train(task, &settings, &mut judge, host)
            }
            Way::PpoWithCritic | Way::PpoShared => ppo::train(task, &self.ppo(practice), &mut judge, host),
        }
    }

    fn is_grouped(self) -> bool {
        matches!(self, Way::Grpo | Way::Rloo)
    }

    fn ppo(self, practice: PracticeSettings) -> PpoSettings {
        let (optimizer, minibatch) = (practice.optimizer, practice.minibatch);
        let critic = match self {
            Way::PpoWithCritic => Critic::Separate { rate: 1e-3, optimizer, epochs: 1, minibatch },
            _ => Critic::Shared { coefficient: 0.5 },
        };
        PpoSettings {
            practice,
            critic,
            discount: 1.0,
            trace: 1.0,
            value_trace: None,
            value_clip: Some(0.2),
            whiten: true,
        }
    }
}

/// No text ends early: a token that ends one is past the vocabulary.
fn endless(config: DecoderConfig) -> DecoderConfig {
    DecoderConfig { eos_token_ids: vec![u32::MAX], ..config }
}

fn prompts(count: u32, tokens: usize) -> Vec<Vec<u32>> {
    (0..count).map(|index| (0..tokens as u32).map(|place| 2 + (place * 3 + index) % 90).collect()).collect()
}

struct Practised {
    plan: MemoryPlan,
    /// The most that was held, and the largest piece.
    most: usize,
    largest: usize,
    weights: Vec<u32>,
}

fn practised(
    device: &Device,
    way: Way,
    (config, lora): (&DecoderConfig, Option<&Lora>),
    settings: &PracticeSettings,
    prompt_tokens: usize,
) -> Practised {
    let minibatch = settings.minibatch;
    let plan = PracticeSizes {
        model: &ModelSizes::new(config, lora, device.profile()),
        rollouts: settings.rollouts,
        minibatch,
        critic: if way == Way::PpoWithCritic { CriticSizes::Model { minibatch } } else { CriticSizes::Nothing },
        is_checkpointing: settings.checkpointing,
        prompt_tokens,
        answer_tokens: settings.answer_tokens_max,
        keeps_checkpoints: true,
    }
    .plan();
    let (prompts, folder) = (prompts(4, prompt_tokens), tempfile::tempdir().unwrap());
    let mut weights = Vec::new();
    let (most, largest) = measured_on(device, || {
        let policy = learner(device, config, lora);
        let task = Task { policy, prompts: &prompts, ids: &[], draw: &Draw::new(7, "memory") };
        let (decoder, _) = way.train(task, settings, &mut Keeping(folder.path())).unwrap();
        weights = decoder.learnt_weights();
    });
    Practised { plan, most, largest, weights: weights.iter().map(|weight| weight.to_bits()).collect() }
}

#[test]
fn practice_holds_what_its_plan_says() {
    let _turn = turn();
    for way in [Way::PpoWithCritic, Way::PpoShared, Way::Grpo, Way::Rloo] {
        let lora = adapters();
        for (what, config, lora, settings) in [
            ("small", endless(config(600, 96, 3, 256)), None, practice(32, 16, 40)),
            ("long answers", endless(config(600, 96, 2, 256)), None, practice(8, 4, 200)),
            ("large vocabulary", endless(config(20_000, 64, 1, 128)), None, practice(16, 8, 32)),
            ("adapters", endless(config(3_000, 256, 4, 704)), Some(&lora), practice(16, 8, 32)),
        ] {
            let Practised { plan, most, .. } = practised(&two_threads(), way, (&config, lora), &settings, 24);
            check(&format!("{way:?}, {what}"), &plan, most);
        }
    }
}

#[test]
fn checkpointed_practice_takes_less_and_changes_no_bit() {
    let _turn = turn();
    let (config, kept) = (endless(config(400, 64, 12, 192)), practice(32, 32, 60));
    for way in [Way::PpoWithCritic, Way::Grpo] {
        let [with_all, with_less] = [false, true].map(|checkpointing| {
            let done = practised(
                &two_threads(),
                way,
                (&config, None),
                &PracticeSettings { checkpointing, ..kept.clone() },
                24,
            );
            check(&format!("{way:?}, checkpointing {checkpointing}"), &done.plan, done.most);
            done
        });
        assert_eq!(with_less.weights, with_all.weights);
        assert!((with_less.most as f64) < 0.7 * with_all.most as f64, "{} of {}", with_less.most, with_all.most);
    }
}

/// Model to stay near and critic are frozen with the policy, and nothing is kept for what is.
#[test]
fn adapted_practice_takes_less_than_half() {
    let _turn = turn();
    let (config, lora) = (endless(config(3_000, 512, 4, 1_408)), adapters());
    let [whole, adapted] = [None, Some(&lora)]
        .map(|lora| practised(&two_threads(), Way::PpoWithCritic, (&config, lora), &practice(8, 4, 16), 24).most);
    assert!(2 * adapted < whole, "{adapted} of {whole} bytes");
}

/// The vocabulary of Qwen2.5, and four answers of 488 tokens after 24: 2,048 tokens an update.
#[test]
fn ppo_never_holds_tokens_times_vocabulary() {
    let _turn = turn();
    let config = endless(config(151_936, 8, 1, 16));
    let Practised { plan, most, largest, .. } = practised(
        &two_threads(),
        Way::PpoWithCritic,
        (&config, None),
        &PracticeSettings { iterations: 1, ..practice(4, 4, 488) },
        24,
    );
    let tokens_by_vocabulary = 2_048 * 151_936 * 4;
    assert!(largest < tokens_by_vocabulary / 100, "a piece of {largest} bytes");
    assert!(most < tokens_by_vocabulary / 4, "{most} bytes in all");
    check("vocabulary of 151,936", &plan, most);
}

#[test]
fn preference_learning_holds_what_its_plan_says() {
    let _turn = turn();
    let lora = adapters();
    for (what, config, lora, count, batch) in [
        ("small", config(600, 96, 3, 256), None, 60, 8),
        ("wide", config(3_000, 256, 2, 704), None, 24, 4),
        ("large vocabulary", config(30_000, 64, 1, 128), None, 16, 4),
        ("adapters", config(3_000, 256, 4, 704), Some(&lora), 24, 4),
    ] {
        let texts = texts(2 * count, config.vocab_size);
        let pair = |(index, two): (usize, &[Example])| Pair {
            id: index.to_string(),
            chosen: two[0].clone(),
            rejected: two[1].clone(),
        };
        let pairs: Vec<Pair> = texts.chunks(2).enumerate().map(pair).collect();
        let length = |it: &Example| (it.tokens.len(), it.targets());
        let lengths: Vec<[Lengths; 2]> =
            pairs.iter().map(|pair| [length(&pair.chosen), length(&pair.rejected)]).collect();
        let model = ModelSizes::new(&config, lora, TWO_THREADS);
        let draw = Draw::new(7, "memory");
        let steps: Vec<Vec<usize>> = (0..2).flat_map(|epoch| dpo::steps_of(count, batch, &draw, epoch)).collect();
        let plan = DpoSizes {
            model: &model,
            steps: &steps,
            is_checkpointing: false,
            pairs: &lengths,
            keeps_checkpoints: true,
        }
        .plan();
        let settings = DpoSettings {
            epochs: 2,
            batch,
            schedule: Schedule { shape: Shape::Constant, peak: 1e-4, warmup: 0.0, floor: 1.0 },
            optimizer: AdamW::default(),
            beta: 0.1,
            smoothing: 0.0,
            checkpointing: false,
        };
        let (device, folder) = (Device::cpu(Some(2)), tempfile::tempdir().unwrap());
        let (most, _) = measured(|| {
            let policy = learner(&device, &config, lora);
            dpo::train(policy, &pairs, &settings, &draw, &mut Keeping(folder.path())).unwrap();
        });
        check(what, &plan, most);
    }
}

#[test]
fn generation_holds_what_its_plan_says() {
    let _turn = turn();
    // With several workers the peak depends on when each begins: the plan is for the worst.
    for ((what, config, requests, prompt, answer), threads) in [
        ("many short", config(600, 96, 3, 256), 100, 20, 60),
        ("few long", config(600, 96, 2, 256), 6, 200, 300),
        ("large vocabulary", config(60_000, 32, 1, 64), 24, 16, 24),
    ]
    .into_iter()
    .flat_map(|case| [1, 2].map(|threads| (case.clone(), threads)))
    {
        let (config, device) = (endless(config), Device::cpu(Some(threads)));
        let prompts = prompts(requests as u32, prompt);
        let plan = generation(&ModelSizes::new(&config, None, Profile::Cpu { threads }), requests, (prompt, answer));
        let (most, _) = measured(|| {
            let decoder = Decoder::fresh(&device, &config, 3);
            let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: 1 }).collect();
            let sampling = Sampling { tokens_max: answer, ..Sampling::default() };
            assert!(generate(&decoder, &requests, &sampling).unwrap().iter().all(|it| it.tokens.len() == answer));
        });
        if threads == 1 {
            check(what, &plan, most);
        }
        assert!(most as f64 <= 1.1 * plan.total() as f64, "{what}: planned {plan:#?}, measured {most}");
    }
}

/// Generations that take different ways, in either precision; each an accelerator of its own, as the most that it held is told.
fn accelerators() -> [Device; 3] {
    [
        (Architecture::AMPERE, Precision::F32),
        (Architecture::AMPERE, Precision::Bf16),
        (Architecture::HOPPER, Precision::Bf16),
    ]
    .map(|(architecture, precision)| {
        Device::emulated(Emulation { architecture, threads: 2, ..Emulation::default() }).in_precision(precision)
    })
}

#[test]
fn fine_tuning_holds_on_an_accelerator_what_its_plan_says() {
    let _turn = turn();
    for (what, config, batch_tokens) in
        [("long batches", config(150, 32, 2, 64), 700), ("large vocabulary", config(3_000, 16, 1, 24), 120)]
    {
        for device in accelerators() {
            let (settings, examples) = (settings(batch_tokens, false, None), texts(16, config.vocab_size));
            let (plan, most, _) = supervised(&device, &config, None, &settings, &examples);
            check(&format!("{what}, {:?}", device.profile()), &plan, most);
        }
    }
}

#[test]
fn practice_and_generation_hold_on_an_accelerator_what_their_plans_say() {
    let _turn = turn();
    let config = endless(config(150, 32, 2, 64));
    for device in accelerators() {
        let Practised { plan, most, .. } =
            practised(&device, Way::PpoWithCritic, (&config, None), &practice(8, 4, 30), 6);
        check(&format!("practice, {:?}", device.profile()), &plan, most);
    }
    for device in accelerators() {
        let prompts = prompts(6, 20);
        let plan = generation(&ModelSizes::new(&config, None, device.profile()), prompts.len(), (20, 30));
        let (most, _) = measured_on(&device, || {
            let decoder = Decoder::fresh(&device, &config, 3);
            let requests: Vec<Request> = prompts.iter().map(|prompt| Request { prompt, seed: 1 }).collect();
            generate(&decoder, &requests, &Sampling { tokens_max: 30, ..Sampling::default() }).unwrap();
        });
        check(&format!("generation, {:?}", device.profile()), &plan, most);
    }
}

/// Whoever goes on from a checkpoint holds no more than who was never stopped.
#[test]
fn resuming_holds_no_more_than_going_through() {
    let _turn = turn();
    let (config, settings) = (endless(config(3_000, 256, 2, 704)), practice(8, 4, 24));
    let (device, prompts, folder) = (Device::cpu(Some(2)), prompts(4, 24), tempfile::tempdir().unwrap());
    let go = |left: u64| {
        let policy = Decoder::fresh(&device, &config, 3);
        let task = Task { policy, prompts: &prompts, ids: &[], draw: &Draw::new(7, "memory") };
        let mut host = Stopping { folder: folder.path(), every: 1, left: Cell::new(left) };
        Way::PpoWithCritic.train(task, &settings, &mut host).map(|_| ())
    };
    let (before_the_stop, _) = measured(|| assert!(matches!(go(2), Err(Failure::Cancelled))));
    let (after_it, _) = measured(|| go(u64::MAX).unwrap());
    assert!(after_it as f64 <= 1.02 * before_the_stop as f64, "{before_the_stop} bytes, then {after_it}");
}

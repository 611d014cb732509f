//! What a training holds in memory is what its plan says, and gradient checkpointing takes less of it for the same bits.
//!
//! Every allocation of this program is counted, those of our buffers and all others. Tests take turns.

use kernels::Device;
use stages::draw::Draw;
use stages::model::lora::Target;
use stages::model::{Decoder, DecoderConfig, Lora};
use stages::train::batches::{Example, Keep};
use stages::train::memory::{Lengths, MemoryPlan, ModelSizes, PracticeSizes, SftSizes};
use stages::train::optimizer::AdamW;
use stages::train::ppo::{Answer, Judgement, PpoSettings, PpoTask};
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings, batches_of};
use stages::train::{Host, Metrics, Quiet, ppo, sft};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    MOST.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
    LARGEST.fetch_max(bytes, Relaxed);
}

// SAFETY: everything is handed on to the system's allocator; only sizes are noted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The most bytes that were held beyond what was there before, and the most that were asked for at once.
fn measured(work: impl FnOnce()) -> (usize, usize) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    work();
    (MOST.load(Relaxed) - before, LARGEST.load(Relaxed))
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
    DecoderConfig {
        vocab_size: vocabulary,
        hidden_size: hidden,
        num_hidden_layers: layers,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        intermediate_size: feed_forward,
        tie_word_embeddings: true,
        max_position_embeddings: 2_048,
        eos_token_ids: vec![1],
        ..DecoderConfig::default()
    }
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

/// Keeps a checkpoint every other step.
struct Keeping<'a>(&'a Path);

impl Host for Keeping<'_> {
    fn checkpoint_folder(&self) -> Option<&Path> {
        Some(self.0)
    }

    fn checkpoint_every(&self) -> u64 {
        2
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn report(&mut self, _: &Metrics, _: u64) {}
}

fn supervised(config: &DecoderConfig, lora: Option<&Lora>, settings: &SftSettings) -> (MemoryPlan, usize, Vec<u32>) {
    let (device, examples) = (Device::cpu(Some(2)), texts(120, config.vocab_size));
    let lengths: Vec<Lengths> = examples.iter().map(|it| (it.tokens.len(), it.targets())).collect();
    let order: Vec<usize> = (0..examples.len()).collect();
    let plan = SftSizes {
        model: &ModelSizes::new(config, lora),
        is_checkpointing: settings.checkpointing,
        micro_batch_tokens: settings.micro_batch_tokens,
        batches: &batches_of(settings.batch, &order, |text| lengths[text].0),
        lengths: &lengths,
        held_out: &[],
        keeps_best: false,
        keeps_checkpoints: true,
        threads: 2,
    }
    .plan();
    let (folder, mut weights) = (tempfile::tempdir().unwrap(), Vec::new());
    let (most, _) = measured(|| {
        let decoder = Decoder::fresh(&device, config, 3);
        let decoder = match lora {
            Some(lora) => decoder.adapted(lora, 4),
            None => decoder,
        };
        let draw = Draw::new(7, "memory");
        let (decoder, _) = sft::train(decoder, &examples, settings, &draw, &mut Keeping(folder.path())).unwrap();
        weights = decoder.learnt_weights();
    });
    (plan, most, weights.iter().map(|weight| weight.to_bits()).collect())
}

#[test]
fn fine_tuning_holds_what_its_plan_says() {
    let _turn = turn();
    let lora = Lora { rank: 8, alpha: 16.0, targets: Target::ALL.to_vec() };
    for (what, config, lora, batch_tokens, micro) in [
        ("small, long batches", config(600, 96, 3, 256), None, 2_048, None),
        ("wide", config(3_000, 256, 2, 704), None, 1_024, None),
        ("deep", config(400, 64, 12, 192), None, 3_000, None),
        ("bounded", config(600, 96, 4, 256), None, 3_000, Some(400)),
        ("large vocabulary", config(40_000, 96, 1, 128), None, 1_024, None),
        ("adapters", config(3_000, 256, 4, 704), Some(&lora), 1_024, None),
    ] {
        for checkpointing in [false, true] {
            let settings = settings(batch_tokens, checkpointing, micro);
            let (plan, most, _) = supervised(&config, lora, &settings);
            check(&format!("{what}, checkpointing {checkpointing}"), &plan, most);
        }
    }
}

#[test]
fn checkpointing_takes_less_and_changes_no_bit() {
    let _turn = turn();
    let config = config(400, 64, 12, 192);
    let (kept, again) = (settings(3_000, false, None), settings(3_000, true, None));
    let (_, with_all, expected) = supervised(&config, None, &kept);
    let (_, with_less, found) = supervised(&config, None, &again);
    assert_eq!(found, expected);
    assert!((with_less as f64) < 0.75 * with_all as f64, "{with_less} of {with_all} bytes");
}

#[test]
fn adapters_take_no_gradients_and_moments_for_what_is_frozen() {
    let config = config(3_000, 256, 4, 704);
    let lora = Lora { rank: 8, alpha: 16.0, targets: Target::ALL.to_vec() };
    let (whole, adapted) = (ModelSizes::new(&config, None), ModelSizes::new(&config, Some(&lora)));
    assert_eq!(whole.learnt, whole.parameters);
    assert!(20 * adapted.learnt < adapted.parameters, "{} of {}", adapted.learnt, adapted.parameters);
}

fn ppo_settings(rollouts: usize, minibatch: usize, answer_tokens_max: usize) -> PpoSettings {
    PpoSettings {
        iterations: 2,
        rollouts,
        temperature: 1.0,
        answer_tokens_max,
        minibatch,
        epochs: 1,
        value_epochs: 1,
        value_warmup: 0,
        policy_schedule: Schedule { shape: Shape::Constant, peak: 1e-4, warmup: 0.0, floor: 1.0 },
        value_rate: 1e-3,
        policy_optimizer: AdamW::default(),
        value_optimizer: AdamW::default(),
        discount: 1.0,
        trace: 1.0,
        clip: 0.2,
        value_clip: Some(0.2),
        kl: 0.03,
        whiten: true,
        truncated_reward: None,
    }
}

/// Plan, the most that was held, and the largest piece.
fn practised(config: &DecoderConfig, settings: &PpoSettings, prompt_tokens: usize) -> (MemoryPlan, usize, usize) {
    let device = Device::cpu(Some(2));
    let plan = PracticeSizes {
        model: &ModelSizes::new(config, None),
        rollouts: settings.rollouts,
        minibatch: settings.minibatch,
        critic_minibatch: Some(settings.minibatch),
        prompt_tokens,
        answer_tokens: settings.answer_tokens_max,
        keeps_checkpoints: false,
        threads: 2,
    }
    .plan();
    let prompt = |index: u32| (0..prompt_tokens as u32).map(|place| 2 + (place * 3 + index) % 90).collect();
    let prompts: Vec<Vec<u32>> = (0..4).map(prompt).collect();
    let mut judge = |answers: &[Answer]| {
        let reward = |answer: &Answer| (answer.tokens[0] % 5) as f32 / 5.0;
        let judged = answers.iter().map(|it| Judgement { reward: reward(it), right: false, formatted: true });
        Ok(judged.collect())
    };
    let (most, largest) = measured(|| {
        let policy = Decoder::fresh(&device, config, 3);
        let task = PpoTask { policy, prompts: &prompts, settings, draw: &Draw::new(7, "memory") };
        ppo::train(task, &mut judge, &mut Quiet).unwrap();
    });
    (plan, most, largest)
}

#[test]
fn ppo_holds_what_its_plan_says() {
    let _turn = turn();
    // No text ends early: a token that ends one is past the vocabulary.
    let endless = |config: DecoderConfig| DecoderConfig { eos_token_ids: vec![u32::MAX], ..config };
    for (what, config, settings) in [
        ("small", endless(config(600, 96, 3, 256)), ppo_settings(32, 16, 40)),
        ("long answers", endless(config(600, 96, 2, 256)), ppo_settings(8, 4, 200)),
        ("large vocabulary", endless(config(20_000, 64, 1, 128)), ppo_settings(16, 8, 32)),
    ] {
        let (plan, most, _) = practised(&config, &settings, 24);
        check(what, &plan, most);
    }
}

/// The vocabulary of Qwen2.5. A minute of work, so only where everything is tested.
#[test]
fn ppo_never_holds_tokens_times_vocabulary() {
    if std::env::var_os("DECOCT_TESTS_FULL").is_none() {
        return;
    }
    let _turn = turn();
    let mut config = config(151_936, 8, 1, 16);
    config.eos_token_ids = vec![u32::MAX];
    // Four answers of 488 tokens after 24: 2,048 tokens an update.
    let (plan, most, largest) = practised(&config, &ppo_settings(4, 4, 488), 24);
    let tokens_by_vocabulary = 2_048 * 151_936 * 4;
    assert!(largest < tokens_by_vocabulary / 8, "a piece of {largest} bytes");
    assert!(most < tokens_by_vocabulary, "{most} bytes in all");
    check("vocabulary of 151,936", &plan, most);
}

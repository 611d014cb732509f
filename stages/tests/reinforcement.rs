//! Learning from one's own answers: the losses of an independent PyTorch loop (`tests/reference/rl`), the same bits on any number of
//! threads and after stops, and what stops a run that goes wrong.

mod stopping;

use kernels::Device;
use serde::Deserialize;
use serde_json::{Value, json};
use stages::draw::Draw;
use stages::failure::Result;
use stages::model::generate::{Finish, Generation, Request, Sampling};
use stages::model::lora::Target;
use stages::model::parameters::Layout;
use stages::model::{Decoder, DecoderConfig, Lora, tensors};
use stages::train::batches::{Example, epoch_order};
use stages::train::dpo::{DpoSettings, Pair};
use stages::train::grpo::GrpoSettings;
use stages::train::optimizer::AdamW;
use stages::train::policy::{Over, Ratio};
use stages::train::ppo::{Critic, PpoSettings};
use stages::train::practice::{Adaptive, Divergence, KlAs, PracticeSettings, Task, Truncated, minibatch_draw};
use stages::train::rloo::RlooSettings;
use stages::train::rollouts::{Answer, Environment, Judgement};
use stages::train::schedule::{Schedule, Shape};
use stages::train::{Host, Metrics, Quiet, dpo, grpo, ppo, rloo};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use stopping::{Stopping, with_stops};

const END: u32 = 1;
const REFERENCE_ITERATIONS: u64 = 13;
const REFERENCE_ANSWERS: usize = 16;
/// Losses agree to this, absolutely; they are of the order of 0.01 (policy) to 1.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize, Clone)]
struct Given {
    tokens: Vec<u32>,
    reward: f32,
}

#[derive(Deserialize)]
struct GivenPair {
    problem: usize,
    answers: [Vec<u32>; 2],
}

#[derive(Deserialize)]
struct Rollouts {
    prompts: Vec<Vec<u32>>,
    single: Vec<Vec<Vec<Given>>>,
    grouped: Vec<Vec<Vec<Given>>>,
    pairs: Vec<GivenPair>,
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/rl")
}

fn read_json(name: &str) -> Value {
    let path = reference().join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn rollouts() -> Rollouts {
    serde_json::from_value(read_json("rollouts.json")).unwrap()
}

fn reference_model() -> Decoder {
    let folder = reference().join("model");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = DecoderConfig::from_json(&config, "config.json").unwrap();
    let weights = tensors::read(&folder, &config, &Layout::new(&config, false)).unwrap();
    Decoder::new(&Device::cpu(Some(2)), &config, &weights)
}

fn reference_draw() -> Draw {
    Draw::new(7, "reference")
}

/// Which problem stands where, and which places make a minibatch, iteration by iteration.
fn order_of(problems: usize, group: usize) -> Value {
    let draw = reference_draw();
    let places = |iteration: u64| -> Vec<usize> {
        let order = epoch_order(problems, &draw.of("problems"), iteration);
        order.into_iter().flat_map(|problem| std::iter::repeat_n(problem, group)).collect()
    };
    let minibatches = |of: &str, iteration: u64| -> Vec<Vec<usize>> {
        let epoch = |epoch| epoch_order(REFERENCE_ANSWERS, &minibatch_draw(&draw, of, iteration), epoch);
        (0..2).flat_map(|index| epoch(index).chunks(8).map(<[usize]>::to_vec).collect::<Vec<_>>()).collect()
    };
    let all = |of: &str| (0..REFERENCE_ITERATIONS).map(|iteration| minibatches(of, iteration)).collect::<Vec<_>>();
    let places: Vec<_> = (0..REFERENCE_ITERATIONS).map(places).collect();
    json!({"places": places, "policy": all("policy"), "value": all("value")})
}

#[test]
fn the_committed_order_is_the_one_of_our_draws() {
    let epoch = |epoch| {
        let order = epoch_order(24, &reference_draw().of("pairs"), epoch);
        order.chunks(8).map(<[usize]>::to_vec).collect::<Vec<_>>()
    };
    let pairs: Vec<_> = (0..17).map(epoch).collect();
    let order = json!({"single": order_of(REFERENCE_ANSWERS, 1), "grouped": order_of(4, 4), "pairs": pairs});
    if std::env::var_os("UPDATE_RL_ORDER").is_some() {
        return std::fs::write(reference().join("order.json"), format!("{order}\n")).unwrap();
    }
    assert_eq!(order, read_json("order.json"));
}

/// Hands out the reference's answers in place of the policy's, each with the reward that it was given.
struct Replay<'a> {
    prompts: &'a [Vec<u32>],
    answers: Vec<Vec<Vec<Given>>>,
    rewards: Vec<f32>,
    iteration: usize,
}

impl Environment for Replay<'_> {
    fn answers(&mut self, _: &Decoder, requests: &[Request], _: &Sampling) -> Result<Vec<Generation>> {
        let mut left = self.answers[self.iteration].clone();
        self.iteration += 1;
        self.rewards.clear();
        let answer = |request: &Request| {
            let problem = self.prompts.iter().position(|prompt| prompt == request.prompt).expect("a known problem");
            let Given { tokens, reward } = left[problem].remove(0);
            self.rewards.push(reward);
            let finish = if tokens.last() == Some(&END) { Finish::Stop } else { Finish::Length };
            Generation { logprobs: vec![0.0; tokens.len()], tokens, finish }
        };
        Ok(requests.iter().map(answer).collect())
    }

    fn judge(&mut self, _: &[Answer]) -> Result<Vec<Judgement>> {
        Ok(self.rewards.iter().map(|&reward| Judgement { reward, right: reward > 0.5, formatted: true }).collect())
    }
}

/// Writes down every update's loss, and every row.
#[derive(Default)]
struct Listening {
    losses: Vec<(String, f64)>,
    rows: Vec<Metrics>,
}

impl Host for Listening {
    fn checkpoint_folder(&self) -> Option<&Path> {
        None
    }

    fn checkpoint_every(&self) -> u64 {
        u64::MAX
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn report(&mut self, metrics: &Metrics, _: u64) {
        self.rows.push(metrics.clone());
    }

    fn updated(&mut self, of: &str, loss: f64) {
        self.losses.push((of.to_string(), loss));
    }
}

const PLAIN: AdamW = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.0, norm_max: 1.0 };
const FALLING: Schedule = Schedule { shape: Shape::Linear, peak: 1e-3, warmup: 0.1, floor: 0.1 };

fn reference_practice(group: usize) -> PracticeSettings {
    PracticeSettings {
        iterations: REFERENCE_ITERATIONS,
        rollouts: REFERENCE_ANSWERS,
        group,
        temperature: 1.0,
        answer_tokens_max: 12,
        minibatch: 8,
        epochs: 2,
        idle: 0,
        schedule: FALLING,
        optimizer: PLAIN,
        clip: (0.2, 0.2),
        kl: Divergence { beta: 0.05, place: KlAs::Reward, adaptive: None },
        kl_stop: None,
        kl_limit: None,
        entropy: 0.0,
        truncated: Truncated::default(),
        checkpointing: false,
    }
}

fn separate_ppo(practice: PracticeSettings) -> PpoSettings {
    PpoSettings {
        critic: Critic::Separate { rate: 2e-3, optimizer: PLAIN, epochs: 2, minibatch: practice.minibatch },
        practice,
        discount: 1.0,
        trace: 0.95,
        value_trace: None,
        value_clip: Some(0.2),
        whiten: true,
    }
}

/// Any of the three that practise.
#[derive(Clone)]
enum Algorithm {
    Ppo(PpoSettings),
    Grpo(GrpoSettings),
    Rloo(RlooSettings),
}

impl Algorithm {
    fn train(&self, task: Task, world: &mut dyn Environment, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
        match self {
            Algorithm::Ppo(settings) => ppo::train(task, settings, world, host),
            Algorithm::Grpo(settings) => grpo::train(task, settings, world, host),
            Algorithm::Rloo(settings) => rloo::train(task, settings, world, host),
        }
    }

    fn practice(&mut self) -> &mut PracticeSettings {
        match self {
            Algorithm::Ppo(settings) => &mut settings.practice,
            Algorithm::Grpo(settings) => &mut settings.practice,
            Algorithm::Rloo(settings) => &mut settings.practice,
        }
    }
}

/// The arms of `make_rl_reference.py`, by their names there.
fn arms() -> Vec<(&'static str, Algorithm)> {
    let kl = |place, adaptive| Divergence { beta: 0.05, place, adaptive };
    let adaptive = Some(Adaptive { target: 0.3, horizon: 200.0 });
    let ppo = separate_ppo(PracticeSettings { kl: kl(KlAs::Reward, adaptive), ..reference_practice(1) });
    let shared = PpoSettings {
        practice: PracticeSettings {
            kl: kl(KlAs::Loss, None),
            clip: (0.2, 0.3),
            entropy: 0.01,
            truncated: Truncated { reward: None, masked: true },
            ..reference_practice(1)
        },
        critic: Critic::Shared { coefficient: 0.5 },
        value_trace: Some(1.0),
        value_clip: None,
        ..ppo.clone()
    };
    let by_loss = PracticeSettings { kl: kl(KlAs::Loss, None), ..reference_practice(4) };
    let wider = PracticeSettings { clip: (0.2, 0.28), ..by_loss.clone() };
    let rloo = RlooSettings { practice: reference_practice(4), ratio: Ratio::Answer, whiten: false };
    vec![
        ("ppo", Algorithm::Ppo(ppo)),
        ("ppo_shared", Algorithm::Ppo(shared)),
        ("grpo", Algorithm::Grpo(GrpoSettings { practice: by_loss, deviation: true, over: Over::Answers })),
        (
            "grpo_without_deviation",
            Algorithm::Grpo(GrpoSettings { practice: wider, deviation: false, over: Over::Budget(12) }),
        ),
        ("rloo", Algorithm::Rloo(rloo)),
    ]
}

fn compare(arm: &str, ours: &[(String, f64)], updates: usize) {
    let expected: HashMap<String, Vec<(String, f64)>> = serde_json::from_value(read_json("expected.json")).unwrap();
    let expected = &expected[arm];
    let names = |losses: &[(String, f64)]| losses.iter().map(|(of, _)| of.clone()).collect::<Vec<_>>();
    assert_eq!(names(ours), names(expected), "{arm}: the updates are others");
    assert_eq!(ours.iter().filter(|(of, _)| of == "policy").count(), updates, "{arm}");
    let gaps = ours.iter().zip(expected).map(|((_, ours), (_, theirs))| (ours - theirs).abs());
    let worst = gaps.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are updates");
    println!("{arm}: {} losses, largest difference {:.1e}, at {}", ours.len(), worst.1, worst.0);
    assert!(worst.1 <= TOLERANCE, "{arm}: loss {} is {:?}, not {:?}", worst.0, ours[worst.0], expected[worst.0]);
}

#[test]
fn fifty_updates_of_each_algorithm_have_the_losses_of_an_independent_loop() {
    let (given, draw) = (rollouts(), reference_draw());
    for (name, algorithm) in arms() {
        let grouped = !name.starts_with("ppo");
        let (prompts, answers) =
            if grouped { (&given.prompts[..4], &given.grouped) } else { (&given.prompts[..], &given.single) };
        let mut world = Replay { prompts, answers: answers.clone(), rewards: Vec::new(), iteration: 0 };
        let mut host = Listening::default();
        let task = Task { policy: reference_model(), prompts, ids: &[], draw: &draw };
        algorithm.train(task, &mut world, &mut host).unwrap();
        compare(name, &host.losses, 52);
    }
}

#[test]
fn fifty_steps_of_dpo_have_the_losses_of_an_independent_loop() {
    let given = rollouts();
    let pair = |(index, pair): (usize, &GivenPair)| {
        let [chosen, rejected] = &pair.answers;
        let example = |tokens: &Vec<u32>| Example::new(&given.prompts[pair.problem], tokens);
        Pair { id: format!("pair {index}"), chosen: example(chosen), rejected: example(rejected) }
    };
    let pairs: Vec<Pair> = given.pairs.iter().enumerate().map(pair).collect();
    for (name, beta, smoothing) in [("dpo", 0.1, 0.0), ("dpo_smoothed", 0.5, 0.1)] {
        let settings = DpoSettings {
            epochs: 17,
            batch: 8,
            schedule: FALLING,
            optimizer: PLAIN,
            beta,
            smoothing,
            checkpointing: false,
        };
        let mut host = Listening::default();
        dpo::train(reference_model(), &pairs, &settings, &reference_draw(), &mut host).unwrap();
        let losses: Vec<_> = host.rows.iter().map(|row| ("policy".to_string(), row.get("loss"))).collect();
        compare(name, &losses, 51);
        assert!(host.rows[0].get("margin") == 0.0 && host.rows[50].get("margin") > 0.1, "{name}");
    }
}

// --- a small task of our own -----------------------------------------------------------------------------------------

fn fresh(threads: usize) -> Decoder {
    let config = r#"{"model_type": "qwen2", "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "max_position_embeddings": 64, "bos_token_id": null, "eos_token_id": 1}"#;
    Decoder::fresh(&Device::cpu(Some(threads)), &DecoderConfig::from_json(config, "config").unwrap(), 3)
}

fn adapted(threads: usize) -> Decoder {
    fresh(threads).adapted(&Lora { rank: 6, alpha: 12.0, targets: Target::ALL.to_vec() }, 5)
}

/// What learns: all weights, or adapters beside them.
const STARTS: [(&str, fn(usize) -> Decoder); 2] = [("whole", fresh), ("adapted", adapted)];

fn bits(decoder: &Decoder) -> Vec<u32> {
    decoder.weights().iter().chain(&decoder.learnt_weights()).map(|weight| weight.to_bits()).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..9).map(|index| vec![2 + index, 3, 4][..1 + index as usize % 3].to_vec()).collect()
}

/// Rewards the share of sevens.
fn sevens(answers: &[Answer]) -> Result<Vec<Judgement>> {
    let share =
        |answer: &Answer| answer.tokens.iter().filter(|&&token| token == 7).count() as f32 / answer.tokens.len() as f32;
    let judgement = |answer| Judgement { reward: share(answer), right: share(answer) > 0.5, formatted: true };
    Ok(answers.iter().map(judgement).collect())
}

fn practice(group: usize) -> PracticeSettings {
    PracticeSettings {
        iterations: 4,
        rollouts: 24,
        answer_tokens_max: 8,
        minibatch: 10,
        schedule: Schedule { peak: 5e-3, ..FALLING },
        kl: Divergence { beta: 0.01, place: KlAs::Reward, adaptive: Some(Adaptive { target: 0.5, horizon: 100.0 }) },
        ..reference_practice(group)
    }
}

/// One of each, with every option on somewhere.
fn all_algorithms() -> Vec<(&'static str, Algorithm)> {
    let by_loss = Divergence { beta: 0.01, place: KlAs::Loss, adaptive: None };
    let by_loss = |group| PracticeSettings { kl: by_loss, entropy: 0.001, kl_stop: Some(0.02), ..practice(group) };
    let shared = PpoSettings {
        practice: PracticeSettings { idle: 1, ..by_loss(1) },
        critic: Critic::Shared { coefficient: 0.5 },
        ..separate_ppo(practice(1))
    };
    let rloo = RlooSettings { practice: practice(4), ratio: Ratio::Answer, whiten: true };
    vec![
        ("ppo", Algorithm::Ppo(separate_ppo(PracticeSettings { idle: 1, ..practice(1) }))),
        ("ppo, shared", Algorithm::Ppo(shared)),
        ("grpo", Algorithm::Grpo(GrpoSettings { practice: by_loss(4), deviation: true, over: Over::Answers })),
        ("rloo", Algorithm::Rloo(rloo)),
    ]
}

fn reinforce(algorithm: &Algorithm, policy: Decoder, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    let (prompts, draw) = (prompts(), Draw::new(7, "practice"));
    let task = Task { policy, prompts: &prompts, ids: &[], draw: &draw };
    algorithm.train(task, &mut sevens, host)
}

#[test]
fn each_algorithm_finds_what_is_rewarded() {
    for ((learnt, start), (name, mut algorithm)) in combined() {
        let longer = algorithm.practice();
        (longer.iterations, longer.rollouts, longer.minibatch) = (40, 64, 32);
        (longer.kl.adaptive, longer.kl_stop) = (None, None);
        let (model, rows) = reinforce(&algorithm, start(2), &mut Quiet).unwrap();
        let (first, last) = (rows[0].get("reward"), rows.last().unwrap().get("reward"));
        assert!(first < 0.25 && last > 0.5, "{learnt}, {name}: reward {first} → {last}");
        assert_eq!(model.layout().value, None, "{learnt}, {name}: what comes out is a policy");
        assert_eq!(model.learnt(), start(2).learnt(), "{learnt}, {name}: as large as it was");
        if learnt == "adapted" {
            assert!(model.weights() == fresh(2).weights(), "{name}: what is frozen stays as it is");
        }
    }
}

/// Everything that can learn, by every algorithm.
fn combined() -> Vec<((&'static str, fn(usize) -> Decoder), (&'static str, Algorithm))> {
    STARTS.into_iter().flat_map(|start| all_algorithms().into_iter().map(move |algorithm| (start, algorithm))).collect()
}

#[test]
fn every_algorithm_gives_the_same_bits_on_any_number_of_threads_and_after_stops() {
    for ((learnt, start), (name, algorithm)) in combined() {
        let (whole, rows) = reinforce(&algorithm, start(1), &mut Quiet).unwrap();
        assert!(bits(&whole) != bits(&start(1)), "{learnt}, {name}: nothing was learnt");
        for threads in [2, 3] {
            let (other, other_rows) = reinforce(&algorithm, start(threads), &mut Quiet).unwrap();
            assert!(bits(&whole) == bits(&other) && rows == other_rows, "{learnt}, {name}: {threads} threads");
        }
        for (stops, every) in [(&[1, 2, 2][..], 1), (&[3], 1000)] {
            let (resumed, resumed_rows) = with_stops(stops, every, |host| reinforce(&algorithm, start(2), host));
            let same = bits(&whole) == bits(&resumed) && rows == resumed_rows;
            assert!(same, "{learnt}, {name}: stops after {stops:?}");
        }
    }
}

#[test]
fn ratios_start_at_exactly_one_and_the_sampler_sees_what_training_sees() {
    for ((learnt, start), (name, algorithm)) in combined() {
        let (_, rows) = reinforce(&algorithm, start(2), &mut Quiet).unwrap();
        for row in &rows {
            let idle = name.starts_with("ppo") && row.step == 1;
            let place = format!("{learnt}, {name}, iteration {}", row.step);
            assert_eq!(row.get("sampler_gap"), 0.0, "{place}");
            assert_eq!(row.get("first_ratio"), if idle { 0.0 } else { 1.0 }, "{place}");
        }
        assert_eq!(rows[0].get("kl"), 0.0, "{learnt}, {name}");
        assert!(rows.last().unwrap().get("kl") != 0.0, "{learnt}, {name}: the model to stay near moves along");
    }
}

#[test]
fn an_idle_policy_stays_what_it_was_while_a_shared_critic_learns() {
    let mut algorithm = all_algorithms().swap_remove(1).1;
    let practice = algorithm.practice();
    (practice.iterations, practice.idle) = (3, 3);
    for (learnt, start) in STARTS {
        let (model, rows) = reinforce(&algorithm, start(1), &mut Quiet).unwrap();
        assert!(bits(&model) == bits(&start(1)), "{learnt}: the policy moved");
        let (first, last) = (rows[0].get("value_loss"), rows[2].get("value_loss"));
        assert!(last < first, "{learnt}: value loss {first} → {last}");
    }
}

#[test]
fn passes_that_go_too_far_from_the_policy_that_answered_are_left_out() {
    let updates = |kl_stop| {
        let mut algorithm = all_algorithms().swap_remove(3).1;
        let practice = algorithm.practice();
        (practice.epochs, practice.kl_stop) = (6, Some(kl_stop));
        let (_, rows) = reinforce(&algorithm, fresh(1), &mut Quiet).unwrap();
        rows.iter().map(|row| row.get("updates")).sum::<f64>()
    };
    let (free, held) = (updates(1e9), updates(1e-9));
    // Four iterations of six passes of three minibatches, or of one pass.
    assert_eq!((free, held), (4.0 * 6.0 * 3.0, 4.0 * 3.0));
}

#[test]
fn a_wandering_beta_follows_the_divergence() {
    let beta = |target| {
        let mut algorithm = all_algorithms().swap_remove(0).1;
        algorithm.practice().idle = 0;
        algorithm.practice().kl.adaptive = Some(Adaptive { target, horizon: 100.0 });
        let (_, rows) = reinforce(&algorithm, fresh(1), &mut Quiet).unwrap();
        rows.iter().map(|row| row.get("beta")).collect::<Vec<_>>()
    };
    let (loose, tight) = (beta(1e6), beta(1e-9));
    assert!((loose[0] - 0.01).abs() < 1e-8 && loose.is_sorted_by(|a, b| a > b), "{loose:?}");
    // The first answers come from the starting model itself.
    assert!(tight[1..].is_sorted(), "{tight:?}");
}

#[test]
fn answers_cut_short_teach_nothing_where_they_are_masked() {
    for (name, mut algorithm) in all_algorithms() {
        let practice = algorithm.practice();
        practice.answer_tokens_max = 1;
        practice.truncated.masked = true;
        let (prompts, draw) = ([vec![2, 3]], Draw::new(7, "practice"));
        let task = Task { policy: fresh(1), prompts: &prompts, ids: &[], draw: &draw };
        let (model, rows) = algorithm.train(task, &mut NeverEnding, &mut Quiet).unwrap();
        assert!(bits(&model) == bits(&fresh(1)), "{name}: a masked answer was learnt from");
        assert_eq!((rows[0].get("masked"), rows[0].get("truncated")), (1.0, 1.0), "{name}");
    }
}

/// Answers that all run into the limit.
struct NeverEnding;

impl Environment for NeverEnding {
    fn answers(&mut self, _: &Decoder, requests: &[Request], _: &Sampling) -> Result<Vec<Generation>> {
        let answer = |_: &Request| Generation { tokens: vec![5], logprobs: vec![0.0], finish: Finish::Length };
        Ok(requests.iter().map(answer).collect())
    }

    fn judge(&mut self, answers: &[Answer]) -> Result<Vec<Judgement>> {
        sevens(answers)
    }
}

fn failure_of(algorithm: &Algorithm, world: &mut dyn Environment, host: &mut dyn Host) -> String {
    let (prompts, draw) = (prompts(), Draw::new(7, "practice"));
    let ids: Vec<String> = (0..prompts.len()).map(|index| format!("row-{index}")).collect();
    let task = Task { policy: fresh(1), prompts: &prompts, ids: &ids, draw: &draw };
    algorithm.train(task, world, host).err().expect("it goes wrong").to_string()
}

#[test]
fn a_run_that_diverges_stops_with_its_step_its_rows_and_what_is_left() {
    for (name, mut algorithm) in all_algorithms() {
        let practice = algorithm.practice();
        practice.schedule = Schedule { shape: Shape::Constant, peak: 1e30, warmup: 0.0, floor: 0.0 };
        practice.kl_stop = None;
        let folder = tempfile::tempdir().unwrap();
        let mut host = Stopping { folder: folder.path(), every: 1, left: Cell::new(u64::MAX) };
        let message = failure_of(&algorithm, &mut sevens, &mut host);
        for told in ["training diverged at iteration", "`row-", "before-divergence", "lower learning rate"] {
            assert!(message.contains(told), "{name}: {told}: {message}");
        }
        assert!(std::fs::read_dir(folder.path().join("before-divergence")).unwrap().count() == 1, "{name}");
    }
}

#[test]
fn a_reward_that_is_no_number_is_told_with_the_row_that_earned_it() {
    let mut calls = 0;
    let mut judge = |answers: &[Answer]| {
        calls += 1;
        let mut judgements = sevens(answers)?;
        let place = answers.iter().position(|answer| answer.problem == 4).expect("24 answers to 9 problems");
        judgements[place].reward = if calls == 3 { f32::NAN } else { 0.0 };
        Ok(judgements)
    };
    let folder = tempfile::tempdir().unwrap();
    let mut host = Stopping { folder: folder.path(), every: 2, left: Cell::new(u64::MAX) };
    let message = failure_of(&all_algorithms()[0].1, &mut judge, &mut host);
    assert!(message.contains("iteration `3`") && message.contains("learning from `row-4`;"), "{message}");
    assert!(message.contains("step-000000000002.checkpoint"), "the last good checkpoint is named: {message}");
}

#[test]
fn a_policy_that_has_gone_too_far_is_stopped() {
    let mut algorithm = all_algorithms().swap_remove(0).1;
    algorithm.practice().kl_limit = Some(1e-6);
    let message = failure_of(&algorithm, &mut sevens, &mut Quiet);
    assert!(message.contains("nats from the starting model") && message.contains("`kl_limit`"), "{message}");
}

#[test]
fn a_value_head_comes_off_as_it_was_put_on() {
    for (learnt, start) in STARTS {
        let (model, with_head) = (start(1), start(1).with_value_head());
        let more = with_head.learnt().len - model.learnt().len;
        assert_eq!(more, model.config().hidden_size + 1, "{learnt}: a vector and a constant");
        assert!(bits(&with_head.without_value_head()) == bits(&model), "{learnt}");
    }
}

/// Sevens are better than anything else.
fn preferences() -> Vec<Pair> {
    let pair = |index: usize| {
        let prompt = &prompts()[index % 9];
        let answer = |token: u32| Example::new(prompt, &[vec![token; 1 + index % 4], vec![END]].concat());
        Pair { id: format!("row-{index}"), chosen: answer(7), rejected: answer(2 + (index % 5) as u32) }
    };
    (0..40).map(pair).collect()
}

fn prefer(policy: Decoder, settings: &DpoSettings, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    dpo::train(policy, &preferences(), settings, &Draw::new(7, "dpo"), host)
}

fn dpo_settings() -> DpoSettings {
    let schedule = Schedule { peak: 3e-3, ..FALLING };
    DpoSettings { epochs: 3, batch: 12, schedule, optimizer: PLAIN, beta: 0.1, smoothing: 0.05, checkpointing: false }
}

#[test]
fn dpo_learns_which_answer_is_better() {
    for (learnt, start) in STARTS {
        let (_, rows) = prefer(start(2), &DpoSettings { epochs: 12, ..dpo_settings() }, &mut Quiet).unwrap();
        let (first, last) = (&rows[0], rows.last().unwrap());
        assert_eq!((first.get("margin"), first.get("accuracy")), (0.0, 0.0), "{learnt}");
        assert!((first.get("loss") - 2f64.ln()).abs() < 1e-12, "{learnt}");
        assert!(last.get("loss") < 0.6 && last.get("accuracy") == 1.0, "{learnt}: {last:?}");
        assert!(last.get("rewards_chosen") > last.get("rewards_rejected"), "{learnt}: {last:?}");
    }
}

#[test]
fn dpo_gives_the_same_bits_on_any_number_of_threads_and_after_stops() {
    for (learnt, start) in STARTS {
        let (whole, rows) = prefer(start(1), &dpo_settings(), &mut Quiet).unwrap();
        for threads in [2, 3] {
            let (other, other_rows) = prefer(start(threads), &dpo_settings(), &mut Quiet).unwrap();
            assert!(bits(&whole) == bits(&other) && rows == other_rows, "{learnt}: {threads} threads");
        }
        for (stops, every) in [(&[1, 2, 4][..], 1), (&[5], 1000)] {
            let (resumed, resumed_rows) = with_stops(stops, every, |host| prefer(start(2), &dpo_settings(), host));
            assert!(bits(&whole) == bits(&resumed) && rows == resumed_rows, "{learnt}: stops after {stops:?}");
        }
    }
}

#[test]
fn dpo_that_diverges_stops_with_its_step_and_rows() {
    let schedule = Schedule { shape: Shape::Constant, peak: 1e30, warmup: 0.0, floor: 0.0 };
    let message = prefer(fresh(1), &DpoSettings { schedule, ..dpo_settings() }, &mut Quiet).err().unwrap().to_string();
    assert!(message.contains("diverged at step `2`") && message.contains("`row-"), "{message}");
}

//! Training learns, gives the same bits on any number of threads, and goes on after a stop as if there had been none.

mod stopping;

use kernels::{Device, Precision};
use stages::draw::Draw;
use stages::failure::Result;
use stages::model::generate::{Request, Sampling, generate};
use stages::model::workspace::Purpose;
use stages::model::{Decoder, DecoderConfig};
use stages::train::batches::{Example, Keep};
use stages::train::held_out::{EvaluationPlan, score};
use stages::train::optimizer::AdamW;
use stages::train::ppo::{Critic, PpoSettings};
use stages::train::practice::{Divergence, KlAs, PracticeSettings, Task, Truncated};
use stages::train::rollouts::{Answer, Judgement};
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, Lessons, SftSettings};
use stages::train::shards::Lanes;
use stages::train::{Host, Metrics, Quiet, ppo, sft};
use std::cell::Cell;
use stopping::{Stopping, with_stops};

const END: u32 = 1;

fn config() -> DecoderConfig {
    DecoderConfig {
        vocab_size: 12,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        intermediate_size: 24,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        max_position_embeddings: 64,
        bos_token_id: None,
        eos_token_ids: vec![END],
        ..DecoderConfig::default()
    }
}

fn fresh(threads: usize) -> Decoder {
    Decoder::fresh(&Device::cpu(Some(threads)), &config(), 3)
}

fn bits(decoder: &Decoder) -> Vec<u32> {
    decoder.weights().iter().map(|weight| weight.to_bits()).collect()
}

/// Repeat the prompt, then end.
fn examples() -> Vec<Example> {
    let letters = |index: u32| (0..2 + index % 5).map(move |place| 2 + (index * 3 + place * place) % 10);
    (0..90)
        .map(|index| letters(index).collect::<Vec<_>>())
        .map(|it| Example::new(&[&it[..], &[0]].concat(), &[&it[..], &[END]].concat()))
        .collect()
}

fn sft_settings() -> SftSettings {
    SftSettings {
        duration: Duration::Epochs(2.0),
        batch: BatchSize::Tokens(400),
        schedule: Schedule { shape: Shape::Cosine, peak: 1e-2, warmup: 0.1, floor: 0.0 },
        optimizer: AdamW::default(),
        length_max: 40,
        keep: Keep::Tail,
        micro_batch_tokens: None,
        checkpointing: false,
        evaluation: None,
    }
}

fn supervise(threads: usize, settings: &SftSettings, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    sft::train(fresh(threads), &examples(), settings, &Draw::new(7, "sft"), host)
}

#[test]
fn sft_learns_to_repeat() {
    let settings = SftSettings { duration: Duration::Epochs(60.0), ..sft_settings() };
    let (_, rows) = supervise(2, &settings, &mut Quiet).unwrap();
    let (first, last) = (rows[0].get("loss"), rows.last().unwrap().get("loss"));
    assert!(first > 2.0 && last < 0.3, "loss {first} → {last}");
}

/// With everything that a run may carry along: held-out examples, an early stop, the best weights, gradients that are accumulated.
fn rich_settings() -> SftSettings {
    let evaluation = EvaluationPlan { every: 3, patience: Some(4), min_delta: 0.0, best: true };
    SftSettings { micro_batch_tokens: Some(90), evaluation: Some(evaluation), ..sft_settings() }
}

/// Trains on the first examples and asks the others.
fn supervise_and_ask(
    threads: usize,
    settings: &SftSettings,
    (trained, asked): (&[Example], &[Example]),
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let lessons = Lessons { examples: trained, ids: &[], held_out: asked };
    sft::train(fresh(threads), lessons, settings, &Draw::new(7, "sft"), host)
}

fn evaluations(rows: &[Metrics]) -> Vec<(u64, f64)> {
    let told = |row: &Metrics| Some((row.step, row.get("evaluation_loss"))).filter(|(_, loss)| loss.is_finite());
    rows.iter().filter_map(told).collect()
}

fn asked(decoder: &Decoder, examples: &[Example]) -> (f64, f64) {
    let score = score(decoder, examples, &mut Lanes::new(decoder, Purpose::Inference));
    (score.loss, score.accuracy)
}

#[test]
fn sft_gives_the_same_bits_on_any_number_of_threads() {
    let examples = examples();
    let parts = examples.split_at(70);
    for settings in [sft_settings(), rich_settings()] {
        let (one, rows) = supervise_and_ask(1, &settings, parts, &mut Quiet).unwrap();
        for threads in [2, 3, 4] {
            let (other, other_rows) = supervise_and_ask(threads, &settings, parts, &mut Quiet).unwrap();
            assert!(bits(&one) == bits(&other) && rows == other_rows, "{threads} threads, {settings:?}");
        }
    }
}

#[test]
fn bf16_learns_nearly_alike_and_has_its_own_bits_on_any_number_of_threads() {
    let settings = SftSettings { duration: Duration::Epochs(20.0), ..sft_settings() };
    let train = |threads: usize, precision: Precision| {
        let decoder = Decoder::fresh(&Device::cpu(Some(threads)).in_precision(precision), &config(), 3);
        sft::train(decoder, &examples(), &settings, &Draw::new(7, "sft"), &mut Quiet).unwrap()
    };
    let (exact, exact_rows) = train(1, Precision::F32);
    let (half, rows) = train(1, Precision::Bf16);
    let (other, other_rows) = train(3, Precision::Bf16);
    assert!(bits(&half) == bits(&other) && rows == other_rows, "one and three threads");
    assert!(bits(&half) != bits(&exact), "bf16 changed nothing");
    // A factor is off by 2⁻⁹ at most; on the way down the losses of both stay close.
    for (exact, half) in exact_rows.iter().zip(&rows) {
        let (exact, half) = (exact.get("loss"), half.get("loss"));
        assert!((exact - half).abs() < 0.1 * exact, "loss {exact} in f32, {half} in bf16");
    }
    assert!(rows.last().unwrap().get("loss") < 0.7 * rows[0].get("loss"));
}

#[test]
fn sft_goes_on_after_a_stop_as_if_there_had_been_none() {
    let examples = examples();
    let parts = examples.split_at(70);
    for settings in [sft_settings(), rich_settings()] {
        let settings = SftSettings { duration: Duration::Steps(14), ..settings };
        let (whole, rows) = supervise_and_ask(2, &settings, parts, &mut Quiet).unwrap();
        for stops in [&[1][..], &[2, 1, 3], &[4, 2]] {
            let (resumed, resumed_rows) = with_stops(stops, 1000, |host| supervise_and_ask(1, &settings, parts, host));
            assert!(bits(&whole) == bits(&resumed) && rows == resumed_rows, "stops after {stops:?}, {settings:?}");
        }
    }
}

#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    let whole = supervise(2, &sft_settings(), &mut Quiet).unwrap();
    for tokens in [1, 90, 300] {
        let settings = SftSettings { micro_batch_tokens: Some(tokens), ..sft_settings() };
        let parts = supervise(2, &settings, &mut Quiet).unwrap();
        assert_eq!(whole.1.len(), parts.1.len());
        for (whole, parts) in whole.1.iter().zip(&parts.1) {
            let (a, b) = (whole.get("loss"), parts.get("loss"));
            assert!((a - b).abs() < 1e-4, "step {}: {a} and, {tokens} tokens at once, {b}", whole.step);
        }
    }
}

#[test]
fn held_out_examples_are_asked_and_never_learnt() {
    let examples = examples();
    let (trained, others) = examples.split_at(70);
    let plan = EvaluationPlan { every: 3, patience: None, min_delta: 0.0, best: false };
    let settings = SftSettings { duration: Duration::Steps(11), evaluation: Some(plan), ..sft_settings() };
    let (watched, rows) = supervise_and_ask(2, &settings, (trained, others), &mut Quiet).unwrap();
    let alone = SftSettings { evaluation: None, ..settings };
    let (unwatched, _) = supervise_and_ask(2, &alone, (trained, &[]), &mut Quiet).unwrap();
    assert!(bits(&watched) == bits(&unwatched), "looking changed what is looked at");
    assert_eq!(evaluations(&rows).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6, 9, 11]);
    let (loss, accuracy) = asked(&watched, others);
    let last = rows.last().unwrap();
    assert_eq!((last.get("evaluation_loss"), last.get("evaluation_accuracy")), (loss, accuracy));
    assert_eq!(last.get("evaluation_perplexity"), loss.exp());
    assert_eq!(rows.len(), 11);
}

#[test]
fn an_evaluation_tells_what_training_and_generation_see() {
    let all = SftSettings { batch: BatchSize::Tokens(1 << 20), ..sft_settings() };
    let (learnt, rows) = supervise(2, &SftSettings { duration: Duration::Steps(6), ..all }, &mut Quiet).unwrap();
    let (loss, _) = asked(&fresh(2), &examples());
    assert!((loss - rows[0].get("loss")).abs() < 1e-9, "{loss} and {}", rows[0].get("loss"));
    let short: Vec<Example> =
        examples().iter().map(|it| Example::new(&it.tokens[..it.prompt], &it.tokens[it.prompt..][..1])).collect();
    let requests: Vec<Request> = short.iter().map(|it| Request { prompt: &it.tokens[..it.prompt], seed: 1 }).collect();
    let greedy = Sampling { temperature: 0.0, tokens_max: 1, ..Sampling::default() };
    let answers = generate(&learnt, &requests, &greedy).unwrap();
    let right = answers.iter().zip(&short).filter(|(answer, it)| answer.tokens[0] == it.tokens[it.prompt]).count();
    let (_, accuracy) = asked(&learnt, &short);
    assert_eq!(accuracy, right as f64 / short.len() as f64);
    assert!((0.2..1.0).contains(&accuracy), "some right and some wrong say more: {accuracy}");
}

/// Few examples learnt by heart, and others of which nothing can be learnt: their loss soon rises.
fn overfitting() -> (Vec<Example>, Vec<Example>) {
    let all = examples();
    let others =
        all[40..].iter().map(|it| Example::new(&it.tokens[..it.prompt], &it.tokens[..it.prompt - 1])).collect();
    (all[..6].to_vec(), others)
}

#[test]
fn an_early_stop_comes_and_the_best_weights_are_given_back() {
    let (trained, others) = overfitting();
    let plan = EvaluationPlan { every: 2, patience: Some(3), min_delta: 0.0, best: true };
    let settings = SftSettings { duration: Duration::Steps(400), evaluation: Some(plan), ..sft_settings() };
    let (best, rows) = supervise_and_ask(2, &settings, (&trained, &others), &mut Quiet).unwrap();
    let told = evaluations(&rows);
    let lowest = told.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(rows.len() < 400, "it went on to the end: {told:?}");
    assert_eq!(told.last().unwrap().0, lowest.0 + 2 * 3, "three evaluations without gain: {told:?}");
    assert_eq!(asked(&best, &others).0, lowest.1, "the weights of step {}", lowest.0);
    let last = SftSettings { evaluation: Some(EvaluationPlan { best: false, ..plan }), ..settings };
    let (last, last_rows) = supervise_and_ask(2, &last, (&trained, &others), &mut Quiet).unwrap();
    assert_eq!(rows, last_rows);
    assert_eq!(asked(&last, &others).0, told.last().unwrap().1);
}

#[test]
fn a_stop_forgets_neither_patience_nor_the_best_weights() {
    let (trained, others) = overfitting();
    let plan = EvaluationPlan { every: 2, patience: Some(3), min_delta: 0.0, best: true };
    let settings = SftSettings { duration: Duration::Steps(400), evaluation: Some(plan), ..sft_settings() };
    let run = |host: &mut dyn Host| supervise_and_ask(2, &settings, (&trained, &others), host);
    let (whole, rows) = run(&mut Quiet).unwrap();
    let steps = rows.len() as u64;
    // The last stop lies after the best evaluation and before the end.
    for stops in [&[steps - 3][..], &[steps - 6, 3, 2]] {
        let (resumed, resumed_rows) = with_stops(stops, 1000, run);
        assert!(bits(&whole) == bits(&resumed) && rows == resumed_rows, "stops after {stops:?}");
    }
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let (whole, rows) = supervise(2, &sft_settings(), &mut Quiet).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut host = Stopping { folder: folder.path(), every: 2, left: Cell::new(6) };
    assert!(supervise(2, &sft_settings(), &mut host).is_err());
    // What a kill leaves: no last checkpoint, and another half-written.
    std::fs::remove_file(folder.path().join("step-000000000005.checkpoint")).unwrap();
    std::fs::write(folder.path().join("step-000000000007.checkpoint"), [7; 99]).unwrap();
    let mut host = Stopping { folder: folder.path(), every: 2, left: Cell::new(u64::MAX) };
    let (resumed, resumed_rows) = supervise(2, &sft_settings(), &mut host).unwrap();
    assert!(bits(&whole) == bits(&resumed) && rows == resumed_rows);
}

#[test]
fn a_batch_of_rows_and_a_budget_of_tokens_are_kept() {
    let settings = SftSettings { batch: BatchSize::Rows(8), duration: Duration::Tokens(700), ..sft_settings() };
    let (_, rows) = supervise(1, &settings, &mut Quiet).unwrap();
    let tokens = rows.last().unwrap().get("tokens");
    assert!((700.0..800.0).contains(&tokens), "{tokens} tokens");
}

#[test]
fn divergence_stops_with_the_step_the_rows_and_the_last_good_checkpoint() {
    let settings = SftSettings {
        schedule: Schedule { shape: Shape::Constant, peak: 1e30, warmup: 0.0, floor: 0.0 },
        ..sft_settings()
    };
    let message = supervise(1, &settings, &mut Quiet).err().unwrap().to_string();
    assert!(message.contains("diverged at step `2`") && message.contains("learning rate"), "{message}");

    let examples = examples();
    let ids: Vec<String> = (0..examples.len()).map(|index| format!("row-{index}")).collect();
    let lessons = Lessons { examples: &examples, ids: &ids, held_out: &[] };
    let diverges = |settings: &SftSettings, every: u64| {
        let folder = tempfile::tempdir().unwrap();
        let mut host = Stopping { folder: folder.path(), every, left: Cell::new(u64::MAX) };
        sft::train(fresh(1), lessons, settings, &Draw::new(7, "sft"), &mut host).err().unwrap().to_string()
    };
    let message = diverges(&SftSettings { batch: BatchSize::Rows(3), ..settings.clone() }, 1);
    assert!(message.contains("step-000000000001.checkpoint`"), "{message}");
    // The second step's rows, in the order of the epoch.
    let order = stages::train::batches::epoch_order(examples.len(), &Draw::new(7, "sft"), 0);
    let named: Vec<String> = order[3..6].iter().map(|index| format!("`row-{index}`")).collect();
    assert!(message.contains(&format!("learning from {};", named.join(", "))), "{message}");
    let message = diverges(&SftSettings { batch: BatchSize::Rows(20), ..settings }, 100);
    assert!(message.contains("learning from `row-") && message.contains(" and 12 more rows"), "{message}");
    assert!(message.contains("no checkpoint had been written"), "{message}");
}

#[test]
fn nothing_to_learn_is_said() {
    let settings = SftSettings { length_max: 1, ..sft_settings() };
    let message = supervise(1, &settings, &mut Quiet).err().unwrap().to_string();
    assert!(message.contains("nothing to train on"), "{message}");
    let settings = SftSettings { length_max: 5, ..rich_settings() };
    let long = [Example::new(&[2; 9], &[3])];
    let head = SftSettings { keep: Keep::Head, ..settings };
    let message = supervise_and_ask(1, &head, (&examples(), &long), &mut Quiet).err().unwrap().to_string();
    assert!(message.contains("nothing to evaluate on"), "{message}");
}

fn ppo_settings() -> PpoSettings {
    let optimizer = AdamW { decay: 0.0, ..AdamW::default() };
    PpoSettings {
        practice: PracticeSettings {
            iterations: 5,
            rollouts: 24,
            group: 1,
            temperature: 1.0,
            answer_tokens_max: 8,
            minibatch: 10,
            epochs: 2,
            idle: 1,
            schedule: Schedule { shape: Shape::Linear, peak: 5e-3, warmup: 0.1, floor: 0.1 },
            optimizer,
            clip: (0.2, 0.2),
            kl: Divergence { beta: 0.01, place: KlAs::Reward, adaptive: None },
            kl_stop: None,
            kl_limit: None,
            entropy: 0.0,
            truncated: Truncated::default(),
            checkpointing: false,
        },
        critic: Critic::Separate { rate: 5e-3, optimizer, epochs: 2, minibatch: 10 },
        discount: 1.0,
        trace: 0.95,
        value_trace: None,
        value_clip: Some(0.2),
        whiten: true,
    }
}

/// The same with other practice.
fn practising(change: impl FnOnce(&mut PracticeSettings)) -> PpoSettings {
    let mut settings = ppo_settings();
    change(&mut settings.practice);
    settings
}

/// Rewards the share of sevens.
fn sevens(answers: &[Answer]) -> Result<Vec<Judgement>> {
    let share =
        |answer: &Answer| answer.tokens.iter().filter(|&&token| token == 7).count() as f32 / answer.tokens.len() as f32;
    Ok(answers
        .iter()
        .map(|answer| Judgement { reward: share(answer), right: share(answer) > 0.5, formatted: true })
        .collect())
}

fn reinforce(threads: usize, settings: &PpoSettings, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    reinforce_from(fresh(threads), settings, host)
}

fn reinforce_from(policy: Decoder, settings: &PpoSettings, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    let prompts: Vec<Vec<u32>> = (0..9).map(|index| vec![2 + index, 3, 4][..1 + index as usize % 3].to_vec()).collect();
    let draw = Draw::new(7, "ppo");
    let task = Task { policy, prompts: &prompts, ids: &[], draw: &draw };
    ppo::train(task, settings, &mut sevens, host)
}

#[test]
fn ppo_finds_what_is_rewarded() {
    let settings = PpoSettings {
        critic: Critic::Separate { rate: 5e-3, optimizer: ppo_settings().practice.optimizer, epochs: 2, minibatch: 32 },
        ..practising(|practice| (practice.iterations, practice.rollouts, practice.minibatch) = (40, 64, 32))
    };
    let (_, rows) = reinforce(2, &settings, &mut Quiet).unwrap();
    let (first, last) = (rows[0].get("reward"), rows.last().unwrap().get("reward"));
    assert!(first < 0.25 && last > 0.6, "reward {first} → {last}");
    let explained = rows.last().unwrap().get("explained_variance");
    assert!(explained > 0.3, "the critic explains {explained}");
}

#[test]
fn ratios_start_at_exactly_one_and_the_sampler_sees_what_training_sees() {
    for precision in [Precision::F32, Precision::Bf16] {
        let policy = Decoder::fresh(&Device::cpu(Some(2)).in_precision(precision), &config(), 3);
        let (_, rows) = reinforce_from(policy, &ppo_settings(), &mut Quiet).unwrap();
        for row in &rows {
            assert_eq!(row.get("sampler_gap"), 0.0, "{precision:?}, iteration {}", row.step);
            let ratio = if row.step > 1 { 1.0 } else { 0.0 };
            assert_eq!(row.get("first_ratio"), ratio, "{precision:?}, iteration {}", row.step);
        }
        assert_eq!(rows[0].get("kl"), 0.0);
    }
}

#[test]
fn ppo_gives_the_same_bits_on_any_number_of_threads_and_after_stops() {
    let (whole, rows) = reinforce(1, &ppo_settings(), &mut Quiet).unwrap();
    for threads in [2, 3] {
        let (other, other_rows) = reinforce(threads, &ppo_settings(), &mut Quiet).unwrap();
        assert!(bits(&whole) == bits(&other) && rows == other_rows, "{threads} threads");
    }
    for (stops, every) in [(&[1, 2, 3][..], 1), (&[3], 1000)] {
        let (resumed, resumed_rows) = with_stops(stops, every, |host| reinforce(2, &ppo_settings(), host));
        assert!(bits(&whole) == bits(&resumed) && rows == resumed_rows, "stops after {stops:?}");
    }
}

#[test]
fn an_answer_cut_short_gets_what_the_recipe_says() {
    let settings = practising(|practice| {
        practice.truncated.reward = Some(-3.0);
        (practice.answer_tokens_max, practice.iterations) = (1, 1);
    });
    let (_, rows) = reinforce(1, &settings, &mut Quiet).unwrap();
    let (reward, truncated) = (rows[0].get("reward"), rows[0].get("truncated"));
    assert!(truncated > 0.5 && (reward + 3.0 * truncated).abs() < 1e-9, "{reward}, {truncated}");
}

//! A training that is killed at any moment, also while it writes a checkpoint, and whose newest checkpoint may be torn besides, goes on
//! when it is started again and ends with the bytes and the metrics of one that nothing disturbed.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/tracer/mod.rs"]
mod tracer;

use kitchen::{Kitchen, Run, questions};
use serde_json::Value;
use stages::draw::Draw;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::LazyLock;
use std::time::Duration;
use tracer::{Act, Kind, can_trace, trace};

const RECIPE: &str = "\
version: 1
nodes:
  exam:     { kind: source, path: exam.jsonl }
  student:  { kind: sft, input: exam, response: answer, steps: 160, batch_tokens: 256, checkpoint_every: 3,
              evaluation: { share: 0.2, every: 10, patience: 60, best: true },
              base: { architecture: qwen2, layers: 2, hidden: 48, heads: 4, tokenizer: { train: words, size: 300 } } }
  graduate: { kind: ppo, policy: student, problems: exam, truth: answer, verifier: rules, iterations: 40, rollouts: 24, minibatch: 8,
              max_new_tokens: 12, checkpoint_every: 1 }
";
/// Columns of times, which differ from run to run.
const TIMES: &[&str] = &["seconds", "tokens_per_second"];

/// A training to be killed.
#[derive(Debug, Clone, Copy)]
struct Training {
    node: &'static str,
    /// Steps or iterations.
    steps: u64,
}

const SFT: Training = Training { node: "student", steps: 160 };
const PPO: Training = Training { node: "graduate", steps: 40 };

/// What came of a training: the hash of its output, and its metrics without times.
#[derive(Debug, PartialEq)]
struct Result {
    output: String,
    metrics: Vec<Value>,
}

struct Undisturbed {
    /// Everything before the graduate is done here.
    before_ppo: Kitchen,
    student: Result,
    graduate: Result,
}

static UNDISTURBED: LazyLock<Undisturbed> = LazyLock::new(|| {
    let before_ppo = scene();
    run(&before_ppo, SFT).expect_done();
    let student = result(&before_ppo, SFT);
    let kitchen = Kitchen::copy_of(&before_ppo.path(""));
    run(&kitchen, PPO).expect_done();
    Undisturbed { before_ppo, student, graduate: result(&kitchen, PPO) }
});

impl Training {
    fn expected(self) -> &'static Result {
        if self.node == SFT.node { &UNDISTURBED.student } else { &UNDISTURBED.graduate }
    }

    /// A kitchen in which this is the next thing to do.
    fn scene(self) -> Kitchen {
        if self.node == SFT.node { scene() } else { Kitchen::copy_of(&UNDISTURBED.before_ppo.path("")) }
    }
}

fn scene() -> Kitchen {
    let kitchen = Kitchen::new(RECIPE);
    kitchen.write("exam.jsonl", &questions(120));
    kitchen
}

fn arguments(training: Training) -> [&'static str; 6] {
    ["run", "recipe.yaml", "--format", "json", "--until", training.node]
}

fn run(kitchen: &Kitchen, training: Training) -> Run {
    Run::of(&kitchen.decoct(&arguments(training)))
}

fn result(kitchen: &Kitchen, training: Training) -> Result {
    let run = run(kitchen, training).expect_done();
    let text = kitchen.says(&["show", "recipe.yaml", training.node, "--format", "json"]);
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        TIMES.iter().for_each(|name| drop(row.as_object_mut().unwrap().remove(*name)));
        row
    };
    let output = run.node(training.node)["output"].as_str().expect("a content hash").to_string();
    Result { output, metrics: text.lines().map(row).collect() }
}

/// `tests/run --full` asks for more of everything.
fn amount(usual: usize, full: usize) -> usize {
    if std::env::var_os("DECOCT_TESTS_FULL").is_some() { full } else { usual }
}

/// Files that the node in progress keeps beside its checkpoints.
fn kept(kitchen: &Kitchen, ending: &str) -> Vec<PathBuf> {
    let files = kitchen.scratch_files();
    files.into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// The last step that was told, and the seconds it took, from the lines that the node keeps of its steps.
fn last_step(kitchen: &Kitchen) -> Option<(u64, f64)> {
    let text = std::fs::read_to_string(kept(kitchen, "/step_times").first()?).ok()?;
    // The last line may be in the middle of being written.
    let (whole, _) = text.rsplit_once('\n')?;
    let (step, seconds) = whole.rsplit_once('\n')?.1.split_once(' ')?;
    Some((step.parse().ok()?, seconds.parse().ok()?))
}

/// When the signal is sent.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many of its own lengths after a step was told.
    Step(u64, f64),
    /// As soon as a checkpoint is seen to be written after this step.
    Writing(u64),
}

impl Moment {
    fn drawn(draw: &Draw, from: u64, steps: u64) -> Moment {
        let step = from + draw.of("step").below((steps - from) as usize) as u64;
        if draw.of("moment").chance(0.4) { Moment::Writing(step) } else { Moment::Step(step, draw.of("part").unit()) }
    }

    /// Waits for it; false when the program ended before.
    fn wait(self, kitchen: &Kitchen, process: &mut Child) -> bool {
        let (Moment::Step(wanted, _) | Moment::Writing(wanted)) = self;
        loop {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            let Some((step, seconds)) = last_step(kitchen).filter(|(step, _)| *step >= wanted) else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            match self {
                Moment::Step(_, part) => {
                    std::thread::sleep(Duration::from_secs_f64(part * seconds.min(1.0)));
                    return true;
                }
                Moment::Writing(_) if !kept(kitchen, ".writing").is_empty() || step > wanted + 8 => return true,
                Moment::Writing(_) => {}
            }
        }
    }
}

/// What a kill met.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    kills: usize,
    /// There was a checkpoint to go on from.
    with_checkpoint: usize,
    /// A checkpoint was half written.
    while_writing: usize,
    torn: usize,
}

/// Kills a run of the training at that moment.
fn kill(kitchen: &Kitchen, training: Training, moment: Moment, met: &mut Met) {
    let mut process = kitchen.command(&arguments(training)).spawn().unwrap();
    let is_there = moment.wait(kitchen, &mut process);
    // SIGKILL. What it has told is read by nobody.
    let _ = process.kill();
    let status = process.wait().unwrap();
    let is_killed = is_there && status.code().is_none();
    met.kills += usize::from(is_killed);
    met.with_checkpoint += usize::from(is_killed && !kept(kitchen, ".checkpoint").is_empty());
    met.while_writing += usize::from(is_killed && !kept(kitchen, ".writing").is_empty());
}

/// Cuts the newest checkpoint short, or turns one of its bits: what a machine that loses power may leave.
fn tear(kitchen: &Kitchen, draw: &Draw, met: &mut Met) {
    let Some(newest) = kept(kitchen, ".checkpoint").pop() else { return };
    let mut bytes = std::fs::read(&newest).unwrap();
    let place = draw.of("place").below(bytes.len());
    if draw.of("how").chance(0.5) {
        bytes.truncate(place)
    } else {
        bytes[place] ^= 1 << draw.of("bit").below(8)
    }
    std::fs::write(&newest, bytes).unwrap();
    met.torn += 1;
}

/// Stories of one or two kills each, then a run to the end, until there have been so many kills.
fn kill_and_go_on(training: Training, kills: usize) {
    let mut met = Met::default();
    for story in 0.. {
        if met.kills >= kills {
            break;
        }
        assert!(story < 3 * kills, "kills come too late: {met:?}");
        let draw = Draw::new(11, training.node).at(story as u64);
        let kitchen = training.scene();
        let first = Moment::drawn(&draw.of("first"), 1, training.steps * 3 / 4);
        kill(&kitchen, training, first, &mut met);
        if draw.of("again").chance(0.3) {
            let from = last_step(&kitchen).map_or(1, |(step, _)| step.min(training.steps - 8));
            kill(&kitchen, training, Moment::drawn(&draw.of("second"), from, training.steps - 4), &mut met);
        }
        if draw.of("tear").chance(0.4) {
            tear(&kitchen, &draw, &mut met);
        }
        run(&kitchen, training).expect_done();
        assert_eq!(&result(&kitchen, training), training.expected(), "{first:?}, story {story}, {met:?}");
        assert!(kitchen.scratch_files().is_empty(), "story {story}: {:?}", kitchen.scratch_files());
    }
    println!("{}: {met:?}", training.node);
    assert!(met.with_checkpoint * 2 > met.kills, "too few kills in the middle of the training: {met:?}");
    assert!(met.torn > 0, "{met:?}");
}

#[test]
fn sft_killed_at_random_ends_as_if_nothing_had_happened() {
    kill_and_go_on(SFT, amount(6, 50));
}

#[test]
fn ppo_killed_at_random_ends_as_if_nothing_had_happened() {
    kill_and_go_on(PPO, amount(6, 50));
}

/// The steps by which a checkpoint gets to the disk.
const WRITING: [(Kind, &str); 4] =
    [(Kind::Create, ".writing"), (Kind::Write, ".writing"), (Kind::Sync, ".writing"), (Kind::Rename, ".checkpoint")];

/// Kills a run at the `nth` step of this kind that touches such a file.
fn kill_at(kitchen: &Kitchen, training: Training, (kind, ending): (Kind, &str), nth: usize, act: Act) -> bool {
    let mut seen = 0;
    let is_such = |kind_of: Kind, path: &Path| kind_of == kind && path.to_string_lossy().ends_with(ending);
    let decide = |step: &tracer::Step| {
        seen += usize::from(is_such(step.kind, &step.path));
        if seen == nth && is_such(step.kind, &step.path) { act } else { Act::Go }
    };
    trace(kitchen.command(&arguments(training)), &kitchen.store(), decide).unwrap().is_killed
}

#[test]
fn killed_at_each_step_of_writing_a_checkpoint_it_goes_on() {
    if !can_trace() {
        return;
    }
    let trainings = [SFT, PPO];
    let rounds = amount(1, 4);
    for (place, step) in WRITING.into_iter().enumerate() {
        for round in 0..rounds {
            let training = trainings[(place + round) % 2];
            let act = [Act::KillHalfway, Act::KillBefore, Act::KillAfter][(place + round) % 3];
            let kitchen = training.scene();
            let nth = 2 + 3 * round;
            assert!(
                kill_at(&kitchen, training, step, nth, act),
                "{training:?} never came to {step:?} the {nth}th time"
            );
            run(&kitchen, training).expect_done();
            assert_eq!(&result(&kitchen, training), training.expected(), "{act:?} {step:?} {nth}");
        }
    }
}

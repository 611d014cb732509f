//! Killed at any moment, a run can be started again and ends as if nothing had happened; so it does when the disk fails it.

#[path = "support/asking.rs"]
mod asking;
#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;
#[path = "support/tracer/mod.rs"]
mod tracer;

use asking::{Asking, CONCURRENCY};
use kitchen::Run;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tracer::{Act, Kind, Step, Traced, can_trace, trace};

const NODES: &str = "  \
  distinct: { kind: dedup, input: exam, by: problem }
  chains:   { kind: cot, input: distinct, model: teacher }
  verdicts: { kind: verify, input: chains, model: teacher }
  student:  { kind: sft, input: verdicts, response: conclusion, epochs: 1, checkpoint_every: 4,
              base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 32, tokenizer: { train: words, size: 300 } } }
";
const ROWS: usize = 12;

/// What a run that nothing disturbs comes to.
struct Undisturbed {
    outputs: Vec<String>,
    calls: u64,
    seconds: f64,
    /// None on a machine that cannot trace.
    steps: Vec<Step>,
}

static UNDISTURBED: LazyLock<Undisturbed> = LazyLock::new(|| {
    let scene = scene();
    let started = Instant::now();
    let outputs = scene.run(&[]).expect_done().outputs();
    let seconds = started.elapsed().as_secs_f64();
    let steps = if can_trace() { traced(&self::scene(), |_| Act::Go).steps } else { Vec::new() };
    Undisturbed { outputs, calls: scene.server.calls(), seconds, steps }
});

fn scene() -> Asking {
    Asking::new(NODES, ROWS, 3)
}

fn traced(scene: &Asking, act: impl FnMut(&Step) -> Act + Send) -> Traced {
    trace(scene.command(&[]), &scene.kitchen.store(), act).unwrap()
}

/// `tests/run --full` asks for more of everything.
fn amount(usual: usize, full: usize) -> usize {
    if std::env::var_os("DECOCT_TESTS_FULL").is_some() { full } else { usual }
}

/// After whatever happened `times` times: the store is sound, and a run ends as the undisturbed one, with what was paid for kept.
fn expect_recovery(scene: &Asking, times: u64, story: &str) {
    println!("{story}");
    scene.check_store();
    let run = scene.run(&[]).expect_done();
    assert_eq!(run.outputs(), UNDISTURBED.outputs, "{story}");
    scene.check_store();
    scene.check_scratch();
    let lost_max = CONCURRENCY * times;
    assert!(scene.server.paid_twice() <= lost_max, "{} paid twice: {story}", scene.server.paid_twice());
    let calls = scene.server.calls();
    assert!((UNDISTURBED.calls..=UNDISTURBED.calls + lost_max).contains(&calls), "{calls} calls: {story}");
}

/// A step as it can be found again in a run whose threads take turns in another order: by what it does where, and which of these
/// it is.
#[derive(Debug, Clone, PartialEq)]
struct Moment {
    kind: Kind,
    /// The store's folder that it works in.
    folder: String,
    nth: usize,
}

/// All steps of the undisturbed run as moments.
fn moments() -> Vec<Moment> {
    let mut counter = Counter::default();
    UNDISTURBED.steps.iter().map(|step| counter.moment(step)).collect()
}

#[derive(Default)]
struct Counter(BTreeMap<(Kind, String), usize>);

impl Counter {
    fn moment(&mut self, step: &Step) -> Moment {
        let folder = folder_of(&step.path);
        let nth = self.0.entry((step.kind, folder.clone())).or_default();
        *nth += 1;
        Moment { kind: step.kind, folder, nth: *nth }
    }
}

/// The first folder below the store, which the kitchen calls `store`.
fn folder_of(path: &Path) -> String {
    let mut names = path.iter().skip_while(|name| *name != "store").skip(1);
    let first = names.next().unwrap_or_default().to_string_lossy().into_owned();
    if names.next().is_some() { first } else { String::new() }
}

/// One moment of each sort, then others spread over the whole run, `count` in all.
fn chosen(count: usize) -> Vec<Moment> {
    let all = moments();
    let mut sorts = BTreeMap::new();
    for moment in &all {
        sorts.entry((moment.kind, moment.folder.clone())).or_insert_with(Vec::new).push(moment.clone());
    }
    let middle = sorts.values().map(|sort| sort[sort.len() / 2].clone());
    let spread = (0..count).map(|place| all[(place * all.len() / count + place / all.len()) % all.len()].clone());
    middle.chain(spread).take(count.max(sorts.len())).collect()
}

/// Kills a fresh run there; whether it came so far.
fn kill_at(scene: &Asking, moment: &Moment, act: Act) -> bool {
    let mut counter = Counter::default();
    let decide = |step: &Step| {
        let is_there = step.kind != Kind::Lock && counter.moment(step) == *moment;
        if is_there { act } else { Act::Go }
    };
    traced(scene, decide).is_killed
}

#[test]
fn killed_at_any_step_it_ends_with_the_same_content_and_pays_for_calls_in_flight_only() {
    let acts = [Act::KillBefore, Act::KillHalfway, Act::KillAfter];
    let moments = if UNDISTURBED.steps.is_empty() { Vec::new() } else { chosen(amount(30, 500)) };
    let mut kills = 0;
    for (place, moment) in moments.iter().enumerate() {
        let (scene, act) = (scene(), acts[place % acts.len()]);
        let is_killed = kill_at(&scene, moment, act);
        kills += usize::from(is_killed);
        expect_recovery(
            &scene,
            1,
            &format!("{act:?} {moment:?}, {}", if is_killed { "killed" } else { "not reached" }),
        );
    }
    // The last few steps of a sort may not come in each run: threads sync together what they wrote together.
    assert!(kills * 10 >= moments.len() * 9, "{kills} kills at {} moments", moments.len());
    println!("{kills} kills, {} sorts of steps", sorts_of_steps());
}

fn sorts_of_steps() -> usize {
    let mut sorts: Vec<_> = moments().into_iter().map(|moment| (moment.kind, moment.folder)).collect();
    sorts.sort();
    sorts.dedup();
    sorts.len()
}

#[test]
fn killed_again_and_again_on_one_store_it_gets_to_the_end() {
    if UNDISTURBED.steps.is_empty() {
        return;
    }
    let scene = scene();
    for kills in 0.. {
        assert!(kills < 300, "it gets nowhere");
        // Far enough for a run to do something beyond opening the store, and some so far that a node which trains comes to its end.
        let last = 50 + kills as usize * 29 % (UNDISTURBED.steps.len() * 3 / 4 - 50);
        let act = if kills % 2 == 0 { Act::KillBefore } else { Act::KillHalfway };
        let run = traced(&scene, |step| if step.number >= last { act } else { Act::Go });
        scene.check_store();
        if !run.is_killed {
            assert_eq!(Run::of(&run.output).expect_done().outputs(), UNDISTURBED.outputs);
            return expect_recovery(&scene, kills, &format!("{kills} kills in a row"));
        }
    }
}

#[test]
fn killed_at_many_moments_in_time_it_ends_with_the_same_content() {
    let usual = if UNDISTURBED.steps.is_empty() { 30 } else { 10 };
    let kills = amount(usual, 100);
    let scene = scene();
    for kill in 0..kills {
        let mut process = scene.command(&[]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(UNDISTURBED.seconds * kill as f64 / kills as f64));
        process.kill().unwrap();
        process.wait().unwrap();
        scene.check_store();
    }
    expect_recovery(&scene, kills as u64, &format!("{kills} kills at moments in time"));
}

/// Lets every step fail that `fails`.
fn fail(scene: &Asking, mut fails: impl FnMut(&Step) -> bool + Send, error: i32) -> Run {
    let run = traced(scene, move |step| if fails(step) { Act::Fail(error) } else { Act::Go });
    assert!(run.output.status.code().is_some(), "nobody kills it: {:?}", run.output.status);
    Run::of(&run.output)
}

const DISK_IS_FULL: &[&str] = &["o space left on ", "free some space"];
const DISK_IS_BROKEN: &[&str] = &["Input/output error"];
const STORE_IS_READ_ONLY: &[&str] = &["Read-only file system", "--cache DIR"];

/// A failure of the disk is told with its place, the reason and the next step, under an exit code that says whose fault it is.
fn expect_told(run: &Run, parts: &[&str], story: &str) {
    let said = format!("{:?}\n{}", run.events, run.told);
    assert!([1, 4].contains(&run.exit), "exit {}: {story}\n{said}", run.exit);
    for part in parts.iter().chain(&["/store"]) {
        assert!(said.contains(part), "`{part}` is missing: {story}\n{said}");
    }
}

/// Done is said only of work that is there; what comes after it may be missing, such as notes for the next run.
fn expect_done_or_told(run: &Run, parts: &[&str], story: &str) {
    match run.exit {
        0 => assert_eq!(run.outputs(), UNDISTURBED.outputs, "{story}"),
        _ => expect_told(run, parts, story),
    }
}

/// What a full disk refuses.
const TAKES_ROOM: [Kind; 4] = [Kind::Create, Kind::Write, Kind::Folder, Kind::Truncate];

#[test]
fn a_disk_that_fills_up_at_any_step_loses_nothing_that_was_finished() {
    let moments = if UNDISTURBED.steps.is_empty() { 0 } else { amount(12, 100) };
    for place in 0..moments {
        let from = 1 + place * UNDISTURBED.steps.len() / moments;
        let story = format!("full from step {from} on: {:?}", UNDISTURBED.steps[from - 1]);
        let scene = scene();
        let run = fail(&scene, |step| step.number >= from && TAKES_ROOM.contains(&step.kind), libc::ENOSPC);
        expect_done_or_told(&run, DISK_IS_FULL, &story);
        assert!(run.exit != 0 || place > moments / 2, "nobody noticed: {story}");
        expect_recovery(&scene, 1, &story);
    }
}

#[test]
fn a_disk_that_cannot_sync_is_told_and_nothing_is_published_on_it() {
    let syncs: Vec<_> = moments().into_iter().filter(|moment| moment.kind == Kind::Sync).collect();
    let count = amount(8, syncs.len()).min(syncs.len());
    for place in 0..count {
        let moment = &syncs[place * syncs.len() / count];
        let story = format!("a sync fails: {moment:?}");
        let (scene, mut counter) = (scene(), Counter::default());
        let fails = |step: &Step| step.kind != Kind::Lock && counter.moment(step) == *moment;
        let run = fail(&scene, fails, libc::EIO);
        // The last replies' own sync may come when no reply is left that could say so.
        match moment.folder.as_str() {
            "replies" => expect_done_or_told(&run, DISK_IS_BROKEN, &story),
            _ => expect_told(&run, DISK_IS_BROKEN, &story),
        }
        expect_recovery(&scene, 1, &story);
    }
}

/// What a read-only file system refuses; of a folder that is there already it says that first.
fn changes_something(step: &Step) -> bool {
    step.kind != Kind::Lock && !(step.kind == Kind::Folder && step.path.exists())
}

#[test]
fn a_store_that_became_read_only_is_told_and_serves_what_it_has() {
    if UNDISTURBED.steps.is_empty() {
        return;
    }
    for from in [1, UNDISTURBED.steps.len() / 2] {
        let story = format!("read-only from step {from} on");
        let scene = scene();
        let run = fail(&scene, |step| step.number >= from && changes_something(step), libc::EROFS);
        expect_told(&run, STORE_IS_READ_ONLY, &story);
        expect_recovery(&scene, 1, &story);
        expect_served(fail(&scene, changes_something, libc::EROFS), &story);
    }
}

/// A run of hits: nothing is missing and nothing is asked.
fn expect_served(run: Run, story: &str) {
    let run = run.expect_done();
    assert_eq!((run.outputs(), run.total("calls")), (UNDISTURBED.outputs.clone(), 0), "served again, {story}");
}

/// A file system of its own for as long as it lives.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    /// `None` where this user may not mount.
    fn mount(folder: &Path, kilobytes: usize) -> Option<SmallDisk<'_>> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={kilobytes}k");
        mount(&["-t", "tmpfs", "-o", &size, "decoct-test"], folder).then_some(SmallDisk(folder))
    }

    fn remount(&self, option: &str) {
        assert!(mount(&["-o", &format!("remount,{option}")], self.0));
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn mount(options: &[&str], folder: &Path) -> bool {
    Command::new("mount").args(options).arg(folder).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_small_disk_fills_up_given_room_the_next_run_goes_on_and_made_read_only_it_still_serves() {
    for kilobytes in [40, 100, 180] {
        let scene = scene();
        let store = scene.kitchen.store();
        let Some(disk) = SmallDisk::mount(&store, kilobytes) else {
            return println!("skipped: no right to mount here; the traced test has filled the disk at every step");
        };
        let run = scene.run(&[]);
        let story = format!("a disk of {kilobytes} kB");
        expect_told(&run, DISK_IS_FULL, &story);
        disk.remount("size=64m");
        expect_recovery(&scene, 1, &story);
        disk.remount("ro");
        expect_served(scene.run(&[]), &story);
    }
}

//! `decoct plan`, from process start to its end, over 40,000 rows beside a million kept replies: with nothing to do, with an edit that
//! pays nothing (every row is played through and every reply read), and with one that pays for every row.
//! `cargo bench --workspace --bench plan`. Everything is made below a temporary folder and removed.

use cache::{Digest, Replies, ReplyAddress, Store};
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROWS: usize = 40_000;
const REPLIES: usize = 1_000_000;
const REPLY_BYTES: usize = 1_300;
const RUNS: usize = 10;

const RECIPE: &str = "\
version: 1
prompts: prompts
models: { teacher: { provider: rehearsal, unparsable: 0 } }
nodes:
  exam:      { kind: source, path: exam.jsonl }
  chains:    { kind: cot, input: exam, model: teacher, asks: 3 }
  verdicts:  { kind: verify, input: chains, model: teacher }
  solved:    { kind: search, input: verdicts, model: teacher }
";

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("room for a file");
    write("recipe.yaml", RECIPE);
    write("exam.jsonl", &exam());
    std::fs::create_dir(at("prompts")).expect("room for a folder");
    let prompt = include_str!("../../pipelines/medical/prompts/cot.md");
    write("prompts/cot.md", prompt);
    let started = Instant::now();
    decoct(folder.path(), &["run", "recipe.yaml", "--until", "verdicts"]);
    println!("{:<48} {:>8.1} ms once", "run", milliseconds(started.elapsed()));
    keep_replies(folder.path());
    report("plan, nothing to do", folder.path(), &["--until", "verdicts"]);
    write("recipe.yaml", &RECIPE.replace("asks: 3", "asks: 4"));
    report("plan, 40,000 rows, every call paid", folder.path(), &["--until", "chains"]);
    report("plan, the same and what waits for it", folder.path(), &["--until", "verdicts"]);
    write("recipe.yaml", RECIPE);
    write("prompts/cot.md", &format!("{prompt}\nBe brief.\n"));
    report("plan, 40,000 rows, no call paid", folder.path(), &[]);
}

/// Questions of the length of an exam's.
fn exam() -> String {
    let mut lines = String::new();
    for row in 0..ROWS {
        let sign = format!("sign {row} since day {}, worse at night and after meals. ", row % 91).repeat(6);
        _ = writeln!(
            lines,
            r#"{{"problem": "A patient of {} years shows {sign}What explains it best?", "truth": "Explanation {row}"}}"#,
            20 + row % 60
        );
    }
    lines
}

/// Fills the store up with replies to other questions.
fn keep_replies(folder: &Path) {
    let store = Store::open(&folder.join("store")).expect("a store");
    let replies: Replies = store.replies().expect("a folder of replies");
    let text = "dose ".repeat(REPLY_BYTES / 5);
    for number in replies.len()..REPLIES {
        let digest = cache::Hasher::new("bench").raw(&number.to_le_bytes()).finish();
        replies.put(&ReplyAddress(Digest::from_bytes(*digest.as_bytes())), text.as_bytes()).expect("room for a reply");
    }
    replies.flush().expect("a disk that syncs");
    drop(replies);
    // Indexes the logs, as the next run would.
    drop(store.replies().expect("a folder of replies"));
}

fn decoct(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
    command.args(arguments).args(["--cache", "store"]).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Median and shortest by the clock, and the CPU time of one command on all threads together.
fn report(what: &str, folder: &Path, more: &[&str]) {
    let before = children_cpu();
    let time = || {
        let started = Instant::now();
        decoct(folder, &[&["plan", "recipe.yaml"], more].concat());
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(|_| time()).collect();
    times.sort();
    let cpu = (children_cpu() - before) / RUNS as u32;
    let (median, shortest) = (milliseconds(times[RUNS / 2]), milliseconds(times[0]));
    println!("{what:<48} {median:>8.1} ms, shortest {shortest:>7.1} ms · cpu {:>7.1} ms", milliseconds(cpu));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn children_cpu() -> Duration {
    // SAFETY: `usage` is valid for writes, and all zeros is a value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

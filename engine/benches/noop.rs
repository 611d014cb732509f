//! A run with nothing to do, from process start to its end: 10 nodes without and with a million kept replies, and 1,000 nodes.
//! `cargo bench --workspace --bench noop`. Everything is made below a temporary folder and removed.

use cache::{Digest, Replies, ReplyAddress, Store};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REPLIES: u64 = 1_000_000;
const REPLY_BYTES: usize = 1_300;
const RUNS: usize = 20;
const LAYERS: usize = 10;

const TEN_NODES: &str = "\
version: 1
models: { teacher: { provider: rehearsal } }
nodes:
  exam:      { kind: source, generate: tablets, rows: 60 }
  distinct:  { kind: dedup, input: exam, by: question }
  clear:     { kind: filter, input: distinct, model: teacher }
  problems:  { kind: reformat, input: clear, model: teacher }
  halves:    { kind: split, input: problems, parts: { sft: 0.5, rl: 0.5 } }
  chains:    { kind: cot, input: halves.sft, model: teacher }
  verdicts:  { kind: verify, input: chains, model: teacher }
  solved:    { kind: search, input: verdicts, model: teacher }
  stories:   { kind: rewrite, input: solved, model: teacher }
  lessons:   { kind: mix, inputs: [stories, halves.rl] }
";

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_recipe(folder.path(), TEN_NODES);
    decoct(folder.path(), &[]);
    report("10 nodes", folder.path(), &[]);
    report("10 nodes, one asks again", folder.path(), &["--recheck", "chains"]);
    keep_replies(folder.path());
    report("10 nodes, 1,000,000 replies", folder.path(), &[]);
    report("10 nodes, one asks again, 1,000,000 replies", folder.path(), &["--recheck", "chains"]);
    let layered = tempfile::tempdir().expect("a temporary folder");
    write_recipe(layered.path(), &layers(1_000));
    let started = Instant::now();
    decoct(layered.path(), &[]);
    println!("{:<44} {:>8.1} ms once", "1,000 nodes, all to be done", started.elapsed().as_secs_f64() * 1e3);
    report("1,000 nodes", layered.path(), &[]);
}

fn write_recipe(folder: &Path, text: &str) {
    std::fs::write(folder.join("recipe.yaml"), text).expect("room for a recipe");
}

/// A source and layers of nodes, each of which reads one of the layer before.
fn layers(nodes: usize) -> String {
    let width = nodes / LAYERS;
    let node = |number: usize| {
        let input = if number <= width { "source".to_string() } else { format!("n{}", number - width) };
        format!("  n{number}: {{ kind: filter, input: {input}, where: \"question|length + {number} > 0\" }}\n")
    };
    let rest: String = (1..nodes).map(node).collect();
    format!("version: 1\nnodes:\n  source: {{ kind: source, generate: tablets, rows: 3 }}\n{rest}")
}

fn keep_replies(folder: &Path) {
    let store = Store::open(&folder.join("store")).expect("a store");
    let replies: Replies = store.replies().expect("a folder of replies");
    let text = "dose ".repeat(REPLY_BYTES / 5);
    for number in 0..REPLIES {
        let digest = cache::Hasher::new("bench").raw(&number.to_le_bytes()).finish();
        replies.put(&ReplyAddress(Digest::from_bytes(*digest.as_bytes())), text.as_bytes()).expect("room for a reply");
    }
    replies.flush().expect("a disk that syncs");
}

fn decoct(folder: &Path, more: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
    command.args(["run", "recipe.yaml", "--cache", "store"]).args(more).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Median and shortest by the clock, and the CPU time of a run on all threads together.
fn report(what: &str, folder: &Path, more: &[&str]) {
    let before = children_cpu();
    let time = || {
        let started = Instant::now();
        decoct(folder, more);
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(|_| time()).collect();
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let cpu = (children_cpu() - before) / RUNS as u32;
    let (median, shortest) = (milliseconds(times[RUNS / 2]), milliseconds(times[0]));
    println!("{what:<44} {median:>8.1} ms, shortest {shortest:>7.1} ms · cpu {:>7.1} ms", milliseconds(cpu));
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

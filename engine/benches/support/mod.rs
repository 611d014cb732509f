//! What the benches of commands share: a store with a million replies, and a command timed by the clock and by the processor.

use cache::{Digest, Replies, ReplyAddress, Store};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REPLIES: usize = 1_000_000;
const REPLY_BYTES: usize = 1_300;

/// Fills the store up to a million replies, to questions that no one asks.
pub fn keep_replies(folder: &Path) {
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

pub fn decoct(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_decoct"));
    command.args(arguments).args(["--cache", "store"]).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Median and shortest of so many runs by the clock, and the CPU time of one on all threads together.
pub fn report(what: &str, runs: usize, folder: &Path, arguments: &[&str]) {
    let before = children_cpu();
    let time = || {
        let started = Instant::now();
        decoct(folder, arguments);
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..runs).map(|_| time()).collect();
    times.sort();
    let cpu = (children_cpu() - before) / runs as u32;
    let (median, shortest) = (milliseconds(times[runs / 2]), milliseconds(times[0]));
    println!("{what:<48} {median:>8.1} ms, shortest {shortest:>7.1} ms · cpu {:>7.1} ms", milliseconds(cpu));
}

pub fn milliseconds(time: Duration) -> f64 {
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

//! What the benches of commands share: a store with a million replies, and a command timed by the clock and by the processor.
#![allow(dead_code)] // each bench uses its part

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

/// What a process took from its start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mb: f64,
}

/// Runs a command to its good end.
#[allow(clippy::zombie_processes)] // `wait4` waits for it, and tells what it took
pub fn measured(command: &mut Command) -> Measured {
    let started = Instant::now();
    let child = command.stdout(Stdio::null()).spawn().expect("the program starts");
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() }); // SAFETY: all zeros is a value of it
    // SAFETY: both are valid for writes; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) };
    assert!(waited > 0 && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{command:?} failed: {status}");
    let cpu_seconds = (of(usage.ru_utime) + of(usage.ru_stime)).as_secs_f64();
    Measured { seconds: started.elapsed().as_secs_f64(), cpu_seconds, peak_mb: usage.ru_maxrss as f64 / 1024.0 }
}

fn of(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

fn children_cpu() -> Duration {
    // SAFETY: `usage` is valid for writes, and all zeros is a value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

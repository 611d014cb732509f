//! What the benches of this room share: time by the clock and by this thread's CPU (which a busy machine does not distort), and
//! one line a measurement.
#![allow(dead_code, reason = "each bench uses its part")]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

const REPEATS: usize = 5;
const TURNS: usize = 3;

#[derive(Clone, Copy, Default)]
pub struct Time {
    pub clock: Duration,
    pub cpu: Duration,
}

impl Time {
    pub fn now() -> Self {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let cpu_ns = statistics.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default();
        Self { clock: BEGIN.get_or_init(Instant::now).elapsed(), cpu: Duration::from_nanos(cpu_ns) }
    }

    pub fn of(run: impl FnOnce()) -> Self {
        let start = Self::now();
        run();
        Self::now() - start
    }

    /// Of several runs the one with the least CPU time.
    pub fn best(mut run: impl FnMut()) -> Self {
        (0..REPEATS).map(|_| Self::of(&mut run)).min_by_key(|time| time.cpu).expect("at least one repeat")
    }

    /// Of several runs the shortest by the clock: for work that waits for a disk.
    pub fn shortest(run: impl FnMut()) -> Self {
        Self::in_turns(run, || {}).0
    }

    /// The same of two kinds of work, one after the other and again: a shared disk is not equally fast all the time.
    pub fn in_turns(mut one: impl FnMut(), mut other: impl FnMut()) -> (Self, Self) {
        let times: Vec<_> = (0..TURNS).map(|_| (Self::of(&mut one), Self::of(&mut other))).collect();
        let shortest = |times: Vec<Self>| times.into_iter().min_by_key(|time| time.clock).expect("at least one turn");
        let (one, other) = times.into_iter().unzip();
        (shortest(one), shortest(other))
    }
}

impl std::ops::Sub for Time {
    type Output = Self;

    fn sub(self, start: Self) -> Self {
        Self { clock: self.clock - start.clock, cpu: self.cpu - start.cpu }
    }
}

impl std::ops::AddAssign for Time {
    fn add_assign(&mut self, more: Self) {
        self.clock += more.clock;
        self.cpu += more.cpu;
    }
}

/// `count` things in `time`, with thousands a second (a blob's things are MiB).
pub fn report(what: &str, count: usize, time: Time) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    // Some systems count a thread's CPU time in steps of milliseconds: what is shorter has no rate.
    let rate = |time: Duration| match time.is_zero() {
        true => "–".to_string(),
        false => format!("{:.1}", count as f64 / time.as_secs_f64() / 1e3),
    };
    let Time { clock, cpu } = time;
    println!(
        "{what:<28} {count:>7} · clock {:>8.1} ms {:>8} k/s · cpu {:>8.1} ms {:>8} k/s",
        milliseconds(clock),
        rate(clock),
        milliseconds(cpu),
        rate(cpu)
    );
}

/// How many times as long as `plain` it took, by the clock.
pub fn compare(what: &str, time: Time, plain: Time) {
    println!("{what:<28} {:.2} × the plain way", time.clock.as_secs_f64() / plain.clock.as_secs_f64());
}

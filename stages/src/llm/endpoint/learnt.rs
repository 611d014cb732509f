//! The rate that a server allows, learnt from what it refuses (429) where it tells no limit.
//!
//! From one moment at which the server lets something through again to the next, what it let through is its rate times the time between
//! them, whether it counts in windows or fills a bucket. So that is measured, kept to with a little less, and probed upwards: hardly at
//! first, then faster and faster, because a limit that is far away should be found soon and one that is near not be hit often.

use super::bucket::Bucket;
use std::time::{Duration, Instant};

/// So many refusals with nothing let through between them mean that nothing is allowed at this moment.
const REFUSED_IN_A_ROW: u32 = 4;
/// After such a moment, until so many were let through, one refusal means the same.
const PASSED_TO_RECOVER: u32 = 3;
/// The first pause where the server names none; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
const DOUBLINGS_MAX: u32 = 8;
/// A server may ask for a longer pause; nobody waits for more than this without looking again.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// What is measured is kept to with a little less.
const MARGIN: f64 = 0.98;
/// Upwards by 1 % within the first so many requests, 2 % more within the next, 4 % …
const GROWTH_REQUESTS: f64 = 300.0;
const GROWTH_SHARE: f64 = 0.01;
/// A first measurement from fewer requests than this says nothing.
const SAMPLE_MIN: u64 = 20;
/// After so many the measurement begins anew, to follow a limit that changes.
const SAMPLE_MAX: u64 = 200;
/// Where nobody wanted to send for so long, what was let through says nothing of the rate.
const IDLE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Learnt {
    pace: Option<Bucket>,
    sample: Sample,
    /// Set while nothing is allowed, except single probes.
    closed: Option<Closed>,
    /// When the allowance was last found used up.
    used_up_at: Option<Instant>,
    in_a_row: u32,
    passed_since: u32,
    doublings: u32,
    /// Requests let through since the pace was last lowered.
    grown: u32,
    weather: Weather,
}

#[derive(Debug)]
struct Sample {
    since: Instant,
    sent: u64,
    refused: u64,
    /// Begins where the server let something through again: then it measures the rate itself, and else no less than the rate.
    is_exact: bool,
    last_sent: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    until: Instant,
    /// Between probes.
    pause: Duration,
    /// The server said until when.
    is_told: bool,
}

/// Tells refusals that come whatever the rate from those that a lower rate ends.
#[derive(Debug, Default)]
struct Weather {
    outcomes: u32,
    refused: u32,
    bad_rounds: u32,
    /// For so many outcomes more, no pace is learnt.
    ignore: u32,
}

impl Learnt {
    pub fn new(now: Instant) -> Learnt {
        Learnt {
            pace: None,
            sample: Sample { since: now, sent: 0, refused: 0, is_exact: false, last_sent: None },
            closed: None,
            used_up_at: None,
            in_a_row: 0,
            passed_since: 0,
            doublings: 0,
            grown: 0,
            weather: Weather::default(),
        }
    }

    /// When the next may go; `None` for now.
    pub fn free_at(&mut self, now: Instant) -> Option<Instant> {
        match &self.closed {
            Some(closed) => (now < closed.until).then_some(closed.until),
            None => self.pace.as_mut()?.free_at(now),
        }
    }

    /// Whether nothing is allowed at this moment but single probes.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    pub fn sent(&mut self, now: Instant) {
        let idle_since = self.sample.last_sent.max(self.closed.as_ref().map(|closed| closed.until));
        if self.sample.sent == 0 || idle_since.is_some_and(|since| now.saturating_duration_since(since) > IDLE) {
            self.sample.restart(now, false);
        }
        self.sample.sent += 1;
        self.sample.last_sent = Some(now);
        if let Some(pace) = &mut self.pace {
            pace.take(1.0);
        }
        if let Some(closed) = &mut self.closed {
            closed.until = now + closed.pause;
        }
    }

    /// The server let this one through, whatever became of it.
    pub fn passed(&mut self, sent_at: Instant, now: Instant) {
        self.in_a_row = 0;
        if self.weather.is_only_that(false) {
            self.forget(now);
        }
        if self.used_up_at.is_some_and(|at| sent_at < at) {
            return;
        }
        self.passed_since = self.passed_since.saturating_add(1);
        if self.passed_since >= PASSED_TO_RECOVER {
            self.doublings = 0;
        }
        if let Some(closed) = self.closed.take() {
            self.reopen(sent_at, closed.is_told, now);
        }
        self.grow(now);
    }

    /// 429. Whether nothing at all is allowed at this moment, and no pace known that will see to it.
    pub fn refused(&mut self, sent_at: Instant, retry_after: Option<Duration>, now: Instant) -> bool {
        self.sample.refused += 1;
        self.in_a_row += 1;
        if self.weather.is_only_that(true) {
            self.forget(now);
        }
        if self.used_up_at.is_some_and(|at| sent_at < at) {
            return false;
        }
        let recovering = self.used_up_at.is_some() && self.passed_since < PASSED_TO_RECOVER;
        let told = self.pace.is_some() && retry_after.is_some();
        let used_up = self.closed.is_some() || recovering || told || self.in_a_row >= REFUSED_IN_A_ROW;
        match used_up {
            true => self.close(retry_after, now),
            false => self.slow_down(now),
        }
        used_up && self.pace.is_none()
    }

    fn close(&mut self, retry_after: Option<Duration>, now: Instant) {
        let doubled = PAUSE * (1 << self.doublings);
        let pause = retry_after.unwrap_or(doubled).min(LONGEST_PAUSE);
        if retry_after.is_none() {
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        }
        let between = if retry_after.is_some() { PAUSE } else { doubled };
        self.closed = Some(Closed { until: now + pause, pause: between, is_told: retry_after.is_some() });
        self.used_up_at = Some(now);
        self.passed_since = 0;
    }

    /// A request that was sent at `at` was let through again: now the time that was waited for counts as well.
    fn reopen(&mut self, at: Instant, is_told: bool, now: Instant) {
        if self.pace.is_none() && self.weather.ignore == 0 && self.sample.passed() >= SAMPLE_MIN {
            self.pace = Some(Bucket::new(MARGIN * self.sample.per_second(now), now));
            self.grown = 0;
        }
        match (self.sample.is_exact, is_told) {
            (false, _) => self.sample.begin_with(at),
            (true, false) => self.slow_down(now),
            (true, true) => self.keep_to_told(at, now),
        }
    }

    /// To what was measured, but never to less than an eighth at once.
    fn slow_down(&mut self, now: Instant) {
        let Some(pace) = &mut self.pace else { return };
        let before = pace.per_second();
        let measured = match self.sample.is_exact {
            true => MARGIN * self.sample.per_second(now),
            false => before * (1.0 - GROWTH_SHARE),
        };
        if measured < before {
            pace.set_rate(measured.max(before / 8.0), now);
            self.grown = 0;
        }
        if self.sample.passed() >= SAMPLE_MAX {
            self.sample.restart(now, true);
        }
    }

    /// A server that says when the next one fits is asked no sooner: then both ends of the sample are exact, and so is its rate, however
    /// few requests it holds. What the request at `at` took was all that there was.
    fn keep_to_told(&mut self, at: Instant, now: Instant) {
        let Some(pace) = &mut self.pace else { return };
        let measured = MARGIN * self.sample.per_second_until(at);
        if measured < pace.per_second() {
            self.grown = 0;
        }
        *pace = Bucket::new(measured.min(pace.per_second()), now);
        pace.take(1.0);
        if self.sample.passed() >= SAMPLE_MAX {
            self.sample.begin_with(at);
        }
    }

    fn grow(&mut self, now: Instant) {
        let Some(pace) = &mut self.pace else { return };
        self.grown = self.grown.saturating_add(1);
        let doublings = (f64::from(self.grown) / GROWTH_REQUESTS).min(5.0);
        let step = GROWTH_SHARE * std::f64::consts::LN_2 / GROWTH_REQUESTS * doublings.exp2();
        pace.set_rate(pace.per_second() * (1.0 + step), now);
    }

    fn forget(&mut self, now: Instant) {
        self.pace = None;
        self.sample.restart(now, false);
    }
}

impl Sample {
    fn restart(&mut self, now: Instant, is_exact: bool) {
        (self.since, self.sent, self.refused, self.is_exact) = (now, 0, 0, is_exact);
    }

    /// With the request that was let through again first.
    fn begin_with(&mut self, at: Instant) {
        self.restart(at, true);
        self.sent = 1;
    }

    /// From the first request to the one sent at `at`, which is let through as soon as the allowance has grown by it.
    fn per_second_until(&self, at: Instant) -> f64 {
        let seconds = at.saturating_duration_since(self.since).as_secs_f64().max(1e-3);
        self.passed().saturating_sub(1).max(1) as f64 / seconds
    }

    /// Refusals come at once, answers may take long: what is not refused yet was let through.
    fn passed(&self) -> u64 {
        self.sent.saturating_sub(self.refused)
    }

    fn per_second(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64().max(1e-3);
        (self.passed() + 1) as f64 / seconds
    }
}

impl Weather {
    const ROUND: u32 = 200;
    const REFUSED_MAX: u32 = Self::ROUND / 20;
    const BAD_ROUNDS: u32 = 3;
    const IGNORE: u32 = 4000;

    /// Counts an outcome. True once refusals went on through several rounds although the pace was lowered.
    fn is_only_that(&mut self, refused: bool) -> bool {
        self.ignore = self.ignore.saturating_sub(1);
        self.outcomes += 1;
        self.refused += u32::from(refused);
        if self.outcomes < Self::ROUND {
            return false;
        }
        let is_bad = self.refused > Self::REFUSED_MAX;
        self.bad_rounds = if is_bad { self.bad_rounds + 1 } else { 0 };
        (self.outcomes, self.refused) = (0, 0);
        if self.bad_rounds < Self::BAD_ROUNDS {
            return false;
        }
        (self.bad_rounds, self.ignore) = (0, Self::IGNORE);
        true
    }
}

//! The gate against servers that count in windows or fill buckets, in simulated time: a minute takes a moment and nothing depends on
//! the machine.

use super::Bearing;
use super::gate::{Ending, Entry, Gate, Ticket};
use super::limits::{Declared, Size};
use super::told::Said;
use crate::llm::{Patience, Usage};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

const BEARING: Bearing =
    Bearing { patience: Patience { tries: 6, pause_ms: 500, pause_max_ms: 30_000 }, outage: Duration::from_secs(300) };

/// How a server counts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Counting {
    /// All of it at the beginning of each window.
    Window,
    /// A bucket of this size that fills evenly.
    Bucket(f64),
    /// Whatever the rate, this share at random.
    Weather(f64),
    /// No more than so many at once.
    AtOnce(usize),
}

/// What a server tells beside refusing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Telling {
    Nothing,
    RetryAfter,
    Headers,
}

struct Server {
    counting: Counting,
    telling: Telling,
    limit: f64,
    window_s: f64,
    left: f64,
    at_s: f64,
    in_flight: usize,
    drawn: u64,
}

impl Server {
    fn new(counting: Counting, telling: Telling, limit: f64, window_s: f64) -> Server {
        let left = if let Counting::Bucket(size) = counting { size } else { limit };
        Server { counting, telling, limit, window_s, left, at_s: 0.0, in_flight: 0, drawn: 0 }
    }

    fn refill(&mut self, now_s: f64) {
        match self.counting {
            Counting::Window if (now_s / self.window_s).floor() > (self.at_s / self.window_s).floor() => {
                self.left = self.limit
            }
            Counting::Bucket(size) => {
                self.left = (self.left + (now_s - self.at_s) * self.limit / self.window_s).min(size)
            }
            _ => {}
        }
        self.at_s = now_s;
    }

    fn takes(&mut self, now_s: f64) -> bool {
        self.refill(now_s);
        self.drawn += 1;
        match self.counting {
            Counting::Weather(share) => crate::draw::Draw::new(self.drawn, "weather").unit() >= share,
            Counting::AtOnce(most) => self.in_flight < most,
            _ if self.left < 1.0 => false,
            _ => {
                self.left -= 1.0;
                true
            }
        }
    }

    fn retry_after(&self, now_s: f64) -> Option<Duration> {
        let seconds = match self.counting {
            Counting::Window => self.window_s - now_s % self.window_s,
            _ => (1.0 - self.left).max(0.0) * self.window_s / self.limit,
        };
        (self.telling == Telling::RetryAfter).then(|| Duration::from_secs_f64(seconds))
    }

    fn headers(&self, now_s: f64) -> Option<Said> {
        let (size, reset_s) = match self.counting {
            Counting::Bucket(size) => (size, (size - self.left) * self.window_s / self.limit),
            _ => (self.limit, self.window_s - now_s % self.window_s),
        };
        let said = Said { limit: size, left: Some((self.left.floor(), Duration::from_secs_f64(reset_s))) };
        (self.telling == Telling::Headers).then_some(said)
    }
}

/// What a run came to.
#[derive(Debug)]
struct Outcome {
    answered: usize,
    refused: usize,
    seconds: f64,
    in_flight_max: usize,
}

impl Outcome {
    fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    fn refused_share(&self) -> f64 {
        self.refused as f64 / (self.answered + self.refused) as f64
    }
}

/// Sends `requests` as fast as the gate allows; answers take `latency_s`, refusals half a millisecond.
fn simulate(mut server: Server, declared: Declared, requests: usize, latency_s: f64) -> Outcome {
    const REFUSAL_S: f64 = 0.0005;
    let start = Instant::now();
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let mut gate = Gate::new("it".to_string());
    let lane = gate.lane("m", &declared, start);
    let usage = Usage { tokens_in: 100, tokens_cached: 0, tokens_out: 100 };
    let mut flying: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut tickets: Vec<Option<(Ticket, bool, Option<Duration>, Option<Said>)>> = Vec::new();
    let (mut now_s, mut waiting) = (0.0f64, requests);
    let mut outcome = Outcome { answered: 0, refused: 0, seconds: 0.0, in_flight_max: 0 };
    while outcome.answered < requests {
        let mut next_s = f64::INFINITY;
        while waiting > 0 {
            match gate.enter(lane, Size { prompt_bytes: 400, tokens_out_max: Some(100) }, at(now_s)) {
                Entry::Go(ticket) => {
                    waiting -= 1;
                    let taken = server.takes(now_s);
                    server.in_flight += usize::from(taken);
                    outcome.in_flight_max = outcome.in_flight_max.max(server.in_flight);
                    let back_s = now_s + if taken { latency_s } else { REFUSAL_S };
                    flying.push(Reverse(((back_s * 1e9) as u64, tickets.len())));
                    let (retry_after, headers) = (server.retry_after(now_s), server.headers(now_s));
                    tickets.push(Some((ticket, taken, retry_after, headers)));
                }
                Entry::Wait(until, _) => {
                    next_s = until.map_or(f64::INFINITY, |until| (until - start).as_secs_f64() + 1e-9);
                    break;
                }
                Entry::Never(why) => panic!("it gave up: {why}"),
            }
        }
        let landing_s = flying.peek().map_or(f64::INFINITY, |Reverse((ns, _))| *ns as f64 / 1e9);
        now_s = now_s.max(landing_s.min(next_s));
        assert!(now_s < 1e5, "it never ends: {outcome:?}");
        if landing_s <= now_s {
            let Reverse((_, index)) = flying.pop().unwrap();
            let (ticket, taken, retry_after, headers) = tickets[index].take().unwrap();
            gate.hear(
                lane,
                headers,
                None,
                Duration::from_secs_f64(if taken { latency_s } else { REFUSAL_S }),
                at(now_s),
            );
            if taken {
                server.in_flight -= 1;
                outcome.answered += 1;
                gate.leave(ticket, &Ending::Answered(&usage), &BEARING, at(now_s));
            } else {
                outcome.refused += 1;
                waiting += 1;
                gate.leave(ticket, &Ending::Refused(retry_after), &BEARING, at(now_s));
            }
        }
    }
    outcome.seconds = now_s;
    outcome
}

fn declared(requests_per_minute: Option<f64>) -> Declared {
    Declared { concurrency: 64, requests_per_minute, ..Declared::default() }
}

/// The least share of the allowed rate that is used, and the largest share of requests that are refused.
struct Bounds {
    used_min: f64,
    refused_max: f64,
}

/// 600 a minute for ten minutes.
fn check(counting: Counting, telling: Telling, declared: Declared, latency_s: f64, bounds: Bounds) {
    let outcome = simulate(Server::new(counting, telling, 600.0, 60.0), declared, 6000, latency_s);
    let used = outcome.per_second() / 10.0;
    let story = format!("{counting:?}, {telling:?}, {latency_s} s: used {used:.3} of the rate; {outcome:?}");
    assert!(used >= bounds.used_min && outcome.refused_share() <= bounds.refused_max, "{story}");
}

const COUNTINGS: [Counting; 3] = [Counting::Window, Counting::Bucket(600.0), Counting::Bucket(10.0)];
const LATENCIES_S: [f64; 2] = [0.0003, 2.0];

#[test]
fn a_declared_limit_is_used_and_not_passed() {
    for (counting, latency_s) in pairs() {
        for telling in [Telling::Nothing, Telling::RetryAfter, Telling::Headers] {
            let bounds = Bounds { used_min: 0.95, refused_max: 0.0 };
            check(counting, telling, declared(Some(600.0)), latency_s, bounds);
        }
    }
}

#[test]
fn a_limit_that_headers_tell_is_used_and_not_passed() {
    for (counting, latency_s) in pairs() {
        check(counting, Telling::Headers, declared(None), latency_s, Bounds { used_min: 0.95, refused_max: 0.01 });
    }
}

/// What is in flight when a server refuses for the first time is refused as well: at most 64 of these 6000.
#[test]
fn a_limit_that_only_refusals_tell_is_learnt() {
    const FIRST: f64 = 64.0 / 6000.0;
    for (counting, latency_s) in pairs() {
        // A bucket of one second, answered after two: who never hears of it finds it slowly.
        let is_hard = counting == Counting::Bucket(10.0) && latency_s > 1.0;
        let used_min = if is_hard { 0.6 } else { 0.95 };
        let bounds = Bounds { used_min, refused_max: FIRST + 0.012 };
        check(counting, Telling::RetryAfter, declared(None), latency_s, bounds);
        let bounds = Bounds { used_min: if is_hard { 0.6 } else { 0.8 }, refused_max: FIRST + 0.01 };
        check(counting, Telling::Nothing, declared(None), latency_s, bounds);
    }
}

/// A bucket that is full lets all of it through at once, and then says no more than when the next one fits: what is in flight at that
/// moment is refused, and little after it.
#[test]
fn who_is_told_when_the_next_one_fits_is_refused_little() {
    let declared = Declared { concurrency: 8, ..Declared::default() };
    for latency_s in [0.0003, 0.05] {
        let server = Server::new(Counting::Bucket(600.0), Telling::RetryAfter, 600.0, 60.0);
        let outcome = simulate(server, declared, 1800, latency_s);
        assert!(outcome.per_second() >= 0.95 * 10.0 && outcome.refused_share() < 0.01, "{latency_s}: {outcome:?}");
    }
}

#[test]
fn refusals_that_are_not_for_the_rate_leave_most_of_the_speed() {
    for (counting, per_second_min) in
        [(Counting::AtOnce(8), 0.7 * 8.0 / 0.05), (Counting::Weather(0.1), 0.3 * 64.0 / 0.05)]
    {
        for telling in [Telling::Nothing, Telling::RetryAfter] {
            let outcome = simulate(Server::new(counting, telling, 1.0, 0.02), declared(None), 20_000, 0.05);
            assert!(outcome.per_second() >= per_second_min, "{counting:?}, {telling:?}: {outcome:?}");
        }
    }
}

fn pairs() -> impl Iterator<Item = (Counting, f64)> {
    COUNTINGS.into_iter().flat_map(|counting| LATENCIES_S.map(|latency_s| (counting, latency_s)))
}

/// Models have limits of their own at one endpoint; entries for one model share the stricter ones, and all share the room.
#[test]
fn the_stricter_of_two_declarations_counts_and_another_model_has_its_own() {
    let start = Instant::now();
    let mut gate = Gate::new("it".to_string());
    let all = Declared { concurrency: 4, requests_per_minute: Some(6.0), ..Declared::default() };
    let lane = gate.lane("m", &all, start);
    let fewer = Declared { concurrency: 3, tokens_per_minute: Some(60.0), ..Declared::default() };
    assert_eq!(gate.lane("m", &fewer, start), lane);
    let other = gate.lane("n", &Declared { requests_per_minute: None, ..all }, start);
    assert_ne!(other, lane);
    let size = Size { prompt_bytes: 400, tokens_out_max: Some(20) };
    let mut enter = |lane, now| matches!(gate.enter(lane, size, now), Entry::Go(_));
    assert!(enter(lane, start));
    let later = |seconds| start + Duration::from_secs(seconds);
    assert!(!enter(lane, later(20)), "by now requests would do, tokens would not");
    assert!(enter(lane, later(125)), "120 tokens at 60 a minute");
    assert!(enter(other, start) && enter(other, start), "another model waits for neither");
    assert!(!enter(other, start), "four are in flight, and no entry wants more");
}

#[test]
fn a_copy_goes_at_once_or_not_at_all() {
    let start = Instant::now();
    let size = Size { prompt_bytes: 400, tokens_out_max: Some(20) };
    let mut gate = Gate::new("it".to_string());
    let room = Declared { concurrency: 4, places_for_copies: 1, ..Declared::default() };
    let lane = gate.lane("m", &room, start);
    assert!((0..3).all(|_| matches!(gate.enter(lane, size, start), Entry::Go(_))));
    assert!(matches!(gate.enter(lane, size, start), Entry::Wait(None, _)), "the fourth place is kept for a copy");
    let copy = gate.enter_copy(lane, size, start).expect("there is a place");
    assert!(gate.enter_copy(lane, size, start).is_none(), "four are in flight");
    gate.leave(copy, &Ending::Abandoned, &BEARING, start);
    let words = "status 502";
    for _ in 0..20 {
        let copy = gate.enter_copy(lane, size, start);
        let Some(copy) = copy else { break };
        gate.leave(copy, &Ending::Failed { words, is_crowded: false }, &BEARING, start);
    }
    assert!(gate.is_out() && gate.enter_copy(lane, size, start).is_none());
    let later = start + Duration::from_secs(3600);
    assert!(gate.enter_copy(lane, size, later).is_none(), "it is no probe");
}

#[test]
fn a_copy_takes_from_declared_limits_and_waits_for_none() {
    let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(2));
    let size = Size { prompt_bytes: 400, tokens_out_max: Some(20) };
    let all = Declared { concurrency: 8, places_for_copies: 1, ..Declared::default() };
    let by_requests = Declared { requests_per_minute: Some(60.0), ..all };
    let by_tokens = Declared { tokens_per_minute: Some(120.0 * 60.0), ..all };
    for declared in [by_requests, by_tokens] {
        let mut gate = Gate::new("it".to_string());
        let lane = gate.lane("m", &declared, start);
        assert!(matches!(gate.enter(lane, size, start), Entry::Go(_)));
        assert!(gate.enter_copy(lane, size, start).is_none(), "the next may go after a second");
        let copy = gate.enter_copy(lane, size, later).expect("now it may");
        gate.leave(copy, &Ending::Abandoned, &BEARING, later);
        assert!(
            matches!(gate.enter(lane, size, later), Entry::Wait(Some(_), _)),
            "a copy that was left has taken its share"
        );
    }
}

#[test]
fn tokens_are_reserved_by_an_estimate_and_corrected_by_what_was_used() {
    let start = Instant::now();
    let mut gate = Gate::new("it".to_string());
    let declared = Declared { concurrency: 64, tokens_per_minute: Some(60_000.0), ..Declared::default() };
    let lane = gate.lane("m", &declared, start);
    let usage = Usage { tokens_in: 100, tokens_cached: 0, tokens_out: 100 };
    let (mut now, mut count) = (start, 0);
    while now < start + Duration::from_secs(600) {
        match gate.enter(lane, Size { prompt_bytes: 400, tokens_out_max: Some(8000) }, now) {
            Entry::Go(ticket) => {
                count += 1;
                gate.leave(ticket, &Ending::Answered(&usage), &BEARING, now);
            }
            Entry::Wait(until, _) => now = until.unwrap(),
            Entry::Never(why) => panic!("{why}"),
        }
    }
    assert!((2900..=3000).contains(&count), "200 tokens each of 60,000 a minute in ten minutes, not 8,100: {count}");
}

#[test]
fn the_allowance_for_sending_again_is_earned_by_answers() {
    let mut gate = Gate::new("the server".to_string());
    let spent = (0..).take_while(|_| gate.may_retry(0.5)).count();
    assert_eq!(spent, 200);
    assert!(gate.given_up().unwrap().contains("`retries_per_answer: 0.5`"));
    let mut gate = Gate::new("the server".to_string());
    for _ in 0..100_000 {
        gate.earn_retries(1.0);
        assert!(gate.may_retry(1.0), "one answer pays for one more");
    }
}

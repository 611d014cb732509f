//! Whether a server is out: after many failures in a row only single probes go to it, until one is answered or patience ends.

use crate::draw::Draw;
use crate::llm::Patience;
use std::time::{Duration, Instant};

/// As many requests in succession without an answer, beside those in flight when the first failed, are an outage.
const OUTAGE_FAILURES: u32 = 8;

/// How long to bear with a server.
#[derive(Debug, Clone, Copy)]
pub struct Bearing {
    pub patience: Patience,
    /// From the first failure on. A server that never answered is only asked as often as a row would be.
    pub outage: Duration,
}

#[derive(Debug, Default)]
pub struct Breaker {
    ever_answered: bool,
    /// Since the last answer: the first request that got none, and how many followed.
    silence: Option<Silence>,
    outage: Option<Outage>,
    /// How many there were.
    outages: u64,
}

#[derive(Debug)]
struct Silence {
    since: Instant,
    in_flight: u32,
    failures: u32,
    refusals: u32,
}

#[derive(Debug)]
struct Outage {
    probes: u32,
    is_probing: bool,
    next_probe: Instant,
    reason: String,
}

/// Whether a request may go to a server that may be out.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    Open,
    /// It is out; this one may be the probe.
    Probe,
    /// It is out: wait, at most until then.
    Shut(Option<Instant>),
}

impl Breaker {
    pub fn way(&self, now: Instant) -> Way {
        match &self.outage {
            None => Way::Open,
            Some(outage) if outage.is_probing => Way::Shut(None),
            Some(outage) if now < outage.next_probe => Way::Shut(Some(outage.next_probe)),
            Some(_) => Way::Probe,
        }
    }

    /// Why it is out, where it is.
    pub fn reason(&self) -> Option<&str> {
        self.outage.as_ref().map(|outage| outage.reason.as_str())
    }

    pub fn is_out(&self) -> bool {
        self.outage.is_some()
    }

    pub fn probe_began(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.is_probing = true;
        }
    }

    /// A request, perhaps the probe, ended without telling anything.
    pub fn abandoned(&mut self, is_probe: bool) {
        if let Some(outage) = self.outage.as_mut().filter(|_| is_probe) {
            outage.is_probing = false;
        }
    }

    pub fn answered(&mut self) {
        self.ever_answered = true;
        self.silence = None;
        self.outage = None;
    }

    /// 429: the server lives, but if it says nothing else for as long as an outage may take, that is one.
    pub fn refused(&mut self, in_flight: usize, bearing: &Bearing, now: Instant) -> bool {
        let silence = Silence::note(&mut self.silence, in_flight, now);
        silence.refusals += 1;
        silence.failures = 0;
        self.outage = None;
        silence.all() > OUTAGE_FAILURES + silence.in_flight && now - silence.since >= bearing.outage
    }

    /// A request, perhaps the probe, got no answer, for the reason in `words`. Whether it is time to give up.
    pub fn failed(&mut self, in_flight: usize, is_probe: bool, bearing: &Bearing, words: &str, now: Instant) -> bool {
        let silence = Silence::note(&mut self.silence, in_flight, now);
        silence.failures += 1;
        let (silent_for, all) = (now - silence.since, silence.all());
        let is_outage = silence.failures >= OUTAGE_FAILURES + silence.in_flight;
        let Some(outage) = &mut self.outage else {
            if is_outage {
                self.outages += 1;
                let next_probe = now + pause_before(1, self.outages, &bearing.patience);
                let reason = format!("{all} requests in a row got no answer, the last because: {words}");
                self.outage = Some(Outage { probes: 0, is_probing: false, next_probe, reason });
            }
            return false;
        };
        if is_probe {
            outage.is_probing = false;
            outage.probes += 1;
            outage.next_probe = now + pause_before(outage.probes + 1, self.outages, &bearing.patience);
        }
        match self.ever_answered {
            true => silent_for >= bearing.outage,
            false => outage.probes >= bearing.patience.tries,
        }
    }
}

impl Silence {
    fn note(silence: &mut Option<Silence>, in_flight: usize, now: Instant) -> &mut Silence {
        let in_flight = in_flight as u32;
        silence.get_or_insert(Silence { since: now, in_flight, failures: 0, refusals: 0 })
    }

    fn all(&self) -> u32 {
        self.failures + self.refusals
    }
}

fn pause_before(probe: u32, outage: u64, patience: &Patience) -> Duration {
    let share = Draw::new(outage, "probe").at(probe.into()).unit();
    Duration::from_millis((patience.doubled_ms(probe) as f64 * (0.5 + share / 2.0)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEARING: Bearing = Bearing {
        patience: Patience { tries: 4, pause_ms: 1000, pause_max_ms: 8000 },
        outage: Duration::from_secs(120),
    };

    /// Fails until it is open, then probe after probe; how many probes it took to give up, and how long.
    fn give_up(breaker: &mut Breaker, start: Instant) -> (u32, Duration) {
        let (mut now, mut probes) = (start, 0);
        for _ in 0..OUTAGE_FAILURES + 5 {
            assert!(!breaker.failed(5, false, &BEARING, "reset", now));
        }
        assert!(breaker.is_out());
        loop {
            match breaker.way(now) {
                Way::Open => panic!("it is out"),
                Way::Shut(until) => now = until.expect("nobody else probes"),
                Way::Probe => {
                    breaker.probe_began();
                    assert_eq!(breaker.way(now), Way::Shut(None), "one probe at a time");
                    probes += 1;
                    if breaker.failed(0, true, &BEARING, "reset", now) {
                        return (probes, now - start);
                    }
                }
            }
        }
    }

    #[test]
    fn a_server_that_never_answered_is_probed_as_often_as_a_row_is_tried() {
        assert_eq!(give_up(&mut Breaker::default(), Instant::now()).0, BEARING.patience.tries);
    }

    #[test]
    fn a_server_that_answered_once_gets_the_time_of_an_outage() {
        let mut breaker = Breaker::default();
        breaker.answered();
        let (probes, time) = give_up(&mut breaker, Instant::now());
        assert!(time >= BEARING.outage && time < BEARING.outage + Duration::from_secs(9), "{time:?}");
        assert!((15..60).contains(&probes), "{probes}");
    }

    #[test]
    fn fewer_failures_than_were_in_flight_are_none_and_an_answer_ends_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..50 {
            (0..70).for_each(|_| _ = breaker.failed(64, false, &BEARING, "reset", now));
            assert!(!breaker.is_out());
            breaker.answered();
        }
        (0..72).for_each(|_| _ = breaker.failed(64, false, &BEARING, "status 502", now));
        assert!(
            breaker.reason().unwrap().contains("72 requests in a row") && breaker.reason().unwrap().contains("502")
        );
        breaker.answered();
        assert_eq!(breaker.way(now), Way::Open);
    }

    #[test]
    fn refusals_alone_are_an_outage_only_when_nothing_else_comes_for_long() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let later = start + BEARING.outage;
        (0..200).for_each(|_| assert!(!breaker.refused(5, &BEARING, start)));
        assert!(!breaker.is_out());
        assert!(breaker.refused(5, &BEARING, later));
        breaker.answered();
        assert!(!breaker.refused(5, &BEARING, later));
    }
}

//! Who may send now: the limits of each model at an endpoint, the breaker, and the allowance for sending again, in one place behind
//! one lock. Knows no clock and waits for nothing: time is handed in.

use super::breaker::{Bearing, Breaker, Way};
use super::limits::{Declared, Limits, Size};
use super::told::Said;
use crate::llm::Usage;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that may be sent again before any was answered, and at most as many more than answers have earned.
const RETRIES_AT_FIRST: f64 = 200.0;
const RETRIES_SAVED_MAX: f64 = 2000.0;

#[derive(Debug)]
pub struct Gate {
    /// Of the server, for people.
    name: String,
    lanes: Vec<(String, Limits)>,
    in_flight: usize,
    breaker: Breaker,
    /// The outage that is going on: since when, and how it is told.
    outage: Option<(Instant, Arc<str>)>,
    /// How the end of the last outage is told.
    back: Option<Arc<str>>,
    retries_left: f64,
    given_up: Option<Arc<str>>,
}

#[derive(Debug)]
pub enum Entry {
    Go(Ticket),
    /// Not now; look again when something has changed, or at this time. With what the user should know.
    Wait(Option<Instant>, Option<Arc<str>>),
    Never(Arc<str>),
}

/// The right to send one request; must be given back.
#[derive(Debug)]
pub struct Ticket {
    lane: usize,
    size: Size,
    sent_at: Instant,
    tokens: f64,
    is_probe: bool,
}

/// What became of a request.
#[derive(Debug)]
pub enum Ending<'a> {
    Answered(&'a Usage),
    /// The server read it and wants it otherwise (400, 401, …): it lives.
    Rejected,
    /// 429.
    Refused(Option<Duration>),
    /// Nothing, or nothing that can be used; `is_crowded` where it came too late or the server had too much to do.
    Failed {
        words: &'a str,
        is_crowded: bool,
    },
    /// We left.
    Abandoned,
}

impl Gate {
    pub fn new(name: String) -> Gate {
        Gate {
            name,
            lanes: Vec::new(),
            in_flight: 0,
            breaker: Breaker::default(),
            outage: None,
            back: None,
            retries_left: RETRIES_AT_FIRST,
            given_up: None,
        }
    }

    /// The lane of a model; declared once more, the stricter limits count.
    pub fn lane(&mut self, model: &str, declared: &Declared, now: Instant) -> usize {
        if let Some(lane) = self.lanes.iter().position(|(name, _)| name == model) {
            self.lanes[lane].1.tighten(declared, now);
            return lane;
        }
        self.lanes.push((model.to_string(), Limits::new(declared, now)));
        self.lanes.len() - 1
    }

    pub fn enter(&mut self, lane: usize, size: Size, now: Instant) -> Entry {
        if let Some(why) = &self.given_up {
            return Entry::Never(why.clone());
        }
        let way = self.breaker.way(now);
        if let Way::Shut(until) = way {
            return Entry::Wait(until, self.outage.as_ref().map(|(_, notice)| notice.clone()));
        }
        let is_full = self.is_full();
        let limits = &mut self.lanes[lane].1;
        if is_full || !limits.has_room() {
            return Entry::Wait(None, None);
        }
        if let Some(until) = limits.free_at(now) {
            return Entry::Wait(Some(until), None);
        }
        let is_probe = way == Way::Probe;
        if is_probe {
            self.breaker.probe_began();
        }
        Entry::Go(self.ticket(lane, size, is_probe, now))
    }

    /// A second copy of a request that is in flight, which goes now or not at all and probes nothing.
    pub fn enter_copy(&mut self, lane: usize, size: Size, now: Instant) -> Option<Ticket> {
        let is_well = self.given_up.is_none() && self.breaker.way(now) == Way::Open;
        let may_go = is_well && !self.is_full() && self.lanes[lane].1.has_room_for_copy(now);
        may_go.then(|| self.ticket(lane, size, false, now))
    }

    fn is_full(&self) -> bool {
        let in_flight_max = self.lanes.iter().map(|(_, limits)| limits.window.max()).max().unwrap_or(1);
        self.in_flight >= in_flight_max
    }

    fn ticket(&mut self, lane: usize, size: Size, is_probe: bool, now: Instant) -> Ticket {
        self.in_flight += 1;
        let tokens = self.lanes[lane].1.enter(&size, now);
        Ticket { lane, size, sent_at: now, tokens, is_probe }
    }

    /// Gives a ticket back; returns what the user should know now.
    pub fn leave(&mut self, ticket: Ticket, ending: &Ending, bearing: &Bearing, now: Instant) -> Option<Arc<str>> {
        let Ticket { lane, size, sent_at, tokens, is_probe } = ticket;
        let limits = &mut self.lanes[lane].1;
        limits.in_flight -= 1;
        self.in_flight -= 1;
        match ending {
            Ending::Answered(usage) => limits.answered(&size, tokens, usage, sent_at, now),
            Ending::Rejected => limits.answered(&size, tokens, &Usage::default(), sent_at, now),
            Ending::Refused(retry_after) => limits.refused(tokens, *retry_after, sent_at, now),
            Ending::Failed { is_crowded, .. } => limits.failed(*is_crowded, sent_at, now),
            Ending::Abandoned => {}
        }
        self.judge(ending, is_probe, bearing, now)
    }

    /// Whether one more request may be sent again; each answered one has earned `per_answer`. Costs nothing during an outage.
    pub fn may_retry(&mut self, per_answer: f64) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        if self.breaker.is_out() {
            return true;
        }
        self.retries_left -= 1.0;
        if self.retries_left < 0.0 {
            self.given_up = Some(
                format!(
                    "{} leaves too many requests without an answer: this run's allowance for sending again is used up \
                     (`retries_per_answer: {per_answer}` for each answered one; raise it to insist)",
                    self.name
                )
                .into(),
            );
        }
        self.given_up.is_none()
    }

    pub fn earn_retries(&mut self, per_answer: f64) {
        self.retries_left = (self.retries_left + per_answer).min(RETRIES_SAVED_MAX);
    }

    pub fn given_up(&self) -> Option<Arc<str>> {
        self.given_up.clone()
    }

    pub fn is_out(&self) -> bool {
        self.breaker.is_out()
    }

    /// The sentence about the last outage that ended.
    pub fn back(&self) -> Option<Arc<str>> {
        self.back.clone()
    }

    pub fn hear(&mut self, lane: usize, requests: Option<Said>, tokens: Option<Said>, age: Duration, now: Instant) {
        self.lanes[lane].1.hear(requests, tokens, age, now);
    }

    fn judge(&mut self, ending: &Ending, is_probe: bool, bearing: &Bearing, now: Instant) -> Option<Arc<str>> {
        let in_flight = self.in_flight;
        let (is_over, words) = match ending {
            Ending::Answered(_) | Ending::Rejected => {
                self.breaker.answered();
                (false, "")
            }
            Ending::Refused(_) => (self.breaker.refused(in_flight, bearing, now), "it refuses every request (429)"),
            Ending::Failed { words, .. } => (self.breaker.failed(in_flight, is_probe, bearing, words, now), *words),
            Ending::Abandoned => {
                self.breaker.abandoned(is_probe);
                (false, "")
            }
        };
        if is_over && self.given_up.is_none() {
            self.given_up = Some(format!("no answer from {} any more: {words}", self.name).into());
        }
        self.news(bearing, now)
    }

    /// The sentence about an outage that began or ended just now.
    fn news(&mut self, bearing: &Bearing, now: Instant) -> Option<Arc<str>> {
        match (&self.outage, self.breaker.reason()) {
            (None, Some(reason)) => {
                let patience_s = bearing.outage.as_secs();
                let notice = format!(
                    "{}: {reason}; calls to it pause, it is asked one question at a time until it answers \
                     (for at most {patience_s} s: `outage_ms`)",
                    self.name
                );
                self.outage = Some((now, notice.into()));
                self.outage.as_ref().map(|(_, notice)| notice.clone())
            }
            (Some((since, _)), None) => {
                let seconds = (now - *since).as_secs();
                self.outage = None;
                self.back = Some(format!("{} answers again after {seconds} s; calls go on", self.name).into());
                self.back.clone()
            }
            _ => None,
        }
    }
}

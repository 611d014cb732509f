//! The limits of one model at an endpoint: requests and tokens a minute as declared, as the server tells, as learnt; and how many
//! requests may be in flight.

use super::bucket::Bucket;
use super::learnt::Learnt;
use super::told::{Said, Told};
use super::window::Window;
use crate::llm::Usage;
use std::time::{Duration, Instant};

/// What the recipe declares.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Declared {
    pub concurrency: usize,
    /// Of these, kept free for second copies.
    pub places_for_copies: usize,
    pub requests_per_minute: Option<f64>,
    pub tokens_per_minute: Option<f64>,
}

/// Clocks differ and requests overtake each other: a declared limit is not used to its last request.
const MARGIN: f64 = 0.99;
/// Before any answer told better.
const BYTES_PER_TOKEN: f64 = 4.0;
const TOKENS_OUT: f64 = 500.0;
/// How much one answer moves a mean.
const MEAN_SHARE: f64 = 1.0 / 32.0;

/// What a request may take of the tokens, before its answer says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub prompt_bytes: usize,
    pub tokens_out_max: Option<u64>,
}

#[derive(Debug)]
pub struct Limits {
    pub window: Window,
    pub in_flight: usize,
    places_for_copies: usize,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    told_requests: Told,
    told_tokens: Told,
    learnt: Learnt,
    bytes_per_token: f64,
    tokens_out: Option<f64>,
}

impl Limits {
    pub fn new(declared: &Declared, now: Instant) -> Limits {
        let mut limits = Limits {
            window: Window::new(declared.concurrency),
            in_flight: 0,
            places_for_copies: 0,
            requests: None,
            tokens: None,
            told_requests: Told::default(),
            told_tokens: Told::default(),
            learnt: Learnt::new(now),
            bytes_per_token: BYTES_PER_TOKEN,
            tokens_out: None,
        };
        limits.tighten(declared, now);
        limits
    }

    /// Another entry of the recipe declares limits for the same model: the stricter one of each counts.
    pub fn tighten(&mut self, declared: &Declared, now: Instant) {
        self.window.limit_to(declared.concurrency);
        self.places_for_copies = self.places_for_copies.max(declared.places_for_copies).min(self.window.max() - 1);
        lower(&mut self.requests, declared.requests_per_minute, now);
        lower(&mut self.tokens, declared.tokens_per_minute, now);
    }

    /// Whether one more may be in flight. However narrow the window is, one request always may be.
    pub fn has_room(&self) -> bool {
        self.in_flight == 0 || self.window.has_room(self.in_flight + self.places_for_copies)
    }

    /// Whether a second copy may go at this moment.
    pub fn has_room_for_copy(&mut self, now: Instant) -> bool {
        self.window.has_room(self.in_flight) && !self.learnt.is_closed() && self.free_at(now).is_none()
    }

    /// When the next request may go; `None` for now. Says nothing of the window.
    pub fn free_at(&mut self, now: Instant) -> Option<Instant> {
        let declared =
            [&mut self.requests, &mut self.tokens].map(|bucket| bucket.as_mut().and_then(|bucket| bucket.free_at(now)));
        let told = [self.told_requests.free_at(now), self.told_tokens.free_at(now)];
        declared.into_iter().chain(told).chain([self.learnt.free_at(now)]).flatten().max()
    }

    /// A request goes; returns the tokens that were reserved for it.
    pub fn enter(&mut self, size: &Size, now: Instant) -> f64 {
        self.in_flight += 1;
        self.learnt.sent(now);
        self.told_requests.take(1.0);
        if let Some(bucket) = &mut self.requests {
            bucket.take(1.0);
        }
        let tokens = self.estimate(size);
        self.told_tokens.take(tokens);
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens);
        }
        tokens
    }

    /// It was answered, and took so many tokens in truth.
    pub fn answered(&mut self, size: &Size, reserved: f64, usage: &Usage, sent_at: Instant, now: Instant) {
        self.learnt.passed(sent_at, now);
        self.window.served();
        let used = (usage.tokens_in + usage.tokens_out) as f64;
        if used > 0.0 {
            self.learn_size(size, usage);
            self.correct(reserved - used);
        }
    }

    /// 429: it took nothing.
    pub fn refused(&mut self, reserved: f64, retry_after: Option<Duration>, sent_at: Instant, now: Instant) {
        self.correct(reserved);
        self.window.crowded();
        if self.learnt.refused(sent_at, retry_after, now) {
            self.window.collapse();
        }
    }

    /// No answer came, but it was no refusal either.
    pub fn failed(&mut self, is_crowded: bool, sent_at: Instant, now: Instant) {
        self.learnt.passed(sent_at, now);
        if is_crowded {
            self.window.crowded();
        }
    }

    pub fn hear(&mut self, requests: Option<Said>, tokens: Option<Said>, age: Duration, now: Instant) {
        requests.into_iter().for_each(|said| self.told_requests.hear(said, age, now));
        tokens.into_iter().for_each(|said| self.told_tokens.hear(said, age, now));
    }

    fn estimate(&self, size: &Size) -> f64 {
        let most = size.tokens_out_max.map(|most| most as f64);
        let tokens_out = self.tokens_out.or(most).unwrap_or(TOKENS_OUT);
        size.prompt_bytes as f64 / self.bytes_per_token + most.map_or(tokens_out, |most| most.min(tokens_out))
    }

    fn correct(&mut self, tokens: f64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.give(tokens);
        }
    }

    fn learn_size(&mut self, size: &Size, usage: &Usage) {
        if usage.tokens_in > 0 && size.prompt_bytes > 0 {
            let here = size.prompt_bytes as f64 / usage.tokens_in as f64;
            self.bytes_per_token += (here - self.bytes_per_token) * MEAN_SHARE;
        }
        let mean = self.tokens_out.get_or_insert(usage.tokens_out as f64);
        *mean += (usage.tokens_out as f64 - *mean) * MEAN_SHARE;
    }
}

fn lower(bucket: &mut Option<Bucket>, per_minute: Option<f64>, now: Instant) {
    let Some(per_second) = per_minute.map(|per_minute| MARGIN * per_minute / 60.0) else { return };
    match bucket {
        Some(bucket) if bucket.per_second() > per_second => bucket.set_rate(per_second, now),
        Some(_) => {}
        None => *bucket = Some(Bucket::new(per_second, now)),
    }
}

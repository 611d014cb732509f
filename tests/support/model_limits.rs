//! How many requests the loopback server allows in a time, and how it says so.

use std::sync::Mutex;
use std::time::Instant;

/// So many requests each `window_ms`, counted one way or the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    pub requests: u32,
    pub window_ms: u64,
    pub counting: Counting,
    pub telling: Telling,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Counting {
    /// All of it again at the beginning of each window.
    FixedWindow,
    /// A bucket that holds all of it and fills evenly.
    TokenBucket,
}

/// What a client hears of it beside 429.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Telling {
    Nothing,
    RetryAfter,
    Headers,
}

#[derive(Debug, Default)]
pub struct Counter(Mutex<Option<Level>>);

#[derive(Debug)]
struct Level {
    start: Instant,
    at_ms: f64,
    left: f64,
}

/// What becomes of one request: allowed or not, and the headers that go with it.
pub struct Ruling {
    pub is_allowed: bool,
    pub headers: String,
}

impl Counter {
    pub fn ask(&self, allowance: &Allowance) -> Ruling {
        let mut level = self.0.lock().unwrap();
        let all = f64::from(allowance.requests);
        let level = level.get_or_insert_with(|| Level { start: Instant::now(), at_ms: 0.0, left: all });
        level.refill(allowance);
        let is_allowed = level.left >= 1.0;
        level.left -= if is_allowed { 1.0 } else { 0.0 };
        let reset_ms = level.reset_ms(allowance);
        let headers = match allowance.telling {
            Telling::RetryAfter if !is_allowed => format!("retry-after-ms: {reset_ms:.0}\r\n"),
            Telling::Headers => format!(
                "x-ratelimit-limit-requests: {}\r\nx-ratelimit-remaining-requests: {}\r\nx-ratelimit-reset-requests: {:.0}ms\r\n",
                allowance.requests,
                level.left.floor(),
                level.whole_ms(allowance),
            ),
            _ => String::new(),
        };
        Ruling { is_allowed, headers }
    }
}

impl Level {
    fn refill(&mut self, allowance: &Allowance) {
        let now_ms = self.start.elapsed().as_secs_f64() * 1000.0;
        let (all, window_ms) = (f64::from(allowance.requests), allowance.window_ms as f64);
        match allowance.counting {
            Counting::FixedWindow if (now_ms / window_ms).floor() > (self.at_ms / window_ms).floor() => self.left = all,
            Counting::FixedWindow => {}
            Counting::TokenBucket => self.left = (self.left + (now_ms - self.at_ms) * all / window_ms).min(all),
        }
        self.at_ms = now_ms;
    }

    /// Until one request is allowed again.
    fn reset_ms(&self, allowance: &Allowance) -> f64 {
        match allowance.counting {
            Counting::FixedWindow => self.whole_ms(allowance),
            Counting::TokenBucket => {
                ((1.0 - self.left) * allowance.window_ms as f64 / f64::from(allowance.requests)).max(1.0)
            }
        }
    }

    /// Until all of it is allowed again.
    fn whole_ms(&self, allowance: &Allowance) -> f64 {
        let window_ms = allowance.window_ms as f64;
        match allowance.counting {
            Counting::FixedWindow => window_ms - self.at_ms % window_ms,
            Counting::TokenBucket => {
                (f64::from(allowance.requests) - self.left) * window_ms / f64::from(allowance.requests)
            }
        }
    }
}

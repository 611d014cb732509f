//! Limits that a server tells with each answer: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.
//!
//! What remains, spread over the time until it is whole again, is a pace that neither kind of counting refuses: a window that is
//! emptied at once lasts to its end, and a bucket that fills all the time settles at half.

use super::bucket::Bucket;
use hyper::HeaderMap;
use std::time::{Duration, Instant};

/// Clocks differ and requests overtake each other: a little is left over.
const MARGIN: f64 = 0.99;
/// Where nothing remains, this share of the limit is tried all the same: others may have used it, and it may be back already.
const LEAST_SHARE: f64 = 0.002;
/// No server means a limit of more than a week.
const LONGEST_RESET_S: f64 = 7.0 * 86_400.0;

/// The headers of a quantity: limit, remaining, reset.
pub type Names = [&'static str; 3];
pub const REQUESTS: Names =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
pub const TOKENS: Names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

/// What an answer's headers say of one quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    pub limit: f64,
    /// What remains, and how long until it is whole again.
    pub left: Option<(f64, Duration)>,
}

impl Said {
    /// `None` where the server says nothing, −1, or nonsense.
    pub fn read(headers: &HeaderMap, [limit, remaining, reset]: Names) -> Option<Said> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        let limit = number(limit).filter(|limit| *limit >= 1.0)?;
        let left = number(remaining).filter(|remaining| *remaining <= limit);
        let left = left.zip(text(reset).and_then(parse_duration));
        Some(Said { limit, left })
    }
}

/// The pace that follows from what was said last.
#[derive(Debug, Default)]
pub struct Told {
    pace: Option<(Bucket, Instant)>,
    /// The longest time that was told until all is whole again. The limit spread over it is no less than the rate, and soon the rate
    /// itself, whether the server counts in windows or fills a bucket.
    longest: Duration,
    limit: f64,
}

impl Told {
    /// `age`: how long ago the request was sent that this answers; what was to last no longer than that is over.
    pub fn hear(&mut self, said: Said, age: Duration, now: Instant) {
        let (amount, time) = match said.left {
            Some((remaining, reset)) => (remaining.max(said.limit * LEAST_SHARE), reset),
            // A limit alone is one a minute, as everywhere in these interfaces.
            None => (said.limit, Duration::from_secs(60)),
        };
        (self.longest, self.limit) = (self.longest.max(time), said.limit);
        if self.longest.is_zero() {
            return;
        }
        match time > age {
            true => self.keep_to(amount / time.as_secs_f64(), now + time, now),
            false => self.keep_to(self.rate(), now + self.longest, now),
        }
    }

    /// When the next may go; `None` for now.
    pub fn free_at(&mut self, now: Instant) -> Option<Instant> {
        let (_, until) = self.pace.as_ref()?;
        if now >= *until {
            self.keep_to(self.rate(), now + self.longest, now);
        }
        let (bucket, until) = self.pace.as_mut()?;
        bucket.free_at(now).map(|at| at.min(*until))
    }

    fn rate(&self) -> f64 {
        self.limit / self.longest.as_secs_f64()
    }

    fn keep_to(&mut self, per_second: f64, until: Instant, now: Instant) {
        let per_second = MARGIN * per_second.min(self.rate());
        match &mut self.pace {
            Some((bucket, end)) => {
                bucket.set_rate(per_second, now);
                *end = until;
            }
            None => self.pace = Some((Bucket::new(per_second, now), until)),
        }
    }

    pub fn take(&mut self, amount: f64) {
        if let Some((bucket, _)) = &mut self.pace {
            bucket.take(amount);
        }
    }
}

/// `1s`, `6m0s`, `120ms`, `1h2m3.5s`, or plain seconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_s = match unit {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_s;
        rest = after;
    }
    (!text.trim().is_empty() && seconds <= LONGEST_RESET_S).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_read_in_all_their_forms() {
        for (text, ms) in
            [("1s", 1000), ("6m0s", 360_000), ("120ms", 120), ("1h2m3.5s", 3_723_500), ("0s", 0), ("17", 17_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for nonsense in ["", "soon", "-1", "1x", "1.2.3s", "s", "99999999s", "1e300s", "m5"] {
            assert_eq!(parse_duration(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_heard() {
        let read = |limit: &'static str, remaining: &'static str, reset: &'static str| {
            let values = [limit, remaining, reset];
            let headers =
                REQUESTS.into_iter().zip(values).map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Said::read(&HeaderMap::from_iter(headers), REQUESTS)
        };
        let said = |limit, left| Some(Said { limit, left });
        assert_eq!(read("600", "599", "100ms"), said(600.0, Some((599.0, Duration::from_millis(100)))));
        assert_eq!(read("600", "-1", "1s"), said(600.0, None));
        assert_eq!(read("600", "601", "1s"), said(600.0, None));
        for (limit, remaining, reset) in [("-1", "-1", "-1"), ("many", "1", "1s"), ("0", "0", "0s"), ("NaN", "1", "1s")]
        {
            assert_eq!(read(limit, remaining, reset), None, "{limit}");
        }
        assert_eq!(Said::read(&HeaderMap::new(), TOKENS), None);
    }

    #[test]
    fn what_remains_is_spread_over_the_time_that_it_must_last() {
        let start = Instant::now();
        let mut told = Told::default();
        told.hear(Said { limit: 600.0, left: Some((100.0, Duration::from_secs(10))) }, Duration::ZERO, start);
        told.take(11.0);
        let wait = told.free_at(start).unwrap() - start;
        assert!((1.0..1.2).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(told.free_at(start + Duration::from_secs(10)), None, "then it is whole again");
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(text in "[0-9.a-zµ-]{0,12}") {
            _ = parse_duration(&text);
        }
    }
}

//! A bucket that fills at a rate and may run into debt: what is too much now is waited for before the next one goes.

use std::time::{Duration, Instant};

/// What was left unused for longer than this is lost, so that nothing ever goes out in one burst.
const BURST_S: f64 = 0.25;
const LONGEST_WAIT_S: f64 = 3600.0;

#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(per_second: f64, now: Instant) -> Bucket {
        Bucket { per_second, level: 0.0, at: now }
    }

    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    pub fn set_rate(&mut self, per_second: f64, now: Instant) {
        self.fill(now);
        self.per_second = per_second;
        self.level = self.level.min(self.level_max());
    }

    /// When the next may go; `None` for now.
    pub fn free_at(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        // What rounding leaves of a debt is none: else a wait for the last nanosecond would never end.
        if self.level > -1e-3 {
            return None;
        }
        let wait_s = (-self.level / self.per_second).min(LONGEST_WAIT_S);
        Some(now + Duration::from_secs_f64(wait_s))
    }

    pub fn take(&mut self, amount: f64) {
        self.level -= amount;
    }

    /// Gives back what was taken too much; takes more where `amount` is negative.
    pub fn give(&mut self, amount: f64) {
        self.level = (self.level + amount).min(self.level_max());
    }

    fn fill(&mut self, now: Instant) {
        let passed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + passed_s * self.per_second).min(self.level_max());
    }

    fn level_max(&self) -> f64 {
        self.per_second * BURST_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many go within so many seconds when as many as may do.
    fn gone(bucket: &mut Bucket, start: Instant, seconds: f64, cost: f64) -> usize {
        let (end, mut now, mut count) = (start + Duration::from_secs_f64(seconds), start, 0);
        while now < end {
            match bucket.free_at(now) {
                None => {
                    bucket.take(cost);
                    count += 1;
                }
                Some(later) => now = later,
            }
        }
        count
    }

    #[test]
    fn the_rate_is_kept_whatever_one_costs_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        assert!((600..=602).contains(&gone(&mut Bucket::new(10.0, start), start, 60.0, 1.0)));
        assert!((6..=7).contains(&gone(&mut Bucket::new(100.0, start), start, 60.0, 1000.0)));
        let mut bucket = Bucket::new(10.0, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(gone(&mut bucket, later, 0.01, 1.0), 3, "a quarter of a second's share, and one more");
    }

    #[test]
    fn what_was_taken_too_much_comes_back() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, start);
        bucket.take(1000.0);
        assert_eq!(bucket.free_at(start), Some(start + Duration::from_secs(10)));
        bucket.give(900.0);
        assert_eq!(bucket.free_at(start), Some(start + Duration::from_secs(1)));
        bucket.set_rate(1000.0, start);
        assert_eq!(bucket.free_at(start), Some(start + Duration::from_millis(100)));
    }
}

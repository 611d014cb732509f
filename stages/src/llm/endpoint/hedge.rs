//! A second copy of a request whose answer takes long: when it may be sent, and how many there may be.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The latest so many answers tell what is long.
const RECENT: usize = 256;
/// Fewer say nothing.
const RECENT_MIN: usize = 32;
/// After so many answers more the percentile is found anew.
const RENEWED_EACH: usize = 16;

/// What the recipe allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    pub after: After,
    /// Copies for each request.
    pub at_most: f64,
}

/// When an answer takes long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum After {
    Time(Duration),
    /// Longer than this share of the recent answers took.
    Share(f64),
}

impl Hedge {
    /// Of so many places in flight, those that are kept free for copies: a server's slowest answers would else fill all of them.
    pub fn places(&self, concurrency: usize) -> usize {
        let places = (self.at_most * concurrency as f64).ceil() as usize;
        places.min(concurrency / 2)
    }
}

/// How long answers took one entry of a recipe, and how many copies it has sent.
#[derive(Debug)]
pub struct Hedging {
    hedge: Hedge,
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    requests: u64,
    copies: u64,
    /// In microseconds; a ring.
    took_us: Vec<u64>,
    answers: usize,
    long: Option<Duration>,
}

impl Hedging {
    pub fn new(hedge: Hedge) -> Hedging {
        Hedging { hedge, count: Mutex::default() }
    }

    /// A request goes; answers after which time a copy may follow, where that can be told.
    pub fn sent(&self) -> Option<Duration> {
        let mut count = self.count();
        count.requests += 1;
        match self.hedge.after {
            After::Time(time) => Some(time),
            After::Share(_) => count.long,
        }
    }

    /// Its answer came after this time. Where the copy's came first, that is less than the request itself would have taken, but it lies
    /// beyond the percentile all the same.
    pub fn answered(&self, took: Duration) {
        let After::Share(share) = self.hedge.after else { return };
        let mut count = self.count();
        let (place, took_us) = (count.answers % RECENT, took.as_micros() as u64);
        match count.took_us.get_mut(place) {
            Some(oldest) => *oldest = took_us,
            None => count.took_us.push(took_us),
        }
        count.answers += 1;
        if count.answers >= RECENT_MIN && count.answers.is_multiple_of(RENEWED_EACH) {
            count.long = Some(percentile(&count.took_us, share));
        }
    }

    /// The right to send a copy, if there is one left.
    pub fn copy(&self) -> Option<Right<'_>> {
        let mut count = self.count();
        let is_left = (count.copies + 1) as f64 <= self.hedge.at_most * count.requests as f64;
        count.copies += u64::from(is_left);
        // Not `then_some`: a right that is made and dropped would be given back under this lock.
        is_left.then(|| Right { hedging: self, is_used: false })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To send one copy; given back when dropped, unless it was used.
pub struct Right<'a> {
    hedging: &'a Hedging,
    is_used: bool,
}

impl Right<'_> {
    pub fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Right<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.hedging.count().copies -= 1;
        }
    }
}

fn percentile(took_us: &[u64], share: f64) -> Duration {
    let mut sorted = took_us.to_vec();
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    Duration::from_micros(*sorted.select_nth_unstable(place).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hedging(after: After, at_most: f64) -> Hedging {
        Hedging::new(Hedge { after, at_most })
    }

    #[test]
    fn no_more_copies_go_than_their_share_and_unused_rights_come_back() {
        let hedging = hedging(After::Time(Duration::from_millis(7)), 0.05);
        let mut copies = 0;
        for requests in 1..=1000 {
            assert_eq!(hedging.sent(), Some(Duration::from_millis(7)));
            drop(hedging.copy());
            copies += hedging.copy().map(Right::used).map_or(0, |()| 1);
            assert_eq!(copies, requests / 20);
        }
    }

    #[test]
    fn what_is_long_follows_the_recent_answers() {
        let hedging = hedging(After::Share(0.95), 1.0);
        let answers = |from_ms: u64| (0..400).for_each(|k| hedging.answered(Duration::from_millis(from_ms + k % 100)));
        (0..RECENT_MIN - 1).for_each(|_| hedging.answered(Duration::from_millis(1)));
        assert_eq!(hedging.sent(), None, "too few were seen");
        for from_ms in [0, 1000, 10] {
            answers(from_ms);
            let long_ms = hedging.sent().unwrap().as_millis() as u64;
            assert!((from_ms + 93..from_ms + 98).contains(&long_ms), "{long_ms}");
        }
    }

    #[test]
    fn places_for_copies_leave_most_to_requests() {
        let hedge = |at_most| Hedge { after: After::Share(0.9), at_most };
        for (at_most, concurrency, places) in [(0.05, 64, 4), (0.05, 2, 1), (0.05, 1, 0), (1.0, 64, 32), (0.0, 64, 0)] {
            assert_eq!(hedge(at_most).places(concurrency), places, "{at_most} of {concurrency}");
        }
    }
}

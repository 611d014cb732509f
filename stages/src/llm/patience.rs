//! How long to go on with a server that gives no answer.

use crate::draw::Draw;
use std::time::Duration;

/// A server may ask for a longer pause; nobody waits for more than this.
const LONGEST_PAUSE_MS: u64 = 120_000;

/// How often, and after what pauses, a question without an answer is put again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    pub tries: u32,
    /// Doubles with each try, up to `pause_max_ms`.
    pub pause_ms: u64,
    pub pause_max_ms: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { tries: 6, pause_ms: 500, pause_max_ms: 30_000 }
    }
}

impl Patience {
    /// The longest pause before try number `tries` + 1.
    pub(super) fn doubled_ms(&self, tries: u32) -> u64 {
        self.pause_ms.saturating_mul(1 << (tries.max(1) - 1).min(20)).min(self.pause_max_ms)
    }

    /// Capped exponential backoff with full jitter, so that rows that failed together do not return together. A pause that the
    /// server asked for is kept to, and the jitter comes on top.
    pub(super) fn pause(&self, tries: u32, retry_after_ms: Option<u64>, address: &[u8; 32]) -> Duration {
        let asked_ms = retry_after_ms.unwrap_or(0).min(LONGEST_PAUSE_MS);
        Duration::from_millis(asked_ms) + jitter(self.doubled_ms(tries), tries, address)
    }

    /// After a refusal: when the next goes is for the limits that all share, so rows only spread a little.
    pub(super) fn pause_after_refusal(&self, times: u32, retry_after_ms: Option<u64>, address: &[u8; 32]) -> Duration {
        let asked_ms = retry_after_ms.unwrap_or(0).min(LONGEST_PAUSE_MS);
        Duration::from_millis(asked_ms) + jitter(self.doubled_ms(1), times, address)
    }
}

/// Anything from nothing to `most_ms`; another row or another time, another pause.
fn jitter(most_ms: u64, times: u32, address: &[u8; 32]) -> Duration {
    let seed = u64::from_le_bytes(address[..8].try_into().expect("an address has 32 bytes"));
    let share = Draw::new(seed, "backoff").at(times.into()).unit();
    Duration::from_micros((share * most_ms as f64 * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { tries: 6, pause_ms: 500, pause_max_ms: 4000 };

    fn pauses(tries: u32, retry_after_ms: Option<u64>) -> Vec<u128> {
        let address = |row: u32| {
            let mut address = [7; 32];
            address[..4].copy_from_slice(&row.to_le_bytes());
            address
        };
        let mut pauses: Vec<u128> =
            (0..1000).map(|row| PATIENCE.pause(tries, retry_after_ms, &address(row)).as_millis()).collect();
        pauses.sort_unstable();
        pauses
    }

    #[test]
    fn pauses_are_spread_from_nothing_to_a_cap_that_doubles_up_to_a_limit() {
        for (tries, cap_ms) in [(1, 500), (2, 1000), (3, 2000), (4, 4000), (5, 4000), (40, 4000)] {
            let pauses = pauses(tries, None);
            assert!(pauses[0] < cap_ms / 50 && pauses[999] <= cap_ms && pauses[999] > cap_ms * 49 / 50);
            let mean = pauses.iter().sum::<u128>() / 1000;
            assert!((cap_ms * 45 / 100..cap_ms * 55 / 100).contains(&mean), "{tries}: {mean}");
        }
    }

    #[test]
    fn a_pause_that_the_server_asked_for_is_the_least_up_to_a_limit() {
        let asked = pauses(1, Some(3000));
        assert!(asked[0] >= 3000 && asked[999] <= 3500);
        assert!(pauses(1, Some(u64::MAX))[999] <= u128::from(LONGEST_PAUSE_MS) + 500);
    }
}

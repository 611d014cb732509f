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
    /// Capped exponential backoff, between half and whole, so that rows that failed together do not return together.
    /// A pause that the server asked for is kept to, and jitter is added on top.
    pub(super) fn pause(&self, tries: u32, retry_after_ms: Option<u64>, address: &[u8; 32]) -> Duration {
        let doubled_ms = self.pause_ms.saturating_mul(1 << (tries - 1).min(20)).min(self.pause_max_ms);
        let seed = u64::from_le_bytes(address[..8].try_into().expect("an address has 32 bytes"));
        let jitter_ms = (Draw::new(seed, "backoff").at(tries.into()).unit() * doubled_ms as f64 / 2.0) as u64;
        let asked_ms = retry_after_ms.map(|asked| asked.min(LONGEST_PAUSE_MS));
        Duration::from_millis(asked_ms.unwrap_or(0).max(doubled_ms / 2) + jitter_ms)
    }
}

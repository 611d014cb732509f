//! Planned failures: which request fails, how, and how often before it is answered after all.

/// What a client meets instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    RateLimited,
    RateLimitedFor {
        ms: u64,
    },
    ServerError,
    BadGateway,
    EmptyChoices,
    NullContent,
    NotJson,
    TruncatedJson,
    /// The connection ends in the middle of the body.
    Reset,
    /// The whole answer, but in pieces over this time.
    SlowBody {
        ms: u64,
    },
    /// Nothing comes, then the connection ends.
    Hang {
        ms: u64,
    },
}

impl Fault {
    /// Whether it is an answer after all, however slow: sent again, it would be paid twice.
    pub fn is_answer(&self) -> bool {
        matches!(self, Fault::SlowBody { .. })
    }
}

/// A plan: each fault hits its share of the distinct requests.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// (share of requests, what happens to them).
    pub shares: Vec<(f64, Fault)>,
    /// How often a request that was hit fails before it is answered; `u32::MAX` is an outage.
    pub times: u32,
}

impl Faults {
    /// Every kind of fault at `share` each, once for each request that is hit.
    pub fn storm(share: f64) -> Faults {
        use Fault::*;
        let all = [
            RateLimited,
            RateLimitedFor { ms: 20 },
            ServerError,
            BadGateway,
            EmptyChoices,
            NullContent,
            NotJson,
            TruncatedJson,
            Reset,
            SlowBody { ms: 20 },
            Hang { ms: 20 },
        ];
        Faults { shares: all.into_iter().map(|fault| (share, fault)).collect(), times: 1 }
    }

    /// Nothing is ever answered.
    pub fn outage() -> Faults {
        Faults { shares: vec![(1.0, Fault::ServerError)], times: u32::MAX }
    }

    /// What happens to the request with this hash that came `before` times already.
    pub fn planned(&self, hash: u64, before: u32) -> Option<Fault> {
        if before >= self.times {
            return None;
        }
        let mut left = super::model_answers::unit(hash, "fault");
        self.shares
            .iter()
            .find(|(share, _)| {
                left -= share;
                left < 0.0
            })
            .map(|(_, fault)| *fault)
    }
}

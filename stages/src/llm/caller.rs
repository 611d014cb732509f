//! Asks a model so that every answer is paid once: looks in the replies first, keeps what comes, counts everything.

use super::{LanguageModel, Reply, Request, Usage};
use crate::failure::{Failure, Result};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kept replies, by address. The engine stands behind it with the cache.
pub trait Replies: Send + Sync {
    fn get(&self, address: &[u8; 32]) -> Option<Vec<u8>>;
    /// Returns once the reply can no longer be lost by killing this process.
    fn put(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<()>;
}

/// What a node's calls came to.
#[derive(Debug, Default)]
pub struct Meter {
    pub calls: AtomicU64,
    pub calls_reused: AtomicU64,
    pub tokens_in: AtomicU64,
    pub tokens_out: AtomicU64,
    pub retries: AtomicU64,
    cost_usd: Mutex<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MeterReading {
    pub calls: u64,
    pub calls_reused: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub retries: u64,
    pub cost_usd: f64,
}

impl Meter {
    pub fn read(&self) -> MeterReading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MeterReading {
            calls: load(&self.calls),
            calls_reused: load(&self.calls_reused),
            tokens_in: load(&self.tokens_in),
            tokens_out: load(&self.tokens_out),
            retries: load(&self.retries),
            cost_usd: *self.cost_usd.lock().unwrap(),
        }
    }

    fn count(&self, usage: &Usage, cost_usd: f64) {
        self.tokens_in.fetch_add(usage.tokens_in, Ordering::Relaxed);
        self.tokens_out.fetch_add(usage.tokens_out, Ordering::Relaxed);
        *self.cost_usd.lock().unwrap() += cost_usd;
    }
}

/// The run's money. Each call reserves its worst case before it is sent and settles what it really cost.
#[derive(Debug)]
pub struct Budget {
    limit_usd: Option<f64>,
    taken_usd: Mutex<f64>,
}

impl Budget {
    pub fn new(limit_usd: Option<f64>) -> Budget {
        Budget { limit_usd, taken_usd: Mutex::new(0.0) }
    }

    fn reserve(&self, worst_usd: Option<f64>) -> Result<f64> {
        let Some(limit) = self.limit_usd else { return Ok(worst_usd.unwrap_or(0.0)) };
        let worst = worst_usd.ok_or_else(|| {
            Failure::Recipe(
                "a budget is set but this model has no prices; add `prices:` to it under `models:`".to_string(),
            )
        })?;
        let mut taken = self.taken_usd.lock().unwrap();
        if *taken + worst > limit {
            let message = format!(
                "the next call could cost ${worst:.4} and pass the budget: ${:.4} of ${limit:.2} are taken",
                *taken
            );
            return Err(Failure::Budget(message));
        }
        *taken += worst;
        Ok(worst)
    }

    fn settle(&self, reserved_usd: f64, cost_usd: f64) {
        if self.limit_usd.is_some() {
            *self.taken_usd.lock().unwrap() += cost_usd - reserved_usd;
        }
    }
}

/// One node's way to one model.
#[derive(Clone)]
pub struct Caller {
    pub model: Arc<dyn LanguageModel>,
    pub replies: Arc<dyn Replies>,
    pub meter: Arc<Meter>,
    pub budget: Arc<Budget>,
    /// Put questions again whose kept replies never parsed (`run --retry-marked`).
    pub retry_marked: bool,
    identity: Arc<serde_json::Value>,
}

impl Caller {
    pub fn new(
        model: Arc<dyn LanguageModel>,
        replies: Arc<dyn Replies>,
        meter: Arc<Meter>,
        budget: Arc<Budget>,
        retry_marked: bool,
    ) -> Caller {
        let identity = Arc::new(model.identity());
        Caller { model, replies, meter, budget, retry_marked, identity }
    }

    /// The kept reply, or a fresh one that is kept before it is returned.
    pub async fn ask(&self, request: &Request) -> Result<Reply> {
        let address = request.address(&self.identity, self.model.reads_task());
        if let Some(raw) = self.replies.get(&address)
            && let Ok(reply) = self.model.parse(&raw)
        {
            self.meter.calls_reused.fetch_add(1, Ordering::Relaxed);
            return Ok(reply);
        }
        let reserved_usd = self.budget.reserve(self.model.worst_case_usd(request))?;
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.model.complete(request).await;
        let raw = answer.map_err(|fault| Failure::Remote(fault.to_string()))?;
        let reply = self.model.parse(&raw).map_err(|fault| Failure::Remote(fault.to_string()))?;
        self.replies.put(&address, &raw).map_err(|error| Failure::Machine(format!("cannot keep a reply: {error}")))?;
        let cost_usd = self.model.cost_usd(&reply.usage).unwrap_or(0.0);
        self.budget.settle(reserved_usd, cost_usd);
        self.meter.count(&reply.usage, cost_usd);
        Ok(reply)
    }
}

//! What calls came to, and the money they may take: counted per node, limited per run.

use super::Usage;
use crate::failure::{Failure, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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

    pub(super) fn count(&self, usage: &Usage, cost_usd: f64) {
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

    /// Sets `worst_usd` aside, or refuses because the limit could be passed. Given back when the reservation is dropped unsettled.
    pub(super) fn reserve(&self, worst_usd: Option<f64>) -> Result<Reservation<'_>> {
        let Some(limit) = self.limit_usd else { return Ok(Reservation { budget: self, usd: 0.0 }) };
        let usd = worst_usd.ok_or_else(|| {
            Failure::recipe(
                "a budget is set but the worst cost of a call is unknown; \
                 add `prices:` and `max_tokens:` to the model under `models:`",
            )
        })?;
        let mut taken = self.taken_usd.lock().unwrap();
        if *taken + usd > limit {
            return Err(Failure::Budget(format!(
                "the next call could cost ${usd:.4} and pass the budget: ${:.4} of ${limit:.2} are taken",
                *taken
            )));
        }
        *taken += usd;
        Ok(Reservation { budget: self, usd })
    }
}

/// Money set aside for one call.
pub(super) struct Reservation<'a> {
    budget: &'a Budget,
    usd: f64,
}

impl Reservation<'_> {
    /// Replaces the worst case by what the call really cost.
    pub(super) fn settle(mut self, cost_usd: f64) {
        self.usd -= cost_usd;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.budget.limit_usd.is_some() {
            *self.budget.taken_usd.lock().unwrap() -= self.usd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_case_is_reserved_and_the_real_cost_settled() {
        let budget = Budget::new(Some(1.0));
        let first = budget.reserve(Some(0.6)).unwrap();
        assert!(matches!(budget.reserve(Some(0.6)), Err(Failure::Budget(_))));
        first.settle(0.1);
        let second = budget.reserve(Some(0.6)).unwrap();
        drop(second);
        assert!((*budget.taken_usd.lock().unwrap() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_budget_needs_prices_and_no_budget_needs_none() {
        assert!(matches!(Budget::new(Some(1.0)).reserve(None), Err(Failure::Recipe(_))));
        assert!(Budget::new(None).reserve(None).is_ok());
    }
}

//! What calls came to, and the money they may take: counted per node, limited per run.

use super::served::Served;
use super::{Tallies, Usage};
use crate::failure::{Failure, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a node's calls came to.
#[derive(Debug, Default)]
pub struct Meter {
    pub calls: AtomicU64,
    pub calls_reused: AtomicU64,
    pub tokens_in: AtomicU64,
    pub tokens_out: AtomicU64,
    pub retries: AtomicU64,
    /// All answers, kept ones included.
    pub tallies: Tallies,
    /// Who gave them.
    pub served: Served,
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
    ledger: Mutex<Ledger>,
    /// Some reservation came to its end.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    spent_usd: f64,
    reserved_usd: f64,
    reservations: usize,
}

impl Budget {
    pub fn new(limit_usd: Option<f64>) -> Budget {
        Budget { limit_usd, ledger: Mutex::default(), freed: Notify::new() }
    }

    /// Sets `worst_usd` aside. What others in flight have set aside may come back, so it waits for them before it refuses.
    pub(super) async fn reserve(&self, worst_usd: Option<f64>) -> Result<Reservation<'_>> {
        let Some(limit_usd) = self.limit_usd else { return Ok(Reservation::new(self, 0.0)) };
        let usd = worst_usd.ok_or_else(|| {
            Failure::recipe(
                "a budget is set but the worst cost of a call is unknown; \
                 add `max_tokens:` and `prices:` to the model under `models:`, or its name to `prices:` at the top of the recipe",
            )
        })?;
        loop {
            let freed = self.freed.notified();
            if let Some(reservation) = self.try_reserve(usd, limit_usd)? {
                return Ok(reservation);
            }
            freed.await;
        }
    }

    /// Sets it aside only where nothing need be waited for.
    pub(super) fn reserve_at_once(&self, worst_usd: Option<f64>) -> Option<Reservation<'_>> {
        match self.limit_usd {
            None => Some(Reservation::new(self, 0.0)),
            Some(limit_usd) => self.try_reserve(worst_usd?, limit_usd).ok().flatten(),
        }
    }

    /// None when it would fit if the calls in flight cost nothing.
    fn try_reserve(&self, usd: f64, limit_usd: f64) -> Result<Option<Reservation<'_>>> {
        let mut ledger = self.ledger.lock().unwrap();
        if ledger.spent_usd + ledger.reserved_usd + usd <= limit_usd {
            ledger.reserved_usd += usd;
            ledger.reservations += 1;
            return Ok(Some(Reservation::new(self, usd)));
        }
        if ledger.reservations > 0 && ledger.spent_usd + usd <= limit_usd {
            return Ok(None);
        }
        Err(Failure::Budget(format!(
            "the next call could cost ${usd:.4} and pass the budget: ${:.4} of ${limit_usd:.2} are spent",
            ledger.spent_usd
        )))
    }
}

/// Money set aside for one call; given back when dropped, less what was settled.
pub(super) struct Reservation<'a> {
    budget: &'a Budget,
    usd: f64,
    cost_usd: f64,
}

impl<'a> Reservation<'a> {
    fn new(budget: &'a Budget, usd: f64) -> Reservation<'a> {
        Reservation { budget, usd, cost_usd: 0.0 }
    }

    /// From here on it costs all of it, unless it is settled: it is on the wire, and may be billed whoever listens.
    pub(super) fn stake(&mut self) {
        self.cost_usd = self.usd;
    }

    /// The call really cost this.
    pub(super) fn settle(mut self, cost_usd: f64) {
        self.cost_usd = cost_usd;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.budget.limit_usd.is_none() {
            return;
        }
        let mut ledger = self.budget.ledger.lock().unwrap();
        ledger.spent_usd += self.cost_usd;
        ledger.reserved_usd -= self.usd;
        ledger.reservations -= 1;
        if ledger.reservations == 0 {
            ledger.reserved_usd = 0.0; // what rounding left over
        }
        drop(ledger);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn the_worst_case_is_reserved_and_the_real_cost_settled() {
        let budget = Budget::new(Some(1.0));
        let first = budget.reserve(Some(0.6)).now_or_never().unwrap().unwrap();
        let mut second = Box::pin(budget.reserve(Some(0.6)));
        assert!(second.as_mut().now_or_never().is_none(), "it waits for what the first may give back");
        first.settle(0.1);
        let second = second.now_or_never().unwrap().unwrap();
        second.settle(0.6);
        let refused = budget.reserve(Some(0.6)).now_or_never().unwrap();
        assert!(matches!(refused, Err(Failure::Budget(message)) if message.contains("$0.7000 of $1.00")));
    }

    #[test]
    fn a_call_that_got_no_answer_gives_everything_back() {
        let budget = Budget::new(Some(1.0));
        for _ in 0..100 {
            drop(budget.reserve(Some(0.9)).now_or_never().unwrap().unwrap());
        }
    }

    #[test]
    fn a_call_left_in_flight_costs_its_worst_case_and_one_that_failed_nothing() {
        let budget = Budget::new(Some(1.0));
        let mut failed = budget.reserve_at_once(Some(0.6)).unwrap();
        assert!(budget.reserve_at_once(Some(0.6)).is_none(), "it does not wait");
        failed.stake();
        failed.settle(0.0);
        let mut left = budget.reserve_at_once(Some(0.6)).unwrap();
        left.stake();
        drop(left);
        let refused = budget.reserve(Some(0.6)).now_or_never().unwrap();
        assert!(matches!(refused, Err(Failure::Budget(message)) if message.contains("$0.6000 of $1.00")));
    }

    #[test]
    fn a_budget_needs_prices_and_no_budget_needs_none() {
        let refused = Budget::new(Some(1.0)).reserve(None).now_or_never().unwrap().err();
        assert!(matches!(refused, Some(Failure::Recipe(_))));
        assert!(Budget::new(None).reserve(None).now_or_never().unwrap().is_ok());
    }
}

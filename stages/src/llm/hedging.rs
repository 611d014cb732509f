//! A request whose answer takes long is sent a second time, where the recipe allows that: the first answer counts and is kept.
//!
//! A copy stands back behind everything else: it goes only where the limits admit it at once, never into a queue, never to a server
//! that is out, and never where the budget would have to wait for it. Whichever of the two comes too late is left. The server may
//! bill it all the same, so the budget takes it for its worst case, and the costs of the node for as much as the answer that came.

use super::caller::Caller;
use super::endpoint::Hedging;
use super::sending::{Answer, Sent};
use super::{Fault, Request, Usage, halt};
use futures::future::{Either, select};
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

/// Who may not send a copy yet looks again after this share of the time that it has waited for.
const LOOK_SHARE: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(500);

impl Caller {
    /// One request, and perhaps a copy, to the first answer.
    pub(super) async fn hedged(&self, request: &Request, sent: Sent<'_>, hedging: &Hedging) -> Result<Answer, Fault> {
        let (started, wait) = (Instant::now(), hedging.sent());
        let first = pin!(self.exchange(request, sent));
        let answer = match wait {
            Some(wait) => self.race(request, first, wait, hedging).await,
            None => first.await,
        };
        if answer.is_ok() {
            hedging.answered(started.elapsed());
        }
        answer
    }

    async fn race<F>(
        &self,
        request: &Request,
        first: Pin<&mut F>,
        wait: Duration,
        hedging: &Hedging,
    ) -> Result<Answer, Fault>
    where
        F: Future<Output = Result<Answer, Fault>>,
    {
        let copy = pin!(self.copy_after(request, wait, hedging));
        let (copy, first) = match select(first, copy).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(both) => both,
        };
        match select(first, pin!(self.exchange(request, copy))).await {
            Either::Left((ended, other)) => self.first_of(ended, other).await,
            Either::Right((ended, other)) => self.first_of(ended, other).await,
        }
    }

    /// An answer leaves the other one behind; what a server will not take at all, it need not be asked twice.
    async fn first_of(
        &self,
        ended: Result<Answer, Fault>,
        other: impl Future<Output = Result<Answer, Fault>>,
    ) -> Result<Answer, Fault> {
        match ended {
            Ok(answer) => {
                let as_much_usd = self.model.cost_usd(&answer.reply.usage).unwrap_or(0.0);
                self.meter.count(&Usage::default(), as_much_usd);
                Ok(answer)
            }
            Err(lasting @ Fault::Lasting(_)) => Err(lasting),
            Err(_) => other.await,
        }
    }

    /// Comes back when a copy may be sent; never before `wait` is over.
    async fn copy_after(&self, request: &Request, wait: Duration, hedging: &Hedging) -> Sent<'_> {
        tokio::time::sleep(wait).await;
        loop {
            if let Some(sent) = self.admit_copy(request, hedging) {
                return sent;
            }
            tokio::time::sleep((wait / LOOK_SHARE).clamp(LOOK_MIN, LOOK_MAX)).await;
        }
    }

    fn admit_copy(&self, request: &Request, hedging: &Hedging) -> Option<Sent<'_>> {
        if halt::halted() {
            return None;
        }
        let right = hedging.copy()?;
        let reservation = self.budget.reserve_at_once(self.model.worst_case_usd(request))?;
        let permit = self.lane.admit_copy(request)?;
        right.used();
        Some(Sent { permit, reservation })
    }
}

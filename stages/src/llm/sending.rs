//! One request on its way to the model, as often as it takes: reserve, send, read, keep, settle.

use super::caller::{Caller, cannot_keep};
use super::{Fault, Reply, Request, halt};
use crate::failure::{Failure, Result};
use std::sync::atomic::Ordering;

impl Caller {
    /// Sends until an answer comes or patience ends.
    pub(super) async fn send(&self, request: &Request, address: &[u8; 32]) -> Result<Reply> {
        if let Some(reason) = self.barred(request) {
            return Err(Failure::Ourselves(format!("a request was about to be sent that {reason}")));
        }
        let patience = self.model.patience();
        let mut tries = 0;
        loop {
            tries += 1;
            let (message, retry_after_ms) = match self.try_once(request, address).await? {
                Ok(reply) => return Ok(reply),
                Err(Fault::Lasting(message)) => return Err(Failure::Recipe(message)),
                Err(Fault::Passing { message, retry_after_ms }) => (message, retry_after_ms),
            };
            if tries >= patience.tries {
                return Err(Failure::Remote(format!("{message} (tried {tries} times)")));
            }
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            halt::sleep(patience.pause(tries, retry_after_ms, address)).await;
        }
    }

    /// One request on the wire: reserve, send, read, keep, settle. The outer result ends the row, the inner one is the model's.
    async fn try_once(&self, request: &Request, address: &[u8; 32]) -> Result<std::result::Result<Reply, Fault>> {
        let reservation = self.budget.reserve(self.model.worst_case_usd(request)).await?;
        if halt::halted() {
            return Err(Failure::Cancelled);
        }
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.model.complete(request).await;
        let (raw, reply) = match answer.and_then(|raw| self.model.parse(&raw).map(|reply| (raw, reply))) {
            Ok(both) => both,
            Err(fault) => return Ok(Err(fault)),
        };
        let cost_usd = self.model.cost_usd(&reply.usage).unwrap_or(0.0);
        reservation.settle(cost_usd);
        self.meter.count(&reply.usage, cost_usd);
        self.meter.tallies.note(&self.port, request, &reply.usage);
        self.replies.put(address, &raw).map_err(cannot_keep)?;
        Ok(Ok(reply))
    }
}

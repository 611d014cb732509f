//! One request on its way to the model, as often as it takes: reserve, send, read, keep, settle.

use super::caller::Caller;
use super::endpoint::Permit;
use super::meter::Reservation;
use super::{Fault, Reply, Request, halt};
use crate::failure::{Failure, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A request that is refused (429) so often while others are let through is one that the server will never take: too many tokens
/// at once, say.
const REFUSALS_MAX: u32 = 24;

/// How often one request was sent in vain.
#[derive(Default)]
struct Vain {
    /// Without an answer, while the server was not out: those that count against `tries`.
    tries: u32,
    refusals: u32,
    sent: u32,
}

impl Caller {
    /// Sends until an answer comes or patience ends.
    pub(super) async fn send(&self, request: &Request, address: &[u8; 32]) -> Result<Reply> {
        if let Some(reason) = self.barred(request) {
            return Err(Failure::Ourselves(format!("a request was about to be sent that {reason}")));
        }
        let mut vain = Vain::default();
        loop {
            let fault = match self.try_once(request, address).await? {
                Ok(reply) => return Ok(reply),
                Err(fault) => fault,
            };
            let pause = self.pause(fault, &mut vain, address)?;
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            halt::sleep(pause).await;
        }
    }

    /// How long to wait before the next try, if there is to be one.
    fn pause(&self, fault: Fault, vain: &mut Vain, address: &[u8; 32]) -> Result<Duration> {
        let patience = self.model.patience();
        vain.sent += 1;
        let (message, retry_after_ms) = match fault {
            Fault::Lasting(message) => return Err(Failure::Recipe(message)),
            Fault::Refused { message, retry_after_ms } => {
                vain.refusals += 1;
                if vain.refusals < REFUSALS_MAX {
                    return Ok(patience.pause_after_refusal(vain.refusals, retry_after_ms, address));
                }
                (message, retry_after_ms)
            }
            Fault::Passing { message, retry_after_ms } | Fault::Crowded { message, retry_after_ms } => {
                vain.tries += u32::from(!self.lane.is_out());
                (message, retry_after_ms)
            }
        };
        if vain.tries >= patience.tries || vain.refusals >= REFUSALS_MAX {
            return Err(Failure::Remote(format!("{message} (tried {} times)", vain.sent)));
        }
        self.lane.may_retry()?;
        Ok(patience.pause(vain.tries.max(1), retry_after_ms, address))
    }

    /// One request on the wire: wait for its turn, reserve, send, read, keep, settle. The outer result ends the row, the inner one is
    /// the model's.
    async fn try_once(&self, request: &Request, address: &[u8; 32]) -> Result<std::result::Result<Reply, Fault>> {
        let permit = self.lane.admit(request).await?;
        let reservation = self.budget.reserve(self.model.worst_case_usd(request)).await?;
        if halt::halted() {
            return Err(Failure::Cancelled);
        }
        let sent = Sent { permit, reservation };
        let answer = match self.lane.hedging() {
            None => self.exchange(request, sent).await,
            Some(hedging) => self.hedged(request, sent, hedging).await,
        };
        let Answer { raw, reply } = match answer {
            Ok(answer) => answer,
            Err(fault) => return Ok(Err(fault)),
        };
        self.meter.tallies.note(&self.port, request, &reply.usage);
        // An answer that came in a batch is kept already.
        if self.replies.get(address).is_none_or(|kept| kept != raw) {
            self.keep(address, &raw).await?;
        }
        Ok(Ok(reply))
    }

    /// One request and its answer. Who leaves it in flight leaves the whole of what was set aside for it: it may be billed.
    pub(super) async fn exchange(&self, request: &Request, sent: Sent<'_>) -> std::result::Result<Answer, Fault> {
        let Sent { permit, mut reservation } = sent;
        reservation.stake();
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.model.complete(request).await;
        let answer = answer.and_then(|raw| self.model.parse(&raw).map(|reply| Answer { raw, reply }));
        match &answer {
            Err(fault) => {
                permit.failed(fault);
                reservation.settle(0.0);
            }
            Ok(Answer { reply, .. }) => {
                permit.answered(&reply.usage);
                let cost_usd = self.model.cost_usd(&reply.usage).unwrap_or(0.0);
                reservation.settle(cost_usd);
                self.meter.count(&reply.usage, cost_usd);
            }
        }
        answer
    }
}

/// The right to send one request, and the money for it.
pub(super) struct Sent<'a> {
    pub permit: Permit<'a>,
    pub reservation: Reservation<'a>,
}

/// What is kept, and what it says.
pub(super) struct Answer {
    pub raw: Vec<u8>,
    pub reply: Reply,
}

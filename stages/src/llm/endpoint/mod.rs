//! A server as all models and all nodes of one run share it: its connections, its limits, and whether it is out.
//!
//! Connections, the breaker and the allowance for sending again are the endpoint's. Limits are a model's there (a *lane*), as servers
//! count them: entries of a recipe that ask the same model share them, and the stricter of what they declare counts.

mod breaker;
mod bucket;
mod connections;
mod gate;
mod hedge;
mod learnt;
mod limits;
#[cfg(test)]
mod simulation;
mod told;
mod window;

use super::key::Key;
use super::{Fault, Patience, Request, Usage, halt};
use crate::failure::{Failure, Result};
use breaker::Bearing;
pub use connections::{Answer, Connections, Target, Timeouts, of_transport};
use gate::{Ending, Entry, Gate, Ticket};
pub use hedge::{After, Hedge, Hedging};
use hyper::HeaderMap;
pub use limits::Declared;
use limits::Size;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The endpoints of one run, each opened once.
#[derive(Default)]
pub struct Endpoints {
    open: Mutex<HashMap<(String, Option<[u8; 32]>), Arc<Endpoint>>>,
}

impl Endpoints {
    /// The endpoint behind an address and a key.
    pub fn at(&self, base_url: &str, key: Option<&Key>) -> Arc<Endpoint> {
        let url = base_url.trim_end_matches('/');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.entry((url.to_string(), key.map(Key::digest)))
            .or_insert_with(|| Endpoint::new(format!("the server at `{}`", host(url))))
            .clone()
    }
}

/// One server.
pub struct Endpoint {
    gate: Mutex<Gate>,
    /// Something changed at the gate.
    freed: Notify,
    connections: Mutex<Vec<Arc<Connections>>>,
}

impl Endpoint {
    fn new(name: String) -> Arc<Endpoint> {
        Arc::new(Endpoint { gate: Mutex::new(Gate::new(name)), freed: Notify::new(), connections: Mutex::default() })
    }

    /// Connections to it, shared by all who want the same timeouts.
    pub fn connections(&self, target: &Target, timeouts: Timeouts) -> Arc<Connections> {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|known| known.timeouts() == timeouts) {
            return known.clone();
        }
        let connections = Arc::new(Connections::new(target, timeouts));
        all.push(connections.clone());
        connections
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one entry of a recipe wants its server treated.
#[derive(Debug, Clone)]
pub struct Rules {
    pub declared: Declared,
    pub patience: Patience,
    pub outage_ms: u64,
    pub retries_per_answer: f64,
    pub tokens_out_max: Option<u64>,
    /// Sent with every request beside its messages.
    pub extra_bytes: usize,
    /// Whether a request whose answer takes long is sent a second time.
    pub hedge: Option<Hedge>,
}

impl Rules {
    /// For a model without a server: nothing is limited.
    pub fn unlimited(patience: Patience) -> Rules {
        Rules {
            declared: Declared { concurrency: usize::MAX, ..Declared::default() },
            patience,
            outage_ms: 0,
            retries_per_answer: 1.0,
            tokens_out_max: None,
            extra_bytes: 0,
            hedge: None,
        }
    }
}

/// One model's way through an endpoint.
#[derive(Clone)]
pub struct Lane {
    endpoint: Arc<Endpoint>,
    index: usize,
    rules: Arc<Rules>,
    hedging: Option<Arc<Hedging>>,
    /// Who holds it is the next; all others stand behind, in order.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Lane {
    pub fn new(endpoint: Arc<Endpoint>, model: &str, rules: Rules) -> Lane {
        let index = endpoint.gate().lane(model, &rules.declared, Instant::now());
        let hedging = rules.hedge.map(|hedge| Arc::new(Hedging::new(hedge)));
        Lane { endpoint, index, rules: Arc::new(rules), hedging, turn: Arc::default() }
    }

    /// One that leads to no server.
    pub fn unlimited(patience: Patience) -> Lane {
        Lane::new(Endpoint::new("the model".to_string()), "", Rules::unlimited(patience))
    }

    /// Waits until a request may be sent.
    pub(super) async fn admit(&self, request: &Request) -> Result<Permit<'_>> {
        let size = self.size(request);
        if let Ok(_turn) = self.turn.try_lock()
            && let Entry::Go(ticket) = self.endpoint.gate().enter(self.index, size, Instant::now())
        {
            return Ok(Permit { lane: self, ticket: Some(ticket) });
        }
        halt::unless_said(self.queue(size)).await.unwrap_or(Err(Failure::Cancelled))
    }

    /// The right to send a second copy of a request, where that need not wait: the places that are kept for copies are no one else's
    /// turn.
    pub(super) fn admit_copy(&self, request: &Request) -> Option<Permit<'_>> {
        let ticket = self.endpoint.gate().enter_copy(self.index, self.size(request), Instant::now())?;
        Some(Permit { lane: self, ticket: Some(ticket) })
    }

    /// Admits a request and takes it for answered at once; for measurements.
    pub async fn pass(&self, request: &Request, usage: &Usage) -> Result<()> {
        self.admit(request).await?.answered(usage);
        Ok(())
    }

    /// Where second copies are allowed.
    pub(super) fn hedging(&self) -> Option<&Hedging> {
        self.hedging.as_deref()
    }

    fn size(&self, request: &Request) -> Size {
        let prompt_bytes = request.bytes() + self.rules.extra_bytes;
        Size { prompt_bytes, tokens_out_max: self.rules.tokens_out_max }
    }

    async fn queue(&self, size: Size) -> Result<Permit<'_>> {
        let _turn = self.turn.lock().await;
        let mut paused = false;
        loop {
            let freed = self.endpoint.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            let entry = self.endpoint.gate().enter(self.index, size, Instant::now());
            match entry {
                Entry::Go(ticket) => {
                    if paused {
                        self.endpoint.gate().back().iter().for_each(halt::tell);
                    }
                    return Ok(Permit { lane: self, ticket: Some(ticket) });
                }
                Entry::Never(why) => return Err(give_up(&why)),
                Entry::Wait(until, notice) => {
                    paused |= notice.is_some();
                    notice.iter().for_each(halt::tell);
                    wait(freed, until).await;
                }
            }
        }
    }

    /// What the headers of an answer to a request sent at `sent_at` say of limits.
    pub fn hear(&self, headers: &HeaderMap, sent_at: Instant) {
        let (requests, tokens) = (told::Said::read(headers, told::REQUESTS), told::Said::read(headers, told::TOKENS));
        if requests.is_some() || tokens.is_some() {
            let now = Instant::now();
            self.endpoint.gate().hear(self.index, requests, tokens, now.saturating_duration_since(sent_at), now);
        }
    }

    /// Whether a failure is the server's outage and none of the row's.
    pub(super) fn is_out(&self) -> bool {
        self.endpoint.gate().is_out()
    }

    /// The right to send a request again that got no answer.
    pub(super) fn may_retry(&self) -> Result<()> {
        let mut gate = self.endpoint.gate();
        match gate.may_retry(self.rules.retries_per_answer) {
            true => Ok(()),
            false => {
                let why = gate.given_up().expect("only who gives up refuses");
                drop(gate);
                self.endpoint.freed.notify_waiters();
                Err(give_up(&why))
            }
        }
    }
}

async fn wait(freed: impl Future<Output = ()>, until: Option<Instant>) {
    match until {
        None => freed.await,
        Some(until) => _ = tokio::time::timeout_at(until.into(), freed).await,
    }
}

/// No row will get an answer from this server: all stop.
fn give_up(why: &Arc<str>) -> Failure {
    halt::call_off();
    Failure::Remote(why.to_string())
}

/// The right to have one request in flight.
pub(super) struct Permit<'a> {
    lane: &'a Lane,
    ticket: Option<Ticket>,
}

impl Permit<'_> {
    pub fn answered(mut self, usage: &Usage) {
        self.lane.endpoint.gate().earn_retries(self.lane.rules.retries_per_answer);
        self.end(&Ending::Answered(usage));
    }

    pub fn failed(mut self, fault: &Fault) {
        let ending = match fault {
            Fault::Refused { retry_after_ms, .. } => Ending::Refused(retry_after_ms.map(Duration::from_millis)),
            Fault::Crowded { message, .. } => Ending::Failed { words: message, is_crowded: true },
            Fault::Passing { message, .. } => Ending::Failed { words: message, is_crowded: false },
            Fault::Lasting(_) => Ending::Rejected,
        };
        self.end(&ending);
    }

    fn end(&mut self, ending: &Ending) {
        let Some(ticket) = self.ticket.take() else { return };
        let rules = &self.lane.rules;
        let bearing = Bearing { patience: rules.patience, outage: Duration::from_millis(rules.outage_ms) };
        let news = self.lane.endpoint.gate().leave(ticket, ending, &bearing, Instant::now());
        news.iter().for_each(halt::tell);
        self.lane.endpoint.freed.notify_waiters();
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.end(&Ending::Abandoned);
    }
}

/// The host and port of an address, and nothing secret that may stand in it.
fn host(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

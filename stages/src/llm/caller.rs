//! Asks a model so that every answer is paid once: looks in the replies first, sends equal questions once, keeps what comes.
//!
//! Of all who want one answer, a single one sends. Within a node the others wait for it; beyond the node, also in other processes,
//! they look again and again until its reply is there or its claim is given up. Who holds a claim waits for the model and the budget
//! only, never for another claim: so no two of them can wait for each other.

use super::egress::Egress;
use super::endpoint::Lane;
use super::halt;
use super::meter::{Budget, Meter};
use super::request::Asked;
use super::{LanguageModel, Manner, Reply, Request};
use crate::failure::{Failure, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks at a call that someone else makes: soon at first, for models that answer at once, then less often.
const FIRST_LOOK_MS: u64 = 5;
const LAST_LOOK_MS: u64 = 100;

/// Kept replies, by address. The engine stands behind it with the cache.
pub trait Replies: Send + Sync {
    fn get(&self, address: &[u8; 32]) -> Option<Vec<u8>>;
    /// Returns once the reply can no longer be lost by killing this process.
    fn put(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<()>;
    /// Takes a reply in that is kept by [`Replies::keep`], together with all that others hand in before. A number to call it by.
    fn hand_in(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<u64> {
        self.put(address, raw).map(|()| 0)
    }
    /// Returns once what was handed in under this number can no longer be lost by killing this process.
    fn keep(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    /// A folder for what must not be forgotten of calls that outlive this process.
    fn notes(&self) -> Option<PathBuf> {
        None
    }
    /// The right to make this call, until it is dropped; `None` while someone else has it. Once it is granted, `get` finds whatever
    /// those who had it before have put. Replies that only one asks for need no claims.
    fn claim(&self, _: &[u8; 32]) -> std::io::Result<Option<Claimed>> {
        Ok(Some(Box::new(())))
    }
}

/// Gives the claim up when dropped.
pub type Claimed = Box<dyn Send>;

/// Who looks on while a stage is played through with the replies that are kept: a plan that counts, a trace that tells.
pub trait Watcher: Send + Sync {
    /// The reply to a question was kept; `unusable` says why the stage cannot read it, where it cannot.
    fn answered(&self, request: &Request, reply: &Reply, unusable: Option<&str>);
    /// No reply is kept. The row ends here, as if it had been marked: what would follow depends on the answer.
    fn unanswered(&self, request: &Request);
}

/// One node's way to one model. Clones share what is in flight.
#[derive(Clone)]
pub struct Caller {
    pub model: Arc<dyn LanguageModel>,
    pub replies: Arc<dyn Replies>,
    pub meter: Arc<Meter>,
    pub budget: Arc<Budget>,
    /// Put questions again whose kept replies never parsed (`run --retry-marked`).
    pub retry_marked: bool,
    /// Under which answers are counted.
    pub(super) port: Arc<str>,
    pub(super) lane: Lane,
    asked: Arc<Asked>,
    /// Answers come from a server, many at a time.
    is_served: bool,
    in_flight: Arc<InFlight>,
    /// What may not go to the model.
    egress: Option<Arc<Egress>>,
    /// Set where nothing may be sent.
    pub(super) watcher: Option<Arc<dyn Watcher>>,
    pub(super) manner: Manner,
}

impl Caller {
    pub fn new(
        model: Arc<dyn LanguageModel>,
        replies: Arc<dyn Replies>,
        meter: Arc<Meter>,
        budget: Arc<Budget>,
        retry_marked: bool,
    ) -> Caller {
        model.keep_in(&replies);
        let (asked, manner) = (Arc::new(Asked::new(&model.identity())), model.manner());
        let is_served = model.lane().is_some();
        let lane = model.lane().unwrap_or_else(|| Lane::unlimited(model.patience()));
        let (port, in_flight) = ("".into(), Arc::default());
        let (egress, watcher) = (None, None);
        Caller {
            model,
            replies,
            meter,
            budget,
            retry_marked,
            port,
            lane,
            asked,
            is_served,
            in_flight,
            egress,
            watcher,
            manner,
        }
    }

    /// The same, behind this port of its node.
    pub fn at_port(self, port: &str) -> Caller {
        Caller { port: port.into(), ..self }
    }

    /// The same, with a egress before it.
    pub fn behind(self, egress: Option<Arc<Egress>>) -> Caller {
        Caller { egress, ..self }
    }

    /// Why this may not go to the model, where it may not. The one place at which that is asked.
    pub(super) fn barred(&self, request: &Request) -> Option<String> {
        self.egress.as_ref()?.barred(request)
    }

    /// One that sends nothing: it answers with the kept replies and tells the watcher of every question.
    pub fn looking(
        model: Arc<dyn LanguageModel>,
        replies: Arc<dyn Replies>,
        retry_marked: bool,
        watcher: Arc<dyn Watcher>,
    ) -> Caller {
        let caller = Caller::new(model, replies, Arc::default(), Arc::new(Budget::new(None)), retry_marked);
        Caller { watcher: Some(watcher), ..caller }
    }

    /// The kept reply, or a fresh one that is kept before it is returned. Equal questions in flight are sent once.
    pub async fn ask(&self, request: &Request) -> Result<Reply> {
        assert!(self.watcher.is_none(), "who only looks sends nothing");
        let address = self.address(request);
        if let Some(reply) = self.kept(&address) {
            return Ok(self.reuse(request, reply));
        }
        let flight = self.in_flight.board(address);
        let _turn = flight.turn.lock().await;
        if let Some(reply) = self.kept(&address) {
            return Ok(self.reuse(request, reply));
        }
        let _claim = self.claim(&address).await?;
        match self.kept(&address) {
            Some(reply) => Ok(self.reuse(request, reply)),
            None => self.send(request, &address).await,
        }
    }

    /// `None` where nothing may be sent and no reply is kept.
    pub(super) async fn ask_or_look(&self, request: &Request) -> Result<Option<Reply>> {
        let Some(watcher) = &self.watcher else { return self.ask(request).await.map(Some) };
        let reply = self.kept(&self.address(request));
        if reply.is_none() {
            watcher.unanswered(request);
        }
        Ok(reply)
    }

    pub(super) fn is_kept(&self, request: &Request) -> bool {
        self.kept(&self.address(request)).is_some()
    }

    fn address(&self, request: &Request) -> [u8; 32] {
        request.address_of(&self.asked, self.model.reads_task())
    }

    /// A kept reply that can still be read; a broken one counts as none and is replaced.
    fn kept(&self, address: &[u8; 32]) -> Option<Reply> {
        self.model.parse(&self.replies.get(address)?).ok()
    }

    /// Keeps a reply. Of a server's answers all that are here by now are written together.
    pub(super) async fn keep(&self, address: &[u8; 32], raw: &[u8]) -> Result<()> {
        let number = self.replies.hand_in(address, raw).map_err(cannot_keep)?;
        if self.is_served {
            tokio::task::yield_now().await;
        }
        self.replies.keep(number).map_err(cannot_keep)
    }

    fn reuse(&self, request: &Request, reply: Reply) -> Reply {
        self.meter.calls_reused.fetch_add(1, Ordering::Relaxed);
        self.meter.tallies.note(&self.port, request, &reply.usage);
        reply
    }

    /// Waits until nobody else makes this call.
    async fn claim(&self, address: &[u8; 32]) -> Result<Claimed> {
        let mut pause_ms = FIRST_LOOK_MS;
        loop {
            if let Some(claim) = self.replies.claim(address).map_err(cannot_keep)? {
                return Ok(claim);
            }
            if halt::halted() {
                return Err(Failure::Cancelled);
            }
            halt::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (2 * pause_ms).min(LAST_LOOK_MS);
        }
    }
}

fn cannot_keep(error: std::io::Error) -> Failure {
    Failure::Replies(format!("cannot keep replies: {error}"))
}

/// The addresses being asked for at this moment: who comes second waits for the first and then finds its reply kept.
#[derive(Default)]
struct InFlight {
    flights: Mutex<HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>>,
}

impl InFlight {
    fn board(self: &Arc<Self>, address: [u8; 32]) -> Flight {
        let turn = self.flights.lock().unwrap().entry(address).or_default().clone();
        Flight { address, turn, all: self.clone() }
    }
}

struct Flight {
    address: [u8; 32],
    turn: Arc<tokio::sync::Mutex<()>>,
    all: Arc<InFlight>,
}

impl Drop for Flight {
    /// The last one aboard removes the entry: two references are left then, its own and the map's.
    fn drop(&mut self) {
        let mut flights = self.all.flights.lock().unwrap();
        if Arc::strong_count(&self.turn) == 2 {
            flights.remove(&self.address);
        }
    }
}

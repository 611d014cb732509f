//! Language models behind one trait, and the caller that makes every reply count once.

pub mod asking;
pub mod caller;
mod correcting;
pub mod crowd;
pub mod egress;
pub mod endpoint;
pub mod halt;
mod hedging;
mod in_order;
pub mod key;
pub mod local;
pub mod meter;
pub mod openai;
pub mod patience;
pub mod prices;
pub mod reading;
pub mod rehearsal;
pub mod request;
mod sending;
pub mod served;
pub mod spec;
pub mod tally;

pub use asking::{Outcome, Unusable};
pub use caller::{Caller, Claimed, Replies, Watcher};
pub use crowd::{each_row, for_each_row};
pub use egress::{Egress, Expression, Passage};
pub use endpoint::Endpoints;
pub use meter::{Budget, Meter, MeterReading};
pub use patience::Patience;
pub use reading::ReadingModel;
pub use request::{Message, Reply, ReplyFormat, Request, Shape, Task, Usage};
pub use spec::ModelSpec;
pub use tally::{Moments, Tallies, Tally};

use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;

/// A model that answers one request. Implementations: `openai` (HTTP), `rehearsal` (embedded), `local` (our own decoder).
pub trait LanguageModel: Send + Sync {
    /// What the recipe declares about the model and how it samples; part of every reply's address and of node keys.
    /// Never base URL, API key, timeouts, concurrency, prices.
    fn identity(&self) -> Value;
    /// The raw answer as it is kept (for HTTP the body). A [`Fault`] is no answer and is never kept.
    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<u8>, Fault>>;
    /// Where replies are kept, told before the first question: for answers that nobody waits for any more.
    fn keep_in(&self, _: &Arc<dyn Replies>) {}
    /// Reads a raw answer, fresh or kept.
    fn parse(&self, raw: &[u8]) -> Result<Reply, Fault>;
    /// Whether [`Request::task`] is part of the address (a rehearsal answers from it; HTTP never sees it).
    fn reads_task(&self) -> bool {
        false
    }
    /// How it is asked; shows in the requests, so [`LanguageModel::identity`] need not name it.
    fn manner(&self) -> Manner {
        Manner::default()
    }
    /// A label that everything made by this model carries, such as `rehearsal`.
    fn label(&self) -> Option<&'static str> {
        None
    }
    /// Requests in flight at most.
    fn concurrency(&self) -> usize;
    /// How often and how patiently a question without an answer is put again.
    fn patience(&self) -> Patience {
        Patience::default()
    }
    /// Its way to a server that others ask too; `None` where it needs none.
    fn lane(&self) -> Option<endpoint::Lane> {
        None
    }
    /// US dollars for a usage, where prices are known.
    fn cost_usd(&self, usage: &Usage) -> Option<f64>;
    /// The most a request can cost before its answer is known.
    fn worst_case_usd(&self, request: &Request) -> Option<f64>;
}

/// How questions are put to a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    /// A reply that cannot be used is sent back with what is wrong with it; else the same question is put again.
    pub corrects: bool,
    /// Where a kind knows the shape of the JSON that it wants, its schema is demanded.
    pub schemas: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { corrects: true, schemas: false }
    }
}

/// No answer came. Transport, status, empty choices, a broken envelope.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// Worth asking again, perhaps after the given pause.
    #[error("{message}")]
    Passing { message: String, retry_after_ms: Option<u64> },
    /// As passing, but because the server has too much to do: 503, or no answer in time.
    #[error("{message}")]
    Crowded { message: String, retry_after_ms: Option<u64> },
    /// 429: more was sent than is allowed. Says nothing against the request and costs nothing.
    #[error("{message}")]
    Refused { message: String, retry_after_ms: Option<u64> },
    /// Asking again cannot help (400, 401, 403, 404, 422): the node stops, with the server's words.
    #[error("{0}")]
    Lasting(String),
}

/// Makes rustls use ring. Called once by whoever may talk HTTPS; calling it again does nothing.
pub fn install_tls() {
    _ = rustls::crypto::ring::default_provider().install_default();
}

//! Language models behind one trait, and the caller that makes every reply count once.

pub mod caller;
pub mod crowd;
pub mod endpoint;
pub mod halt;
pub mod local;
pub mod meter;
pub mod openai;
pub mod patience;
pub mod prices;
pub mod reading;
pub mod rehearsal;
pub mod request;
mod sending;
pub mod spec;
pub mod tally;

pub use caller::{Caller, Claimed, Outcome, Replies, Watcher};
pub use crowd::for_each_row;
pub use endpoint::Endpoints;
pub use meter::{Budget, Meter, MeterReading};
pub use patience::Patience;
pub use reading::ReadingModel;
pub use request::{Message, Reply, ReplyFormat, Request, Task, Usage};
pub use spec::ModelSpec;
pub use tally::{Moments, Tallies, Tally};

use futures::future::BoxFuture;
use serde_json::Value;

/// A model that answers one request. Implementations: `openai` (HTTP), `rehearsal` (embedded), `local` (our own decoder).
pub trait LanguageModel: Send + Sync {
    /// What the recipe declares about the model and how it samples; part of every reply's address and of node keys.
    /// Never base URL, API key, timeouts, concurrency, prices.
    fn identity(&self) -> Value;
    /// The raw answer as it is kept (for HTTP the body). A [`Fault`] is no answer and is never kept.
    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Vec<u8>, Fault>>;
    /// Reads a raw answer, fresh or kept.
    fn parse(&self, raw: &[u8]) -> Result<Reply, Fault>;
    /// Whether [`Request::task`] is part of the address (a rehearsal answers from it; HTTP never sees it).
    fn reads_task(&self) -> bool {
        false
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

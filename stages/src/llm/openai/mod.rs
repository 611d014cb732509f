//! Any OpenAI-compatible endpoint.

mod batch;
mod body;
mod dialect;
pub(super) mod envelope;
mod events;
mod fault;
mod hedge;
mod line;
mod probe;
mod settings;
mod stream;
mod usage;

use super::endpoint::{Endpoints, Lane};
use super::key::Key;
use super::{Fault, LanguageModel, Manner, Patience, Replies, Reply, Request, Usage};
use crate::failure::Result;
use batch::Batches;
use futures::FutureExt;
use futures::future::BoxFuture;
use line::Line;
pub use probe::{Finding, Probed, Verdict, probe};
use serde_json::Value;
pub use settings::{OpenAiSettings, address_identity, identity, manner};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The field of a streaming request that asks for its usage.
const USAGE_WISH: &str = "stream_options";
/// The code of a 400 that means one prompt, not the way it was sent (Azure).
const FILTERED: &str = "(content_filter)";

/// A stream without an end.
const BROKEN_OFF: &str = "the stream ended before the answer did (no chunk had a `finish_reason`)";

/// Rows whose questions wait for batches at a time: as a batch takes hours, many.
const ROWS_IN_BATCHES: usize = 20_000;

/// A model behind HTTP. Cheap requests share one pool of kept-alive connections.
pub struct OpenAi {
    settings: OpenAiSettings,
    /// None for someone who only reads kept replies: that needs no key.
    line: Option<Arc<Line>>,
    /// Where requests go that are answered in batches; from the first caller on.
    batches: OnceLock<Arc<Batches>>,
    /// The server has refused `stream_options`: it streams without telling the usage.
    tells_no_usage: AtomicBool,
}

impl OpenAi {
    /// Ready to be asked.
    pub fn open(settings: OpenAiSettings, endpoints: &Endpoints) -> Result<OpenAi> {
        let line = Arc::new(Line::open(&settings, endpoints)?);
        Ok(OpenAi { line: Some(line), ..OpenAi::unopened(settings) })
    }

    /// One that reads kept replies and cannot be asked: no key is read, no connection prepared.
    pub fn unopened(settings: OpenAiSettings) -> OpenAi {
        OpenAi { settings, line: None, batches: OnceLock::new(), tells_no_usage: AtomicBool::new(false) }
    }

    fn key(&self) -> Option<&Key> {
        self.line.as_ref()?.key()
    }

    async fn ask(&self, request: &Request) -> std::result::Result<Vec<u8>, Fault> {
        let line = self.line.as_ref().expect("who only reads replies asks nothing");
        match self.batches.get() {
            Some(batches) => {
                let address = request.address(&self.identity(), self.reads_task());
                batches.answer(address, &body::bytes(&self.settings, request)).await
            }
            None if self.settings.stream.0 => self.stream(line, body::body(&self.settings, request)).await,
            None => line.post(body::bytes(&self.settings, request)).await,
        }
    }

    /// A batch costs less.
    fn price_share(&self) -> f64 {
        if self.settings.batch.0 { self.settings.batch_price.0 } else { 1.0 }
    }

    /// Streams, without the usage where the server does not take that wish.
    async fn stream(&self, line: &Line, mut body: Value) -> std::result::Result<Vec<u8>, Fault> {
        let wish = body.as_object_mut().expect("a body is an object");
        if self.tells_no_usage.load(Ordering::Relaxed) {
            wish.shift_remove(USAGE_WISH);
        }
        match line.post_streaming(body.to_string()).await {
            Err(Fault::Lasting(words)) if words.contains(USAGE_WISH) && body.get(USAGE_WISH).is_some() => {
                self.tells_no_usage.store(true, Ordering::Relaxed);
                body.as_object_mut().expect("a body is an object").shift_remove(USAGE_WISH);
                line.post_streaming(body.to_string()).await
            }
            answer => answer.map_err(|fault| self.of_broken_off(fault)),
        }
    }

    /// Some servers have one answer at a time: they break it off when the next question comes.
    fn of_broken_off(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Passing { message, retry_after_ms } if message == BROKEN_OFF && self.settings.concurrency.0 > 1 => {
                let message = format!(
                    "{message}; if it breaks off when others are asked, write `concurrency: 1` or `stream: false`"
                );
                Fault::Passing { message, retry_after_ms }
            }
            fault => fault,
        }
    }

    /// A prompt that the server's filter stopped is answered, by no words; a format that the server does not know has a setting.
    fn of_refused(&self, fault: Fault) -> std::result::Result<Vec<u8>, Fault> {
        let words = match fault {
            Fault::Lasting(words) => words,
            Fault::Passing { message, .. } if dialect::stumbles(self.settings.structured(), &message) => message,
            fault => return Err(fault),
        };
        if words.contains(FILTERED) {
            let words = self.key().map_or_else(|| words.clone(), |key| key.hide(&words));
            return Ok(envelope::withheld(&words));
        }
        let hint = dialect::hint(self.settings.structured(), &words).map(str::to_string);
        let hint = hint.or_else(|| body::hint(&self.settings.extra_body, &words));
        Err(Fault::Lasting(hint.map_or(words.clone(), |hint| format!("{words}\n  hint: {hint}"))))
    }
}

impl LanguageModel for OpenAi {
    fn identity(&self) -> Value {
        address_identity(identity(&self.settings))
    }

    fn manner(&self) -> Manner {
        manner(&identity(&self.settings))
    }

    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        async move {
            let answer = self.ask(request).await.or_else(|fault| self.of_refused(fault));
            answer.map_err(|fault| fault::redact(fault, self.key()))
        }
        .boxed()
    }

    fn keep_in(&self, replies: &Arc<dyn Replies>) {
        if let (true, Some(line), Some(notes)) = (self.settings.batch.0, &self.line, replies.notes()) {
            let folder = notes.join(line.name_of(&self.settings.model));
            self.batches.get_or_init(|| Batches::new(line.clone(), replies.clone(), self.settings.pace(), folder));
        }
    }

    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        envelope::parse(raw).map_err(|fault| fault::redact(fault, self.key()))
    }

    fn concurrency(&self) -> usize {
        if self.settings.batch.0 { ROWS_IN_BATCHES } else { self.settings.concurrency.0 }
    }

    fn patience(&self) -> Patience {
        self.settings.patience()
    }

    /// Batches have limits of their own, which the server keeps.
    fn lane(&self) -> Option<Lane> {
        self.line.as_ref().filter(|_| !self.settings.batch.0).map(|line| line.lane().clone())
    }

    fn cost_usd(&self, usage: &Usage) -> Option<f64> {
        Some(self.settings.prices.0.as_ref()?.cost_usd(usage) * self.price_share())
    }

    fn worst_case_usd(&self, request: &Request) -> Option<f64> {
        let system = self.settings.system.as_deref().unwrap_or_default();
        let prices = self.settings.prices.0.as_ref()?;
        Some(prices.worst_case_usd(system, request, self.settings.max_tokens?.into()) * self.price_share())
    }
}

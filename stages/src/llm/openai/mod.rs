//! Any OpenAI-compatible endpoint.

mod body;
pub(super) mod envelope;
mod fault;
mod line;
mod settings;

use super::endpoint::{Endpoints, Lane};
use super::{Fault, LanguageModel, Patience, Reply, Request, Usage};
use crate::failure::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use line::Line;
use serde_json::Value;
pub use settings::{OpenAiSettings, identity};

/// A model behind HTTP. Cheap requests share one pool of kept-alive connections.
pub struct OpenAi {
    settings: OpenAiSettings,
    /// None for someone who only reads kept replies: that needs no key.
    line: Option<Line>,
}

impl OpenAi {
    /// Ready to be asked.
    pub fn open(settings: OpenAiSettings, endpoints: &Endpoints) -> Result<OpenAi> {
        let line = Line::open(&settings, endpoints)?;
        Ok(OpenAi { settings, line: Some(line) })
    }

    /// One that reads kept replies and cannot be asked: no key is read, no connection prepared.
    pub fn unopened(settings: OpenAiSettings) -> OpenAi {
        OpenAi { settings, line: None }
    }

    fn key(&self) -> Option<&str> {
        self.line.as_ref()?.key()
    }
}

impl LanguageModel for OpenAi {
    fn identity(&self) -> Value {
        identity(&self.settings)
    }

    fn complete<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        let line = self.line.as_ref().expect("who only reads replies asks nothing");
        let body = body::body(&self.settings, request);
        async move { line.post(&body).await.map_err(|fault| fault::redact(fault, line.key())) }.boxed()
    }

    fn parse(&self, raw: &[u8]) -> std::result::Result<Reply, Fault> {
        envelope::parse(raw).map_err(|fault| fault::redact(fault, self.key()))
    }

    fn concurrency(&self) -> usize {
        self.settings.concurrency.0
    }

    fn patience(&self) -> Patience {
        self.settings.patience()
    }

    fn lane(&self) -> Option<Lane> {
        self.line.as_ref().map(|line| line.lane().clone())
    }

    fn cost_usd(&self, usage: &Usage) -> Option<f64> {
        Some(self.settings.prices.0.as_ref()?.cost_usd(usage))
    }

    fn worst_case_usd(&self, request: &Request) -> Option<f64> {
        let system = self.settings.system.as_deref().unwrap_or_default();
        Some(self.settings.prices.0.as_ref()?.worst_case_usd(system, request, self.settings.max_tokens?.into()))
    }
}

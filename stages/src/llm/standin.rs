//! Holds the place of `rehearsal` until that module lands.

use super::{Fault, LanguageModel, Reply, Request, Usage};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

crate::settings! {
    /// Placeholder.
    pub struct RehearsalSettings {
        pub settings: Map<String, Value> = Map::new(),
        pub skill: f64 = 1.0,
    }
}

pub struct Rehearsal {
    settings: RehearsalSettings,
}

impl Rehearsal {
    pub fn new(settings: RehearsalSettings) -> Rehearsal {
        Rehearsal { settings }
    }
}

impl LanguageModel for Rehearsal {
    fn identity(&self) -> Value {
        json!({"provider": "rehearsal", "settings": self.settings})
    }
    fn complete<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Vec<u8>, Fault>> {
        async { Err(Fault::Lasting("the rehearsal has not landed on this branch".to_string())) }.boxed()
    }
    fn parse(&self, raw: &[u8]) -> Result<Reply, Fault> {
        Ok(Reply { text: String::from_utf8_lossy(raw).into_owned(), ..Reply::default() })
    }
    fn reads_task(&self) -> bool {
        true
    }
    fn label(&self) -> Option<&'static str> {
        Some("rehearsal")
    }
    fn concurrency(&self) -> usize {
        64
    }
    fn cost_usd(&self, _: &Usage) -> Option<f64> {
        Some(0.0)
    }
    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        Some(0.0)
    }
}

//! A model folder or another node's trained model, answering through our own decoder.

use super::{Fault, LanguageModel, Reply, Request, Usage};
use crate::failure::{Failure, Result};
use crate::settings::{Reader, Settings, Step};
use crate::stage::{NodeRef, Unkeyed};
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use std::path::Path;

crate::settings! {
    /// A model in Hugging Face layout, run on this machine.
    pub struct LocalSettings {
        /// A node whose model answers; or `path`.
        pub node: Option<NodeRef> = None,
        /// A folder with config.json, safetensors and tokenizer.json; or `node`.
        pub path: Unkeyed<Option<String>> = Unkeyed(None),
        /// Sent as the first message.
        pub system: Option<String> = None,
        /// 0 is greedy.
        pub temperature: f64 = 0.0,
        pub top_p: f64 = 1.0,
        /// Generated tokens at most.
        pub max_tokens: u32 = 1024,
        pub seed: u64 = 0,
        /// Sequences generated side by side at most.
        pub concurrency: Unkeyed<usize> = Unkeyed(64),
    }
}

impl LocalSettings {
    /// Reads the settings and checks that exactly one source is named and that a named folder holds a model.
    pub fn read_checked(fields: &Map<String, Value>, reader: &mut Reader) -> Option<LocalSettings> {
        let mut settings = LocalSettings::read_fields(fields, reader)?;
        match (&settings.node, &settings.path.0) {
            (None, None) => {
                reader.mistake("missing-key", "a local model needs `node` or `path`", None);
                None
            }
            (Some(_), Some(_)) => {
                reader.mistake("excess-key", "`node` and `path` exclude each other", None);
                None
            }
            (Some(_), None) => Some(settings),
            (None, Some(path)) => {
                let folder = reader.folder.join(path);
                if !folder.join("config.json").is_file() {
                    let message = format!("no model in `{path}`: `config.json` is missing there");
                    reader
                        .within(Step::Key("path".to_string()), |reader| reader.mistake("missing-file", message, None));
                    return None;
                }
                settings.path = Unkeyed(Some(folder.to_string_lossy().into_owned()));
                Some(settings)
            }
        }
    }
}

/// An opened local model.
pub struct Local {
    settings: LocalSettings,
}

impl Local {
    pub fn open(_settings: LocalSettings, _device: kernels::Device, folder: &Path) -> Result<Local> {
        Err(Failure::Machine(format!("cannot open `{}`: the decoder has not landed on this branch", folder.display())))
    }
}

impl LanguageModel for Local {
    fn identity(&self) -> Value {
        serde_json::json!({"provider": "local", "settings": self.settings})
    }
    fn complete<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, std::result::Result<Vec<u8>, Fault>> {
        unreachable!("it cannot be opened yet")
    }
    fn parse(&self, _: &[u8]) -> std::result::Result<Reply, Fault> {
        unreachable!("it cannot be opened yet")
    }
    fn concurrency(&self) -> usize {
        self.settings.concurrency.0
    }
    fn cost_usd(&self, _: &Usage) -> Option<f64> {
        Some(0.0)
    }
    fn worst_case_usd(&self, _: &Request) -> Option<f64> {
        Some(0.0)
    }
}

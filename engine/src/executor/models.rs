//! The recipe's language models, opened when first called and shared by all nodes; and the kept replies behind them.

use crate::spec::ModelEntry;
use cache::{Claim, ContentHash, ReplyAddress, Store};
use stages::context::Device;
use stages::failure::{Failure, Result};
use stages::llm::{Claimed, Endpoints, LanguageModel, Replies};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub struct Models {
    device: Device,
    runtime: tokio::runtime::Handle,
    /// By name in the recipe and by the weights, where a node of the recipe makes them.
    opened: Mutex<HashMap<(String, Option<ContentHash>), Arc<dyn LanguageModel>>>,
    /// Servers, with the limits that all models there share.
    endpoints: Endpoints,
    replies: OnceLock<Arc<Kept>>,
}

impl Models {
    pub fn new(device: Device, runtime: tokio::runtime::Handle) -> Models {
        Models { device, runtime, opened: Mutex::default(), endpoints: Endpoints::default(), replies: OnceLock::new() }
    }

    /// `folder` places the weights of a model that a node made, and is called only where the model is not open yet.
    pub fn open<E: From<Failure>>(
        &self,
        entry: &ModelEntry,
        weights: Option<ContentHash>,
        folder: impl FnOnce() -> Result<Option<std::path::PathBuf>, E>,
    ) -> Result<Arc<dyn LanguageModel>, E> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (entry.name.clone(), weights);
        if let Some(model) = opened.get(&name) {
            return Ok(model.clone());
        }
        let folder = folder()?;
        let model = entry.spec.open_among(&self.endpoints, self.device.clone(), folder.as_deref(), &self.runtime)?;
        opened.insert(name, model.clone());
        Ok(model)
    }

    /// Opened with the first node that calls: a run of hits needs none.
    pub fn replies(&self, store: &Store) -> Result<Arc<dyn Replies>, cache::Error> {
        if let Some(replies) = self.replies.get() {
            return Ok(replies.clone());
        }
        let opened = Arc::new(Kept { replies: store.replies()?, notes: Some(store.layout().batches()) });
        Ok(self.replies.get_or_init(|| opened).clone())
    }

    /// Waits until all replies of this run would survive a power cut.
    pub fn flush(&self) -> Result<(), cache::Error> {
        self.replies.get().map_or(Ok(()), |replies| replies.replies.flush())
    }
}

/// Kept replies as callers know them.
pub struct Kept {
    pub replies: cache::Replies,
    /// None for who only looks.
    pub notes: Option<PathBuf>,
}

impl Replies for Kept {
    fn get(&self, address: &[u8; 32]) -> Option<Vec<u8>> {
        self.replies.get(&ReplyAddress(cache::Digest::from_bytes(*address)))
    }

    fn put(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<()> {
        self.replies.put(&ReplyAddress(cache::Digest::from_bytes(*address)), raw).map_err(std::io::Error::other)
    }

    fn hand_in(&self, address: &[u8; 32], raw: &[u8]) -> std::io::Result<u64> {
        self.replies.hand_in(&ReplyAddress(cache::Digest::from_bytes(*address)), raw).map_err(std::io::Error::other)
    }

    fn keep(&self, number: u64) -> std::io::Result<()> {
        self.replies.keep(number).map_err(std::io::Error::other)
    }

    fn notes(&self) -> Option<PathBuf> {
        self.notes.clone()
    }

    fn claim(&self, address: &[u8; 32]) -> std::io::Result<Option<Claimed>> {
        let claim = self.replies.claim(&ReplyAddress(cache::Digest::from_bytes(*address)));
        Ok(match claim.map_err(std::io::Error::other)? {
            Claim::Ours(claimed) => Some(Box::new(claimed)),
            Claim::Answered(_) => Some(Box::new(())),
            Claim::Elsewhere => None,
        })
    }
}

/// A place for the files of a node's model number `index`, as long as this process may read them.
pub fn model_folder(scratch: &Path, index: usize) -> std::path::PathBuf {
    scratch.join("models").join(index.to_string())
}

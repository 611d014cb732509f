//! Many things at once, to a shared store or from it, with progress.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::offer::There;
use super::sending::blobs_of;
use super::{Put, Sharing};
use crate::error::Result;
use crate::hash::{ActionKey, BlobHash};
use crate::manifest::Manifest;
use crate::store::Store;

/// Requests under way at once: enough to hide a store's latency, few enough for a laptop's line.
const THREADS: usize = 8;

/// How far a push or pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    pub done: usize,
    /// Grows while it is found out what there is to do.
    pub of: usize,
    /// Of what is done.
    pub bytes: u64,
}

/// Called from several threads, one at a time.
pub type Progress<'a> = &'a (dyn Fn(Transfer) + Sync);

impl Store {
    /// Sends finished actions, and all replies that are kept here, to the shared store, whatever the push policy. What is there
    /// already is left alone. Returns the keys that this store has nothing intact for.
    ///
    /// # Errors
    /// If the shared store does not answer; what was sent until then is there, and is not sent again.
    ///
    /// # Panics
    /// If this store has no shared one behind it.
    pub fn push(&self, keys: &[ActionKey], progress: Progress) -> Result<Vec<ActionKey>> {
        let sharing = self.sharing().expect("`push` needs a shared store");
        sharing.mark()?;
        let (found, absent) = self.to_send(sharing, keys)?;
        let blobs: BTreeSet<_> = found.iter().flat_map(|(manifest, _)| blobs_of(manifest)).collect();
        let counter = Counter::new(progress);
        counter.expect(blobs.len() + found.len());
        let blobs: Vec<_> = blobs.into_iter().collect();
        each(&blobs, |(blob, bytes)| {
            self.send_blob(sharing, blob, *bytes)?;
            counter.done(*bytes);
            Ok(())
        })?;
        each(&found, |(manifest, how)| {
            sharing.send_manifest(manifest, *how)?;
            sharing.tally().result_sent(&manifest.key, None);
            counter.done(0);
            Ok(())
        })?;
        self.push_replies(sharing, &counter)?;
        Ok(absent)
    }

    /// Fetches finished actions, blobs and all, and all replies, from the shared store. Returns the keys that could not be had whole.
    ///
    /// # Errors
    /// If the shared store does not answer; what was fetched until then is kept.
    ///
    /// # Panics
    /// If this store has no shared one behind it.
    pub fn pull(&self, keys: &[ActionKey], progress: Progress) -> Result<Vec<ActionKey>> {
        let sharing = self.sharing().expect("`pull` needs a shared store");
        let (found, absent) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        each(keys, |key| {
            match self.lookup(key)?.intact() {
                Some(manifest) => push_to(&found, manifest),
                None => push_to(&absent, *key),
            }
            Ok(())
        })?;
        let found = into_inner(found);
        let wanted: BTreeSet<_> = found.iter().flat_map(|manifest| self.absent_here(manifest)).collect();
        let wanted: Vec<_> = wanted.into_iter().collect();
        let counter = Counter::new(progress);
        counter.expect(wanted.len());
        let lost = Mutex::new(Vec::new());
        each(&wanted, |(blob, bytes)| {
            if self.fetch_blob(sharing, blob)?.is_none() {
                push_to(&lost, *blob);
            }
            counter.done(*bytes);
            Ok(())
        })?;
        self.pull_replies()?;
        let lost: BTreeSet<BlobHash> = into_inner(lost).into_iter().collect();
        let is_lost = |manifest: &&Manifest| blobs_of(manifest).iter().any(|(blob, _)| lost.contains(blob));
        let incomplete = found.iter().filter(is_lost).map(|manifest| manifest.key);
        Ok(into_inner(absent).into_iter().chain(incomplete).collect())
    }

    /// Manifests that the shared store lacks, and the keys that this store lacks itself.
    fn to_send(&self, sharing: &Sharing, keys: &[ActionKey]) -> Result<(Vec<(Manifest, Put)>, Vec<ActionKey>)> {
        let (found, absent) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        each(keys, |key| {
            let Some(manifest) = self.lookup_here(key)?.intact() else {
                push_to(&absent, *key);
                return Ok(());
            };
            match sharing.look(key)? {
                There::Nothing => push_to(&found, (manifest, Put::IfAbsent)),
                There::Usable(offer) if offer.is_trusted && self.is_complete(sharing, &offer)? => {}
                There::Usable(_) | There::Unusable => push_to(&found, (manifest, Put::Replace)),
            }
            Ok(())
        })?;
        Ok((into_inner(found), into_inner(absent)))
    }
}

/// Does `work` for each of `items` on several threads; the first failure ends it.
pub(crate) fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let (next, stopped, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let worker = || {
        while !stopped.load(Ordering::Relaxed)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = work(item) {
                stopped.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(items.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

pub(crate) struct Counter<'a> {
    progress: Progress<'a>,
    state: Mutex<Transfer>,
}

impl<'a> Counter<'a> {
    pub fn new(progress: Progress<'a>) -> Self {
        Self { progress, state: Mutex::default() }
    }

    pub fn expect(&self, more: usize) {
        self.change(|state| state.of += more);
    }

    pub fn done(&self, bytes: u64) {
        self.change(|state| {
            state.done += 1;
            state.bytes += bytes;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Transfer)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        (self.progress)(*state);
    }
}

pub(crate) fn push_to<T>(list: &Mutex<Vec<T>>, item: T) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

pub(crate) fn into_inner<T>(list: Mutex<Vec<T>>) -> Vec<T> {
    list.into_inner().unwrap_or_else(PoisonError::into_inner)
}

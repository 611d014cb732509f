//! What sharing did in this process: told to people at the end, never a reason to stop.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::hash::ActionKey;
use crate::trust::PublicKey;

/// How much went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Finished actions.
    pub manifests: u64,
    pub blobs: u64,
    pub replies: u64,
    pub bytes: u64,
}

/// What should be in the shared store and is not: `Store::push` makes up for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Finished actions.
    pub results: usize,
    /// Whether replies are among it.
    pub replies: bool,
    /// The first of the reasons.
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharingReport {
    pub fetched: Moved,
    pub sent: Moved,
    pub unsent: Option<Unsent>,
    /// How many manifests and logs of replies were not used because of who signed them; `None` signed by no one.
    pub refused: BTreeMap<Option<PublicKey>, u64>,
    /// How many things were not what their name says: misses.
    pub damaged: u64,
    /// Why others' replies could not be looked for in the end; some may have been paid for twice.
    pub cut_off: Option<String>,
}

#[derive(Default)]
pub(crate) struct Tally(Mutex<State>);

#[derive(Default)]
struct State {
    fetched: Moved,
    sent: Moved,
    unsent: HashMap<ActionKey, String>,
    first_reason: Option<String>,
    unsent_replies: Option<String>,
    cut_off: Option<String>,
    /// Paths, so that what is met twice counts once.
    refused: HashMap<String, Option<PublicKey>>,
    damaged: HashSet<String>,
}

impl Tally {
    pub fn fetched(&self, moved: Moved) {
        self.state().fetched.add(moved);
    }

    pub fn sent(&self, moved: Moved) {
        self.state().sent.add(moved);
    }

    pub fn refused(&self, path: &str, signer: Option<PublicKey>) {
        self.state().refused.insert(path.to_owned(), signer);
    }

    pub fn damaged(&self, path: &str) {
        self.state().damaged.insert(path.to_owned());
    }

    /// Notes how sending a finished action ended: a later success makes up for a failure.
    pub fn result_sent(&self, key: &ActionKey, failure: Option<&Error>) {
        let mut state = self.state();
        match failure.map(Error::to_string) {
            Some(reason) => {
                state.first_reason.get_or_insert(reason.clone());
                state.unsent.insert(*key, reason);
            }
            None => drop(state.unsent.remove(key)),
        }
    }

    /// The same for replies that wait to be sent.
    pub fn replies_sent(&self, failure: Option<&Error>) {
        self.state().unsent_replies = failure.map(Error::to_string);
    }

    /// The same for others' replies.
    pub fn replies_fetched(&self, failure: Option<&Error>) {
        self.state().cut_off = failure.map(Error::to_string);
    }

    pub fn report(&self) -> SharingReport {
        let state = self.state();
        let mut refused = BTreeMap::new();
        for signer in state.refused.values() {
            *refused.entry(*signer).or_default() += 1;
        }
        SharingReport {
            fetched: state.fetched,
            sent: state.sent,
            unsent: state.unsent(),
            refused,
            damaged: state.damaged.len() as u64,
            cut_off: state.cut_off.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn unsent(&self) -> Option<Unsent> {
        let results = self.unsent.len();
        let of_results = self.first_reason.as_ref().filter(|_| results > 0);
        let reason = of_results.or(self.unsent_replies.as_ref())?.clone();
        Some(Unsent { results, replies: self.unsent_replies.is_some(), reason })
    }
}

impl Moved {
    fn add(&mut self, more: Self) {
        self.manifests += more.manifests;
        self.blobs += more.blobs;
        self.replies += more.replies;
        self.bytes += more.bytes;
    }
}

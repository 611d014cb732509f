//! Which keys a node of a pipeline has had: so that `plan` can say what differs from the last time. Provenance, never identity.
//!
//! One append-only file a node, a line of JSON a key. Lost or damaged lines cost an explanation, nothing else; manifests name
//! pipeline and node too, so it can be rebuilt from them.

use std::fs::{self, OpenOptions};
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::error::{AtPath, Result};
use crate::hash::ActionKey;
use crate::store::Store;

/// One key that a node had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub key: ActionKey,
    /// Seconds since 1970 when it was last the current one.
    pub at: u64,
    pub pipeline: String,
    pub node: String,
}

impl Store {
    /// Notes that `key` is now the current one of a node. Repeating the last key writes nothing.
    pub fn remember(&self, pipeline: &str, node: &str, key: &ActionKey, at: u64) -> Result<()> {
        if self.history(pipeline, node).last().is_some_and(|last| last.key == *key) {
            return Ok(());
        }
        let generation = Generation { key: *key, at, pipeline: pipeline.to_owned(), node: node.to_owned() };
        // Begins with a line end, so that a torn line before it costs only itself.
        let line = format!("\n{}\n", serde_json::to_string(&generation).expect("names and numbers are JSON"));
        let path = self.layout().history(pipeline, node);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).at("write", &path)?;
        // One write: lines of several processes do not mix.
        file.write_all(line.as_bytes()).at("write", &path)
    }

    /// Every key the node has had, oldest first; lines that are unreadable or another node's are left out.
    pub fn history(&self, pipeline: &str, node: &str) -> Vec<Generation> {
        let mut known = generations(&fs::read(self.layout().history(pipeline, node)).unwrap_or_default());
        known.retain(|generation| generation.pipeline == pipeline && generation.node == node);
        known
    }
}

/// What a history file holds, oldest first.
pub(crate) fn generations(text: &[u8]) -> Vec<Generation> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Preimage;

    #[test]
    fn a_reverted_edit_is_the_newest_generation_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let key = |text| Preimage::new().text("prompt", text).action_key();
        for (at, text) in ["a", "a", "b", "a"].into_iter().enumerate() {
            store.remember("medical", "chains", &key(text), at as u64).unwrap();
        }
        let keys: Vec<_> = store.history("medical", "chains").into_iter().map(|generation| generation.key).collect();
        assert_eq!(keys, ["a", "b", "a"].map(key));
        assert!(store.history("medical", "verdicts").is_empty());
        assert!(store.history("legal", "chains").is_empty());
    }

    /// The disaster: `plan` explains one node by the edits of another.
    #[test]
    fn a_history_in_the_place_of_another_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.remember("p", "n", &Preimage::new().action_key(), 1).unwrap();
        let path = |node| store.layout().history("p", node);
        fs::copy(path("n"), path("m")).unwrap();
        assert_eq!((store.history("p", "n").len(), store.history("p", "m").len()), (1, 0));
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let key = Preimage::new().action_key();
        store.remember("p", "n", &key, 1).unwrap();
        let path = store.layout().history("p", "n");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\xff\xfe\n{\"key\":\"ab");
        fs::write(&path, bytes).unwrap();
        store.remember("p", "n", &Preimage::new().text("x", "y").action_key(), 2).unwrap();
        assert_eq!(store.history("p", "n").len(), 2);
    }
}

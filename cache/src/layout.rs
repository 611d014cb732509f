//! Where everything lies inside a store: the only file that joins paths.
//!
//! ```text
//! ROOT
//! ├── format                    "decoct-store 1"
//! ├── cas/ab/<blob hash>        bytes of one output file (Parquet, safetensors, …), read-only
//! ├── ac/ab/<action key>        manifest: preimage, outputs, provenance; sealed by a checksum
//! ├── replies/<writer>.log      replies of single model calls, appended by one process each
//! │   ├── <writer>.<a>-<b>.log  bytes a..b of another machine's log, fetched from a shared store
//! │   ├── <writer>.origins      what a log was merged from
//! │   └── <writer>.idx          address → offset of a log that no one writes any more
//! ├── claims/calls              locks on calls in flight, a byte each, by the first digits of their address
//! ├── batches/<server>/<name>   batches of calls that a server works on: what is in them, and what they are called there
//! ├── locks/<action key>        locks on actions in progress
//! ├── scratch/<action key>/     checkpoints of an action in progress; gone once it is published
//! ├── history/<hash>            which keys a node of a pipeline has had, oldest first
//! ├── runs/<begin>.jsonl        what a run did, a line a node; locked while it goes on
//! ├── pins/<name>.json          keys that no sweep takes
//! ├── stat.json                 stat cache of source files
//! ├── cubins/<hash>.cubin       kernels compiled for this machine's GPU; whoever computes there makes and reads them
//! ├── current/<hash>            what a run found up to date, and the stamps of all files that this rests on
//! └── tmp/                      files being written, on the same file system as their destination
//! ```
//! `format`, `cas`, `ac` and `replies` are what a shared store has too; the rest belongs to one machine. There, manifests are
//! signed, and replies lie in `replies/<writer>.<a>-<b>`, signed stretches of logs.

use std::path::{Path, PathBuf};

use crate::hash::{ActionKey, BlobHash, Digest, Hasher};

/// Written to `format`; raised when an older program could misread the store.
pub const FORMAT_VERSION: u32 = 1;

const HISTORY_DOMAIN: &str = "decoct 1 history file";

#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folders that exist in every store; those with two-digit subfolders make them on first use, and the first pin makes its own.
    pub fn folders(&self) -> Vec<PathBuf> {
        ["cas", "ac", "replies", "claims", "locks", "scratch", "history", "runs", "current", "tmp"]
            .map(|name| self.root.join(name))
            .into()
    }

    pub fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    /// Not made here: only machines with a GPU have it.
    pub fn cubins(&self) -> PathBuf {
        self.root.join("cubins")
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("cas")
    }

    pub fn blob(&self, hash: &BlobHash) -> PathBuf {
        fan_out(&self.blobs(), &hash.to_string())
    }

    pub fn manifests(&self) -> PathBuf {
        self.root.join("ac")
    }

    pub fn manifest(&self, key: &ActionKey) -> PathBuf {
        fan_out(&self.manifests(), &key.to_string())
    }

    pub fn replies(&self) -> PathBuf {
        self.root.join("replies")
    }

    /// `name` is a writer's log, or a stretch of one that was fetched from a shared store.
    pub fn reply_log(&self, name: &str) -> PathBuf {
        self.replies().join(format!("{name}.log"))
    }

    /// What is noted of batches of calls that a server works on.
    pub fn batches(&self) -> PathBuf {
        self.root.join("batches")
    }

    pub fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub fn lock(&self, key: &ActionKey) -> PathBuf {
        self.locks().join(key.to_string())
    }

    pub fn scratches(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub fn scratch(&self, key: &ActionKey) -> PathBuf {
        self.scratches().join(key.to_string())
    }

    pub fn histories(&self) -> PathBuf {
        self.root.join("history")
    }

    /// By hash, as a pipeline's label may hold any characters.
    pub fn history(&self, pipeline: &str, node: &str) -> PathBuf {
        let mut hasher = Hasher::new(HISTORY_DOMAIN);
        hasher.field("pipeline", pipeline.as_bytes()).field("node", node.as_bytes());
        self.histories().join(hasher.finish().to_string())
    }

    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// `name` is one that a file can have.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.pins().join(format!("{name}.json"))
    }

    pub fn stat_cache(&self) -> PathBuf {
        self.root.join("stat.json")
    }

    pub fn currents(&self) -> PathBuf {
        self.root.join("current")
    }

    pub fn current(&self, question: &Digest) -> PathBuf {
        self.currents().join(question.to_string())
    }

    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// `folder/ab/abcdef…`: 256 subfolders keep each of them small on every file system.
fn fan_out(folder: &Path, name: &str) -> PathBuf {
    folder.join(&name[..2]).join(name)
}

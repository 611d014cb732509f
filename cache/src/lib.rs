//! Finished work, found by its hash.
//!
//! - [`Preimage`]: everything that can change an outcome, in readable form; its hash is the [`ActionKey`] or [`ReplyAddress`].
//! - [`Store`]: finished actions. [`Store::lookup`] by key, [`Store::open_rows`] and [`Store::materialise`] read outputs
//!   (verified), [`Store::publish`] adds one (atomically).
//! - [`Replies`]: answers to single model calls, kept as they came.
//! - [`source_hash`]: identity of a file or folder outside the store.
//!
//! It knows nothing of recipes, stages, graphs, terminals or devices.

pub mod content;
pub mod error;
pub mod hash;
pub mod history;
pub mod key;
pub mod layout;
pub mod lock;
pub mod manifest;
pub mod memo;
pub mod notice;
pub mod provenance;
mod publish;
pub mod stat_cache;
pub mod store;
pub mod table;
pub mod tree;
mod write;

pub use content::{TableHasher, content_hash};
pub use error::{Error, Result};
pub use hash::{ActionKey, BlobHash, ContentHash, Digest, Hasher, ReplyAddress};
pub use history::Generation;
pub use key::{Difference, Preimage, canonical_json_hash};
pub use manifest::{Manifest, Output, TreeFile};
pub use memo::{Claim, Replies};
pub use notice::{Found, Notice};
pub use provenance::{Provenance, now_seconds};
pub use publish::Publication;
pub use stat_cache::{StatCache, source_hash};
pub use store::{KeyLock, Store};
pub use table::{Table, TableSummary, TableWriter, read_table};
pub use tree::{Placement, files_of, folder_content};

//! Finished work, found by its hash.
//!
//! - [`Preimage`]: everything that can change an outcome, in readable form; its hash is the [`ActionKey`] or [`ReplyAddress`].
//! - [`Store`]: finished actions. [`Store::lookup`] by key, [`Store::open_rows`] and [`Store::materialise`] read outputs
//!   (verified), [`Store::publish`] adds one (atomically).
//! - [`Replies`]: answers to single model calls, kept as they came.
//! - [`Sharing`]: a store that a team shares, behind a private one: [`Store::shared`], [`Store::push`], [`Store::pull`].
//! - [`Trust`]: whose work from a shared store is used, and the key that signs one's own.
//! - [`source_hash`]: identity of a file or folder outside the store.
//!
//! It knows nothing of recipes, stages, graphs, terminals or devices.

pub mod content;
pub mod error;
pub mod hash;
pub mod history;
pub mod key;
pub mod layout;
mod line;
pub mod lock;
pub mod manifest;
pub mod memo;
pub mod notice;
pub mod pin;
pub mod provenance;
mod publish;
pub mod remote;
pub mod runs;
mod stamp;
pub mod stat_cache;
pub mod store;
mod survey;
pub mod sweep;
pub mod table;
pub mod tree;
pub mod trust;
pub mod up_to_date;
pub mod usage;
pub mod verify;
mod write;

pub use content::{TableHasher, content_hash};
pub use error::{Error, Result};
pub use hash::{ActionKey, BlobHash, ContentHash, Digest, Hasher, ReplyAddress};
pub use history::Generation;
pub use key::{Difference, Preimage, canonical_json_hash};
pub use manifest::{Manifest, Output, Sealed, TreeFile};
pub use memo::{Claim, Merged, Origins, Replies};
pub use notice::{Found, Notice};
pub use pin::Pin;
pub use provenance::{Provenance, now_seconds};
pub use publish::{Publication, TableFile, WrittenTable};
pub use remote::{Bucket, Moved, Push, Put, Sharing, SharingOptions, SharingReport, Transfer, Unsent};
pub use runs::{Run, RunHead, RunNode, RunRecord};
pub use stat_cache::{StatCache, source_hash};
pub use store::{KeyLock, Store};
pub use sweep::{SweepOptions, SweepPlan, Swept};
pub use table::{Batches, StoredTable, Table, TableSummary, TableWriter, read_table};
pub use tree::{Placement, files_of, folder_content};
pub use trust::{PublicKey, Signature, Signer, Standing, Trust, TrustError};
pub use up_to_date::{Basis, UpToDate};
pub use usage::{NodeUsage, Share, Usage};
pub use verify::{Problem, Verified, VerifyProgress};

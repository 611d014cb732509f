//! A store that a team shares: finished work and replies in a folder or an object store that all of them can reach.
//!
//! It holds what a private store holds in `cas`, `ac` and `replies`, under the same names. Nothing in it is believed: blobs are
//! called by their hash, manifests and replies count if a trusted writer has signed them, everything else is a miss. Nothing
//! rests on locks or on a store that lets only one of two writers win: a writer reads back what it wrote and goes on with that.

pub mod bucket;
mod courier;
mod folder;
#[cfg(feature = "object-store")]
mod object;
mod offer;
mod post;
mod report;
mod sending;
mod stretch;
mod stretches;
mod tail;
mod transfer;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use bucket::{Bucket, Put};
pub(crate) use courier::Courier;
pub(crate) use post::Post;
pub use report::{Moved, SharingReport, Unsent};
pub use transfer::Transfer;

use crate::error::{Error, Result, without_secrets};
use crate::hash::BlobHash;
use crate::layout::{FORMAT_VERSION, Layout};
use crate::trust::Trust;
use folder::Folder;
use report::Tally;

/// When finished work goes to the shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Results when they are published, replies while they come.
    Always,
    /// When [`crate::Store::push`] is called.
    Manual,
    Never,
}

#[derive(Clone, Debug)]
pub struct SharingOptions {
    pub push: Push,
    pub trust: Arc<Trust>,
    /// Uses what no trusted writer has signed, in this process only: nothing of it is kept.
    pub allow_unsigned: bool,
}

/// One shared store, as this process sees it; clones count into one report.
#[derive(Clone)]
pub struct Sharing(Arc<Shared>);

struct Shared {
    bucket: Arc<dyn Bucket>,
    options: SharingOptions,
    /// Of paths relative to the store.
    layout: Layout,
    tally: Tally,
    /// Blobs whose bytes there are not those of their name: as good as absent, and sent again by whoever has them.
    spoilt: Mutex<HashSet<BlobHash>>,
    /// Set once the store is known to say which layout it has.
    marked: OnceLock<()>,
}

impl Sharing {
    /// `url` is a folder, or the address of an object store such as `s3://bucket/prefix`. Sends no request.
    ///
    /// # Errors
    /// If the address is of no known kind, or what it needs is missing in the environment.
    pub fn open(url: &str, options: SharingOptions) -> Result<Self> {
        let bucket: Arc<dyn Bucket> = match url.split_once("://") {
            None => Arc::new(Folder::new(Path::new(url))),
            Some(("file", path)) => Arc::new(Folder::new(Path::new(path))),
            Some(_) => open_objects(url)?.ok_or_else(|| Error::UnknownRemote { url: without_secrets(url) })?,
        };
        Ok(Self::with_bucket(bucket, options))
    }

    /// Any other place that can do what a [`Bucket`] does.
    pub fn with_bucket(bucket: Arc<dyn Bucket>, options: SharingOptions) -> Self {
        Self(Arc::new(Shared {
            bucket,
            options,
            layout: Layout::new(""),
            tally: Tally::default(),
            spoilt: Mutex::default(),
            marked: OnceLock::new(),
        }))
    }

    /// How people call the store.
    pub fn name(&self) -> &str {
        self.0.bucket.name()
    }

    /// One small request, so that a store out of reach, or of a newer program, is noticed before anything is spent.
    pub fn reach(&self) -> Result<()> {
        self.bucket().check()?;
        self.read_mark().map(drop)
    }

    /// What has been moved, refused and left undone so far.
    pub fn report(&self) -> SharingReport {
        self.0.tally.report()
    }

    /// What lies behind it, for someone who wraps it.
    pub fn bucket_handle(&self) -> Arc<dyn Bucket> {
        self.0.bucket.clone()
    }

    pub(crate) fn bucket(&self) -> &dyn Bucket {
        &*self.0.bucket
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub(crate) fn options(&self) -> &SharingOptions {
        &self.0.options
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.0.tally
    }

    pub(crate) fn spoilt(&self) -> MutexGuard<'_, HashSet<BlobHash>> {
        self.0.spoilt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the store which layout it has, before anything is written there.
    pub(crate) fn mark(&self) -> Result<()> {
        if self.0.marked.get().is_none() && !self.read_mark()? {
            let text = format!("decoct-store {FORMAT_VERSION}\n");
            self.bucket().put(&path_text(&self.layout().format()), text.as_bytes(), Put::IfAbsent)?;
            self.0.marked.get_or_init(|| ());
        }
        Ok(())
    }

    /// Whether the store says which layout it has.
    fn read_mark(&self) -> Result<bool> {
        let path = self.layout().format();
        let Some(bytes) = self.bucket().get(&path_text(&path))? else { return Ok(false) };
        let place = PathBuf::from(format!("{}/{}", self.name(), path.display()));
        crate::store::check_format_text(&place, &String::from_utf8_lossy(&bytes))?;
        self.0.marked.get_or_init(|| ());
        Ok(true)
    }
}

#[cfg(feature = "object-store")]
fn open_objects(url: &str) -> Result<Option<Arc<dyn Bucket>>> {
    Ok(object::Objects::open(url)?.map(|objects| Arc::new(objects) as Arc<dyn Bucket>))
}

#[cfg(not(feature = "object-store"))]
fn open_objects(url: &str) -> Result<Option<Arc<dyn Bucket>>> {
    Err(Error::WithoutObjects { url: without_secrets(url) })
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sharing({})", self.name())
    }
}

/// A path of our own layout as a bucket knows it.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_str().expect("names in a store are ASCII").to_owned()
}

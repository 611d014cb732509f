//! What lies in a store right now, by a walk over its folders: where `usage`, `sweep` and `verify` start. Files may come and go
//! meanwhile; one that is gone is left out.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::error::{AtPath, Error, Result};
use crate::hash::{ActionKey, BlobHash};
use crate::layout::Layout;
use crate::manifest::Manifest;

/// What tells a file from another one that takes its place.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub inode: (u64, u64),
    pub modified: SystemTime,
    pub bytes: u64,
    /// Names that the file has; what it takes is free when the last one is gone.
    pub links: u64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            bytes: metadata.len(),
            links: metadata.nlink(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.inode, self.modified, self.bytes) == (other.inode, other.modified, other.bytes)
    }
}

/// A manifest as it lies there; the reason where it is none.
pub struct StoredManifest {
    pub key: ActionKey,
    pub path: PathBuf,
    pub stamp: Stamp,
    pub manifest: Result<Manifest, &'static str>,
}

/// Every file in the place of a manifest, read and checked; nothing is evicted.
pub fn manifests(layout: &Layout) -> Result<Vec<StoredManifest>> {
    let mut found = Vec::new();
    for (path, stamp) in shelved(&layout.manifests())? {
        let Some(key) = name_of(&path).parse::<ActionKey>().ok() else { continue };
        let Some(bytes) = unless_gone(fs::read(&path)).at("read", &path)? else { continue };
        found.push(StoredManifest { key, manifest: Manifest::from_bytes(&key, &bytes), path, stamp });
    }
    Ok(found)
}

pub fn blobs(layout: &Layout) -> Result<BTreeMap<BlobHash, Stamp>> {
    let files = shelved(&layout.blobs())?.into_iter();
    Ok(files.filter_map(|(path, stamp)| Some((name_of(&path).parse().ok()?, stamp))).collect())
}

/// Files in `folder` itself.
pub fn files_in(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    Ok(entries(folder)?.into_iter().filter(|(_, metadata)| metadata.is_file()).map(stamped).collect())
}

/// Files anywhere under `folder`; links are not followed.
pub fn files_below(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    let mut files = Vec::new();
    for (path, metadata) in entries(folder)? {
        match metadata.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(stamped((path, metadata))),
        }
    }
    Ok(files)
}

/// Folders in `folder`.
pub fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|(_, metadata)| metadata.is_dir()).map(|(path, _)| path).collect())
}

/// The last part of a path; empty where it is no text.
pub fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Removes a file unless another has taken its place since it was stamped; whether it is gone.
///
/// A writer may put the same blob in place at any moment. So the file is first moved aside, where no one else has it, and is put
/// back if it is not the one that was meant: for that instant it is missing, which costs a reader time, never rows.
pub fn remove_if_same(layout: &Layout, path: &Path, stamp: &Stamp) -> Result<bool> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let is_meant = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| Stamp::of(&metadata).is_same(stamp));
    if !is_meant(path) {
        return Ok(false);
    }
    let name = format!("swept-{:x}-{:x}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let aside = layout.temporary().join(name);
    if unless_gone(fs::rename(path, &aside)).at("remove", path)?.is_none() {
        return Ok(false);
    }
    if is_meant(&aside) {
        return unless_gone(fs::remove_file(&aside)).at("remove", &aside).map(|_| true);
    }
    unless_gone(fs::rename(&aside, path)).at("put back", path).map(|_| false)
}

/// Whether a living process holds the lock on a file. Only asked, and for that instant shared.
pub fn is_held(path: &Path) -> bool {
    let probe = File::open(path).map(|file| file.try_lock_shared());
    matches!(probe, Ok(Err(fs::TryLockError::WouldBlock)))
}

/// `None` in place of the error that there is no such file.
pub fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn shelved(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    let mut files = Vec::new();
    for shelf in folders_in(folder)? {
        files.extend(files_in(&shelf)?);
    }
    Ok(files)
}

fn stamped((path, metadata): (PathBuf, Metadata)) -> (PathBuf, Stamp) {
    (path, Stamp::of(&metadata))
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    let Some(listing) = unless_gone(fs::read_dir(folder)).at("list", folder)? else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for entry in listing {
        let path = entry.at("list", folder)?.path();
        if let Some(metadata) =
            unless_gone(fs::symlink_metadata(&path)).map_err(|error| Error::io("read", &path, error))?
        {
            entries.push((path, metadata));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

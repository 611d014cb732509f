//! Reads everything in a store, on all cores, and drops what is damaged, so that it is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{AtPath, Error, Result};
use crate::hash::{ActionKey, BlobHash};
use crate::history::generations;
use crate::manifest::{Manifest, Output};
use crate::memo::check::{self, CheckedLog};
use crate::store::Store;
use crate::survey::{self, Stamp, StoredManifest, files_in, name_of, remove_if_same, unless_gone};
use crate::tree::tree_content;
use crate::usage::Share;
use crate::write::hash_while_copying;

/// What a verification has read and found.
#[derive(Debug, Default)]
pub struct Verified {
    pub blobs: Share,
    pub manifests: Share,
    pub logs: Share,
    pub replies: u64,
    /// Histories, records of runs, pins.
    pub records: Share,
    /// Files that a manifest names and that are not here: fetched or made again when something needs them.
    pub absent_blobs: u64,
    pub problems: Vec<Problem>,
    /// Pipeline and node of what was dropped, where known.
    pub lost: BTreeSet<(String, String)>,
}

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    Blob(BlobHash),
    Manifest {
        key: ActionKey,
        reason: &'static str,
    },
    /// Its intact replies stay; the damaged ones are asked for again, and a merge leaves them out.
    Log {
        name: String,
        damaged_bytes: u64,
    },
    Index {
        name: String,
    },
    /// A history or the record of a run.
    Record {
        name: String,
        lost_lines: u64,
    },
    Pin {
        name: String,
    },
}

impl Problem {
    /// Whether nothing is left to do.
    pub fn is_repaired(&self) -> bool {
        !matches!(self, Self::Pin { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(hash) => write!(f, "the stored file `{hash}` was damaged and was dropped"),
            Self::Manifest { key, reason } => write!(f, "the stored record of `{key}` was dropped: {reason}"),
            Self::Log { name, damaged_bytes } => {
                write!(f, "{damaged_bytes} bytes of `{name}` are no intact reply: those are asked for again")
            }
            Self::Index { name } => write!(f, "the index of `{name}` was damaged and was dropped; it is made again"),
            Self::Record { name, lost_lines } => write!(f, "lines of `{name}` cannot be read: {lost_lines}"),
            Self::Pin { name } => write!(
                f,
                "pin `{name}` is damaged, so what it keeps is not known: pin again under the same name, or \
                 `decoct cache pin --remove {name}`"
            ),
        }
    }
}

/// How far a verification has come, in bytes of outputs and replies.
#[derive(Clone, Copy, Debug)]
pub struct VerifyProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

impl Store {
    /// Reads everything; evicts and reports what is damaged. `tell` hears how far it is, from several threads.
    ///
    /// # Errors
    /// If a folder cannot be listed, or something damaged cannot be removed.
    pub fn verify(&self, tell: &(dyn Fn(VerifyProgress) + Sync)) -> Result<Verified> {
        let layout = self.layout();
        let manifests = survey::manifests(layout)?;
        let mut verified = Verified::default();
        let damaged = self.verify_large(tell, &mut verified)?;
        let names = self.names_of_keys()?;
        for found in &manifests {
            verified.manifests.add(found.stamp.bytes);
            if let Some(reason) = fault_of(found) {
                remove_if_same(layout, &found.path, &found.stamp)?;
                verified.problems.push(Problem::Manifest { key: found.key, reason });
                verified.lost.extend(names.get(&found.key).cloned());
            }
        }
        let here = survey::blobs(layout)?;
        for manifest in manifests.iter().filter_map(|found| found.manifest.as_ref().ok()) {
            for (blob, _) in manifest.outputs.values().flat_map(Output::blobs) {
                if damaged.contains(&blob) {
                    verified.lost.insert((manifest.provenance.pipeline.clone(), manifest.provenance.node.clone()));
                } else if !here.contains_key(&blob) {
                    verified.absent_blobs += 1;
                }
            }
        }
        self.verify_records(&mut verified)?;
        Ok(verified)
    }

    /// Blobs and logs of replies; the blobs that were damaged.
    fn verify_large(
        &self,
        tell: &(dyn Fn(VerifyProgress) + Sync),
        verified: &mut Verified,
    ) -> Result<BTreeSet<BlobHash>> {
        let layout = self.layout();
        let mut pieces: Vec<Piece> = Vec::new();
        for (hash, stamp) in survey::blobs(layout)? {
            verified.blobs.add(stamp.bytes);
            pieces.push(Piece::Blob { hash, path: layout.blob(&hash), stamp });
        }
        for path in check::logs(&layout.replies())? {
            let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            pieces.push(Piece::Log { path, bytes });
        }
        let found = check_all(&pieces, tell)?;
        let mut damaged = BTreeSet::new();
        for (piece, found) in found {
            if let Finding::Log(log) = &found {
                verified.note_log(log);
            }
            if let (Piece::Blob { hash, path, stamp }, Finding::DamagedBlob) = (piece, found)
                && remove_if_same(layout, path, stamp)?
            {
                damaged.insert(*hash);
                verified.problems.push(Problem::Blob(*hash));
            }
        }
        Ok(damaged)
    }

    fn verify_records(&self, verified: &mut Verified) -> Result<()> {
        let layout = self.layout();
        for (path, stamp) in files_in(&layout.histories())? {
            let Some(bytes) = unless_gone(fs::read(&path)).at("read", &path)? else { continue };
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
            verified.note_record(&path, stamp, lines - generations(&bytes).len() as u64);
        }
        for run in self.runs()? {
            let path = layout.runs().join(format!("{}.jsonl", run.name));
            // The last line of a run that goes on may be half written.
            let lost_lines = if run.is_live { 0 } else { run.lost_lines };
            if let Some(metadata) = unless_gone(fs::metadata(&path)).at("read", &path)? {
                verified.note_record(&path, Stamp::of(&metadata), lost_lines);
            }
        }
        let pins = files_in(&layout.pins())?;
        pins.iter().for_each(|(_, stamp)| verified.records.add(stamp.bytes));
        match self.pins() {
            Err(Error::DamagedPin { name }) => verified.problems.push(Problem::Pin { name }),
            other => drop(other?),
        }
        Ok(())
    }

    /// Pipeline and node of every key that a history tells of.
    fn names_of_keys(&self) -> Result<BTreeMap<ActionKey, (String, String)>> {
        let mut names = BTreeMap::new();
        for (path, _) in files_in(&self.layout().histories())? {
            let bytes = fs::read(&path).unwrap_or_default();
            let known = generations(&bytes).into_iter();
            names.extend(known.map(|generation| (generation.key, (generation.pipeline, generation.node))));
        }
        Ok(names)
    }
}

impl Verified {
    fn note_log(&mut self, log: &CheckedLog) {
        self.logs.add(log.bytes);
        self.replies += log.replies;
        let name = name_of(&log.path).to_owned();
        match log.damaged_bytes {
            0 if log.dropped_index => self.problems.push(Problem::Index { name }),
            0 => {}
            // The index told of what is no longer there.
            damaged_bytes => self.problems.push(Problem::Log { name, damaged_bytes }),
        }
    }

    fn note_record(&mut self, path: &Path, stamp: Stamp, lost_lines: u64) {
        self.records.add(stamp.bytes);
        if lost_lines > 0 {
            let folder = path.parent().map(name_of).unwrap_or_default();
            self.problems.push(Problem::Record { name: format!("{folder}/{}", name_of(path)), lost_lines });
        }
    }
}

/// One thing that takes time to read.
enum Piece {
    Blob { hash: BlobHash, path: PathBuf, stamp: Stamp },
    Log { path: PathBuf, bytes: u64 },
}

impl Piece {
    fn bytes(&self) -> u64 {
        match self {
            Self::Blob { stamp, .. } => stamp.bytes,
            Self::Log { bytes, .. } => *bytes,
        }
    }
}

enum Finding {
    Well,
    DamagedBlob,
    Log(CheckedLog),
}

/// Reads the pieces on all cores; findings in their order.
fn check_all<'a>(pieces: &'a [Piece], tell: &(dyn Fn(VerifyProgress) + Sync)) -> Result<Vec<(&'a Piece, Finding)>> {
    let (next, done_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let total_bytes = pieces.iter().map(Piece::bytes).sum();
    let findings = Mutex::new(Vec::new());
    let work = || {
        while let Some((number, piece)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, pieces.get(n)?)))
        {
            let found = check_one(piece);
            let done_bytes = done_bytes.fetch_add(piece.bytes(), Ordering::Relaxed) + piece.bytes();
            tell(VerifyProgress { done_bytes, total_bytes });
            findings.lock().unwrap_or_else(PoisonError::into_inner).push((number, found));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.sort_by_key(|(number, _)| *number);
    findings.into_iter().map(|(number, found)| Ok((&pieces[number], found?))).collect()
}

fn check_one(piece: &Piece) -> Result<Finding> {
    match piece {
        Piece::Blob { hash, path, .. } => Ok(check_blob(hash, path)),
        Piece::Log { path, .. } => Ok(check::check(path)?.map_or(Finding::Well, Finding::Log)),
    }
}

/// A disk that cannot read a sector back has lost the blob, as surely as a flipped bit.
fn check_blob(hash: &BlobHash, path: &Path) -> Finding {
    let read = File::open(path).and_then(|mut file| hash_while_copying(&mut file, &mut io::sink()));
    match read {
        Ok((found, _)) if found == *hash => Finding::Well,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::Well,
        _ => Finding::DamagedBlob,
    }
}

/// Why a manifest cannot be used, if so.
fn fault_of(found: &StoredManifest) -> Option<&'static str> {
    match &found.manifest {
        Err(reason) => Some(reason),
        Ok(manifest) if !trees_are_theirs(manifest) => Some("a list of files in it does not have the hash it claims"),
        Ok(_) => None,
    }
}

fn trees_are_theirs(manifest: &Manifest) -> bool {
    manifest.outputs.values().all(|output| match output {
        Output::Tree { content, files } => tree_content(files) == *content,
        Output::Rows { .. } => true,
    })
}

//! What merged logs were made from: beside each lies a list, and its name begins with that of its newest part.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::logs_in;
use super::record::SEGMENT_HEADER;
use super::segment::writer_name;
use crate::error::Result;
use crate::line::{sealed, unsealed};
use crate::survey::name_of;

/// Parts of the name of a log as its writer gave it: when it began, process, count, number.
const NAME_PARTS: usize = 4;

/// Which bytes of which logs a folder's merged logs hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Vec<Range<u64>>>);

impl Origins {
    /// Reads the lists in `folder`.
    ///
    /// # Errors
    /// If the folder cannot be listed. A list that is damaged counts as absent.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut origins = Self::default();
        for path in logs_in(folder, None)? {
            merged_from(&path).into_iter().for_each(|origin| origins.add(origin));
        }
        Ok(origins)
    }

    /// Every log of which there is something, and its ranges.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Range<u64>])> {
        self.0.iter().map(|(stem, ranges)| (stem.as_str(), ranges.as_slice()))
    }

    /// What one log was merged from; nothing for a log that was not.
    pub fn of_log(path: &Path) -> Self {
        let mut origins = Self::default();
        merged_from(path).into_iter().for_each(|origin| origins.add(origin));
        origins
    }

    /// What is here of the log whose file name begins with `stem`, ranges in order and apart.
    pub fn covered(&self, stem: &str) -> &[Range<u64>] {
        self.0.get(stem).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, origin: Origin) {
        let ranges = self.0.entry(origin.stem).or_default();
        ranges.push(origin.from..origin.to);
        ranges.sort_by_key(|range| range.start);
        *ranges = ranges.drain(..).fold(Vec::new(), joined);
    }
}

fn joined(mut ranges: Vec<Range<u64>>, next: Range<u64>) -> Vec<Range<u64>> {
    match ranges.last_mut().filter(|last| last.end >= next.start) {
        Some(last) => last.end = last.end.max(next.end),
        None => ranges.push(next),
    }
    ranges
}

/// Bytes `from..to` of one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    stem: String,
    from: u64,
    to: u64,
}

#[derive(Serialize, Deserialize)]
struct OriginList {
    origins: Vec<Origin>,
}

/// The list for a log that is merged from these, given with their sizes.
pub(super) fn list_of<'a>(sources: impl Iterator<Item = (&'a Path, u64)>) -> String {
    sealed(&OriginList { origins: sources.flat_map(|(path, bytes)| origins_of(path, bytes)).collect() })
}

/// Where the list of a log lies.
pub(super) fn list_path(log: &Path) -> PathBuf {
    log.with_extension("origins")
}

/// The name of a log that takes the place of `newest` and of older ones: in the order of names it comes where that was.
pub(super) fn merged_name(newest: &Path) -> String {
    let log = stem_of(newest).split('.').next().unwrap_or_default();
    let as_written = log.split('-').take(NAME_PARTS).collect::<Vec<_>>().join("-");
    format!("{as_written}-{}.log", writer_name().trim_end_matches('-'))
}

/// Whether a log called `stem` was merged from others: the name of its newest part, and when and by whom it was merged.
pub(super) fn is_merged(stem: &str) -> bool {
    !stem.contains('.') && stem.split('-').count() > NAME_PARTS
}

/// `<stem>.<from>-<to>`, as pieces fetched from a shared store are called.
fn piece_of(name: &str) -> Option<Origin> {
    let (stem, range) = name.rsplit_once('.')?;
    let (from, to) = range.split_once('-')?;
    Some(Origin { stem: stem.to_owned(), from: from.parse().ok()?, to: to.parse().ok()? })
}

/// What a log stands for: itself or a piece of another one, and all that it was merged from.
fn origins_of(path: &Path, bytes: u64) -> Vec<Origin> {
    let stem = stem_of(path);
    let whole = || Origin { stem: stem.to_owned(), from: SEGMENT_HEADER.len() as u64, to: bytes };
    let mut origins = merged_from(path);
    origins.push(piece_of(stem).unwrap_or_else(whole));
    origins
}

fn merged_from(path: &Path) -> Vec<Origin> {
    let list = fs::read(list_path(path)).ok().and_then(|bytes| unsealed::<OriginList>(&bytes));
    list.map(|list| list.origins).unwrap_or_default()
}

fn stem_of(log: &Path) -> &str {
    let name = name_of(log);
    name.strip_suffix(".log").unwrap_or(name)
}

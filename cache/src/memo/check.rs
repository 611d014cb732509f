//! Reads logs of replies to the end: how many there are, and whether every record of them is intact.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::logs_in;
use super::record::{SEGMENT_HEADER, scan};
use super::segment::{Segment, is_finished};
use crate::error::{AtPath, Result};
use crate::survey::unless_gone;

/// One log, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedLog {
    pub path: PathBuf,
    pub bytes: u64,
    /// Intact records.
    pub replies: u64,
    /// Bytes between or behind them that belong to none. The tail of a log in use does not count.
    pub damaged_bytes: u64,
    /// Its index did not fit and was dropped: the next reader makes it again.
    pub dropped_index: bool,
}

/// Logs, and different requests answered in them.
pub fn count(folder: &Path) -> Result<(u64, u64)> {
    let logs = logs_in(folder, None)?;
    let mut addresses = HashSet::new();
    for path in &logs {
        if let Some(contents) = Segment::new(path.clone()).load_unless_gone(true)? {
            addresses.extend(contents.entries.iter().map(|entry| entry.address));
        }
    }
    Ok((logs.len() as u64, addresses.len() as u64))
}

/// The logs in `folder`, to be checked one by one.
pub fn logs(folder: &Path) -> Result<Vec<PathBuf>> {
    logs_in(folder, None)
}

/// Reads all of one log; `None` if it is gone. An index that says something else is dropped.
pub fn check(path: &Path) -> Result<Option<CheckedLog>> {
    let is_finished = is_finished(path);
    let Some(bytes) = unless_gone(fs::read(path)).at("read", path)? else { return Ok(None) };
    let header_bytes = SEGMENT_HEADER.len();
    let has_header = bytes.starts_with(&SEGMENT_HEADER);
    let found = scan(bytes.get(header_bytes..).unwrap_or_default(), header_bytes as u64);
    let tail = if is_finished { (bytes.len() as u64).saturating_sub(found.end) } else { 0 };
    let segment = Segment::new(path.to_owned());
    let dropped_index = segment.has_other_index(&found.entries, bytes.len() as u64);
    if dropped_index {
        segment.drop_index();
    }
    Ok(Some(CheckedLog {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        replies: found.entries.len() as u64,
        damaged_bytes: found.damaged_bytes + tail + if has_header || !is_finished { 0 } else { header_bytes as u64 },
        dropped_index,
    }))
}

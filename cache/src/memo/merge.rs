//! Many small finished logs become one, without the records that were superseded and the bytes that were damaged.
//!
//! Only neighbours in the order of logs are merged, and the result takes the place of the newest of them: so every address keeps the
//! answer it had. The merged log is written aside, synced and renamed before the old ones go; a crash leaves both, which say the same.
//! Beside it lies a list of what it was merged from (`.origins`), for whoever has to know which bytes of which log are here.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tempfile::NamedTempFile;

use super::logs_in;
use super::origins::{list_of, list_path, merged_name};
use super::record::{Entry, SEGMENT_HEADER, scan};
use super::segment::{self, Segment};
use crate::error::{AtPath, Error, Result};
use crate::hash::ReplyAddress;
use crate::lock::FileLock;
use crate::store::Store;
use crate::survey::unless_gone;
use crate::write::sync_folder;

/// A folder with more finished small logs than this is tidied when it is opened. So many stay open for reading; below it, opening
/// them all takes next to nothing (`cargo bench -p cache --bench replies`).
const MANY_LOGS: usize = 256;

/// Larger logs are not worth copying for the sake of tidiness.
const SMALL_LOG_BYTES: u64 = 4 << 20;

/// Merged logs end here, so that reading one stays bounded.
const MERGED_BYTES_MAX: u64 = 256 << 20;

const LOCK: &str = "merge";

/// Tidying leaves alone what was written so shortly ago: where locks do not reach from machine to machine, its writer may live.
const RESTED: Duration = Duration::from_secs(3600);

/// What a merge does, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    pub logs_before: u64,
    pub logs_after: u64,
    /// Records that a later answer to the same request has replaced.
    pub superseded: u64,
    /// Bytes that belong to no intact record.
    pub damaged_bytes: u64,
    pub freed_bytes: u64,
}

impl Store {
    /// Merges finished logs of replies where that frees space. With `act` unset it only says what that would do.
    ///
    /// # Errors
    /// If the folder cannot be read or, when acting, written to.
    pub fn merge_replies(&self, act: bool) -> Result<Merged> {
        merge_all(&self.layout().replies(), &self.layout().claims(), act)
    }
}

/// Merges what is worth the disk: all finished logs. With `act` unset nothing is written.
///
/// # Errors
/// If the folder cannot be read or, when acting, written to.
pub fn merge_all(folder: &Path, claims: &Path, act: bool) -> Result<Merged> {
    let Some(_lock) = alone(claims, act)? else { return Ok(Merged::default()) };
    let mut sum = Merged::default();
    for group in groups(finished(folder, |_| true)?) {
        let merge = Merge::prepare(folder, &group)?;
        if merge.figures().freed_bytes > 0 {
            sum.add(&merge.figures());
            if act {
                merge.write()?;
            }
        }
    }
    Ok(sum)
}

/// Merges small logs if there are many. For whoever opens the folder: cheap, and no one's failure.
pub fn tidy(folder: &Path, claims: &Path) -> Result<()> {
    if logs_in(folder, None)?.len() <= MANY_LOGS {
        return Ok(());
    }
    let Some(_lock) = alone(claims, true)? else { return Ok(()) };
    let has_rested =
        |metadata: &Metadata| metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > RESTED));
    let small = finished(folder, |metadata| metadata.len() <= SMALL_LOG_BYTES && has_rested(metadata))?;
    if small.iter().flatten().count() > MANY_LOGS {
        for group in groups(small).iter().filter(|group| group.len() > 1) {
            Merge::prepare(folder, group)?.write()?;
        }
    }
    Ok(())
}

/// One merger at a time. A rehearsal needs no lock, and takes none.
fn alone(claims: &Path, act: bool) -> Result<Option<Option<FileLock>>> {
    match act {
        true => Ok(FileLock::try_acquire(&claims.join(LOCK))?.map(Some)),
        false => Ok(Some(None)),
    }
}

/// A log that no one appends to.
#[derive(Clone)]
struct Source {
    path: PathBuf,
    bytes: u64,
}

/// All logs, oldest first; `None` for one that is in use or not wanted.
fn finished(folder: &Path, is_wanted: impl Fn(&Metadata) -> bool) -> Result<Vec<Option<Source>>> {
    let mut logs = logs_in(folder, None)?;
    logs.reverse();
    let source = |path: PathBuf| {
        let is_ours = |metadata: &Metadata| is_wanted(metadata) && segment::is_finished(&path);
        let bytes = fs::metadata(&path).ok().filter(is_ours)?.len();
        Some(Source { path, bytes })
    };
    Ok(logs.into_iter().map(source).collect())
}

/// Neighbours, as many as fit into one log.
fn groups(logs: Vec<Option<Source>>) -> Vec<Vec<Source>> {
    let (mut groups, mut bytes) = (vec![Vec::new()], 0);
    for log in logs {
        bytes += log.as_ref().map_or(0, |source| source.bytes);
        if log.is_none() || bytes > MERGED_BYTES_MAX {
            groups.push(Vec::new());
            bytes = log.as_ref().map_or(0, |source| source.bytes);
        }
        groups.last_mut().expect("one at least").extend(log);
    }
    groups.retain(|group: &Vec<Source>| !group.is_empty());
    groups
}

/// A group and the records of it that stay.
struct Merge<'a> {
    folder: &'a Path,
    sources: &'a [Source],
    /// Where each winner lies: number of its source, and place there; in the order in which they are written.
    kept: Vec<(usize, Entry)>,
    origins: String,
    superseded: u64,
    damaged_bytes: u64,
}

impl<'a> Merge<'a> {
    /// Reads every record of the sources: an index is not believed here, because what it points at is about to be the only copy.
    fn prepare(folder: &'a Path, sources: &'a [Source]) -> Result<Self> {
        let header_bytes = SEGMENT_HEADER.len() as u64;
        let (mut entries, mut damaged_bytes) = (Vec::new(), 0);
        for (number, source) in sources.iter().enumerate() {
            let bytes = fs::read(&source.path).at("read", &source.path)?;
            let found = scan(bytes.get(SEGMENT_HEADER.len()..).unwrap_or_default(), header_bytes);
            damaged_bytes += found.damaged_bytes + (bytes.len() as u64).saturating_sub(found.end);
            entries.extend(found.entries.into_iter().map(|entry| (number, entry)));
        }
        let last: HashMap<ReplyAddress, usize> =
            entries.iter().enumerate().map(|(place, (_, entry))| (entry.address, place)).collect();
        let all = entries.len();
        let mut place = 0..all;
        entries.retain(|(_, entry)| last[&entry.address] == place.next().expect("one for each"));
        let origins = list_of(sources.iter().map(|source| (source.path.as_path(), source.bytes)));
        let superseded = (all - entries.len()) as u64;
        Ok(Self { folder, sources, kept: entries, origins, superseded, damaged_bytes })
    }

    fn figures(&self) -> Merged {
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let before: u64 = self.sources.iter().flat_map(|source| files_of(&source.path)).map(|path| size(&path)).sum();
        let after = match self.kept.is_empty() {
            true => 0,
            false => self.log_bytes() + segment::index_bytes(self.kept.len()) + self.origins.len() as u64,
        };
        Merged {
            logs_before: self.sources.len() as u64,
            logs_after: u64::from(!self.kept.is_empty()),
            superseded: self.superseded,
            damaged_bytes: self.damaged_bytes,
            freed_bytes: before.saturating_sub(after),
        }
    }

    fn log_bytes(&self) -> u64 {
        SEGMENT_HEADER.len() as u64 + self.kept.iter().map(|(_, entry)| u64::from(entry.bytes)).sum::<u64>()
    }

    /// Origins, log, index, then the sources go. A list without its log means nothing, so a crash before the log changes nothing.
    fn write(&self) -> Result<()> {
        let aside = (!self.kept.is_empty()).then(|| self.write_aside()).transpose()?;
        // Readers list the folder before this or after it, not during it: see `logs_in`.
        let listing = File::open(self.folder).at("lock", self.folder)?;
        listing.lock().at("lock", self.folder)?;
        if let Some((log, path)) = aside {
            log.persist(&path).map_err(|error| Error::io("write", &path, error.error))?;
            sync_folder(self.folder)?;
        }
        for path in self.sources.iter().flat_map(|source| files_of(&source.path)) {
            unless_gone(fs::remove_file(&path)).at("remove", &path)?;
        }
        Ok(())
    }

    /// All but the log in its place; the log is given it last.
    fn write_aside(&self) -> Result<(NamedTempFile, PathBuf)> {
        let newest = &self.sources.last().expect("a group has members").path;
        let path = self.folder.join(merged_name(newest));
        let origins = written(self.folder, |file| file.write_all(self.origins.as_bytes()))?;
        let list = list_path(&path);
        origins.persist(&list).map_err(|error| Error::io("write", &list, error.error))?;
        let mut entries = Vec::new();
        let log = written(self.folder, |file| self.copy_into(file, &mut entries))?;
        // One that cannot be written is made by the next reader.
        let _ = Segment::new(path.clone()).write_index(&entries, self.log_bytes());
        Ok((log, path))
    }

    fn copy_into(&self, file: &mut dyn Write, entries: &mut Vec<Entry>) -> std::io::Result<()> {
        file.write_all(&SEGMENT_HEADER)?;
        let mut offset = SEGMENT_HEADER.len() as u64;
        let mut open: Option<(usize, File)> = None;
        for (number, entry) in &self.kept {
            let source = match open.take() {
                Some((opened, source)) if opened == *number => source,
                _ => File::open(&self.sources[*number].path)?,
            };
            let mut record = vec![0; entry.bytes as usize];
            source.read_exact_at(&mut record, entry.offset)?;
            file.write_all(&record)?;
            entries.push(Entry { offset, ..*entry });
            offset += u64::from(entry.bytes);
            open = Some((*number, source));
        }
        Ok(())
    }
}

impl Merged {
    fn add(&mut self, other: &Self) {
        self.logs_before += other.logs_before;
        self.logs_after += other.logs_after;
        self.superseded += other.superseded;
        self.damaged_bytes += other.damaged_bytes;
        self.freed_bytes += other.freed_bytes;
    }
}

/// A synced file that has no place yet.
fn written(folder: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<NamedTempFile> {
    let mut aside = NamedTempFile::new_in(folder).at("write", folder)?;
    let mut buffered = std::io::BufWriter::new(&mut aside);
    write(&mut buffered).and_then(|()| buffered.flush()).at("write", folder)?;
    drop(buffered);
    aside.as_file().sync_all().at("sync", folder)?;
    Ok(aside)
}

fn files_of(log: &Path) -> [PathBuf; 3] {
    [log.to_owned(), log.with_extension("idx"), list_path(log)]
}

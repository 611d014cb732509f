//! Logs of replies on this disk, as stretches that a shared store has or lacks.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use super::stretch::{Coverage, Stretch};
use crate::error::{AtPath, Error, Result};
use crate::memo::{Origins, SEGMENT_HEADER, scan};

/// Where the records of a log begin.
pub(crate) const HEADER_BYTES: u64 = SEGMENT_HEADER.len() as u64;

/// What one object holds at most, unless a single reply is larger: it is sent and fetched in one piece.
const STRETCH_BYTES: u64 = 16 << 20;

/// The end of one log, in memory.
pub(crate) struct Tail {
    log: String,
    /// Where in the log `bytes` begin.
    from: u64,
    bytes: Vec<u8>,
}

impl Tail {
    pub fn read(path: &Path, log: &str, from: u64) -> Result<Self> {
        Self::read_at(path, log, from, from)
    }

    /// What `path` holds from `offset` on is the log from `from` on.
    fn read_at(path: &Path, log: &str, from: u64, offset: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut bytes)).at("read", path)?;
            }
            // Merged into another meanwhile, which travels under its own name.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", path, error)),
        }
        Ok(Self { log: log.to_owned(), from, bytes })
    }

    /// The log called `name` of a folder, or the stretch of another writer's log; not read if all of it is `there`.
    pub fn of(path: &Path, name: &str, there: &Coverage) -> Result<Self> {
        let size = fs::metadata(path).map_or(0, |metadata| metadata.len()).max(HEADER_BYTES + 1);
        let stretch = name.parse().unwrap_or(Stretch { log: name.to_owned(), from: HEADER_BYTES, to: size });
        let parts = merged_parts(path);
        match there.covers(&stretch) || !parts.is_empty() && parts.iter().all(|part| there.covers(part)) {
            true => Ok(Self { log: stretch.log, from: stretch.from, bytes: Vec::new() }),
            false => Self::read_at(path, &stretch.log, stretch.from, HEADER_BYTES),
        }
    }

    /// Its whole records that are not covered, cut into objects. Damage between them is in none.
    pub fn stretches(&self, covered: &Coverage) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for entry in scan(&self.bytes, self.from).entries {
            let (from, to) = (entry.offset, entry.offset + u64::from(entry.bytes));
            let record = Stretch { log: self.log.clone(), from, to };
            if covered.covers(&record) {
                continue;
            }
            match stretches.last_mut().filter(|last| last.to == from && to - last.from <= STRETCH_BYTES) {
                Some(last) => last.to = to,
                None => stretches.push(record),
            }
        }
        stretches
    }

    pub fn records(&self, stretch: &Stretch) -> &[u8] {
        &self.bytes[(stretch.from - self.from) as usize..(stretch.to - self.from) as usize]
    }
}

pub(crate) fn log_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names of all logs in a folder of replies.
pub(crate) fn logs_of(folder: &Path) -> Result<Vec<String>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name().to_string_lossy().into_owned();
        logs.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    Ok(logs)
}

/// Which parts of which logs lie in a folder of replies.
pub(crate) fn coverage_of(folder: &Path) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    for name in logs_of(folder)? {
        match name.parse() {
            Ok(stretch) => coverage.add(&stretch),
            Err(()) => coverage.add_whole(&name),
        }
        merged_parts(&folder.join(format!("{name}.log"))).iter().for_each(|part| coverage.add(part));
    }
    Ok(coverage)
}

/// What a merged log was merged from.
fn merged_parts(path: &Path) -> Vec<Stretch> {
    let origins = Origins::of_log(path);
    let parts = origins.iter().flat_map(|(log, ranges)| ranges.iter().map(move |range| (log, range)));
    parts.map(|(log, range)| Stretch { log: log.to_owned(), from: range.start, to: range.end }).collect()
}

//! The log that this process appends to, and the thread that syncs it in groups.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::record::{Entry, SEGMENT_HEADER, encode};
use super::segment::{Segment, create, writer_name};
use crate::error::{AtPath, Error, Result};
use crate::hash::ReplyAddress;

/// How long replies gather before one sync carries them all: what a power cut can cost.
pub const GROUP_MS: u64 = 100;

/// A log is closed and another begun at this size, so that reading one stays bounded.
const SEGMENT_BYTES: u64 = 256 << 20;

/// Begins its log at the first reply: a run that only reads leaves nothing behind.
pub struct Writer {
    folder: PathBuf,
    name: String,
    logs: u32,
    log: Option<Log>,
    /// The number of the group that waits to be written.
    group: u64,
    /// Groups that could not be written: whoever asks for one of them hears of it.
    lost: Vec<Lost>,
}

struct Lost {
    group: u64,
    log: PathBuf,
    error: io::Error,
}

/// Replies that lie in a log since now.
pub struct Written<'a> {
    pub log: &'a Path,
    pub entries: &'a [Entry],
}

struct Log {
    path: PathBuf,
    file: Arc<File>,
    /// Of all records, the first `written` of which are on disk.
    entries: Vec<Entry>,
    written: usize,
    /// Records that wait to be written.
    waiting: Vec<u8>,
    /// With those that wait.
    bytes: u64,
    syncer: Syncer,
}

impl Writer {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), name: writer_name(), logs: 0, log: None, group: 0, lost: Vec::new() }
    }

    /// What the file names of its logs begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a reply into the group that is written next; the number of that group. A log that is full is written and closed before.
    pub fn take(&mut self, address: ReplyAddress, reply: &[u8], note: impl FnOnce(Written)) -> Result<u64> {
        if self.log.as_ref().is_some_and(|log| log.bytes + reply.len() as u64 > SEGMENT_BYTES) {
            self.write(self.group, note)?;
            self.log = None;
        }
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                self.logs += 1;
                self.log.insert(Log::create(&self.folder, &self.name, self.logs)?)
            }
        };
        match log.syncer.check() {
            Ok(()) => log.take(address, reply),
            Err(error) => return Err(self.lose(error)),
        }
        Ok(self.group)
    }

    /// Writes what waits, unless this group was written with an earlier one.
    ///
    /// # Errors
    /// If this group could not be written, now or then.
    pub fn write(&mut self, group: u64, note: impl FnOnce(Written)) -> Result<()> {
        if group < self.group {
            let lost = self.lost.iter().find(|lost| lost.group == group);
            return lost.map_or(Ok(()), |Lost { log, error, .. }| Err(Error::io("write", log, same(error))));
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        match log.write() {
            Ok(written) => {
                self.group += 1;
                note(written);
                Ok(())
            }
            Err(error) => Err(self.lose(error)),
        }
    }

    /// What waits is lost. What is torn lies at the log's end: the next reply begins another.
    fn lose(&mut self, error: io::Error) -> Error {
        let mut log = self.log.take().expect("what is lost was in a log");
        log.waiting.clear();
        self.lost.push(Lost { group: self.group, log: log.path.clone(), error: same(&error) });
        self.group += 1;
        Error::io("write", &log.path, error)
    }

    pub fn sync(&mut self, note: impl FnOnce(Written)) -> Result<()> {
        self.write(self.group, note)?;
        match &self.log {
            Some(log) => log.syncer.check().and_then(|()| log.file.sync_data()).at("sync", &log.path),
            None => Ok(()),
        }
    }
}

impl Log {
    fn create(folder: &Path, writer: &str, number: u32) -> Result<Self> {
        let (path, file) = create(folder, writer, number)?;
        let file = Arc::new(file);
        let syncer = Syncer::start(file.clone());
        let bytes = SEGMENT_HEADER.len() as u64;
        Ok(Self { path, file, entries: Vec::new(), written: 0, waiting: Vec::new(), bytes, syncer })
    }

    fn take(&mut self, address: ReplyAddress, reply: &[u8]) {
        let bytes = encode(&address, reply, &mut self.waiting);
        self.entries.push(Entry { address, offset: self.bytes, bytes });
        self.bytes += u64::from(bytes);
    }

    /// All that waits, with one write.
    fn write(&mut self) -> io::Result<Written<'_>> {
        (&*self.file).write_all(&self.waiting)?;
        self.waiting.clear();
        self.syncer.mark();
        let entries = &self.entries[std::mem::replace(&mut self.written, self.entries.len())..];
        Ok(Written { log: &self.path, entries })
    }
}

impl Drop for Log {
    /// Leaves an index, so that the next process need not scan; without one it merely takes longer. Replies that nobody asked to
    /// be kept are kept all the same, if that is possible.
    fn drop(&mut self) {
        let _ = self.write();
        self.syncer.stop();
        if self.file.sync_data().is_ok() && self.file.metadata().is_ok_and(|metadata| metadata.len() == self.bytes) {
            let _ = Segment::new(self.path.clone()).write_index(&self.entries, self.bytes);
        }
    }
}

/// Group commit: syncs the log at most every [`GROUP_MS`], and only if something was appended.
struct Syncer {
    shared: Arc<(Mutex<SyncState>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct SyncState {
    dirty: bool,
    stopped: bool,
    failed: Option<io::Error>,
}

impl Syncer {
    fn start(file: Arc<File>) -> Self {
        let shared = Arc::new((Mutex::new(SyncState::default()), Condvar::new()));
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("reply sync".into()).spawn(move || run(&file, &theirs)).ok();
        Self { shared, thread }
    }

    fn mark(&self) {
        let mut state = lock(&self.shared.0);
        if !std::mem::replace(&mut state.dirty, true) {
            self.shared.1.notify_one();
        }
    }

    /// Passes on what the thread ran into: after a failed sync nobody knows what the disk holds.
    fn check(&self) -> io::Result<()> {
        lock(&self.shared.0).failed.as_ref().map_or(Ok(()), |error| Err(same(error)))
    }

    fn stop(&mut self) {
        lock(&self.shared.0).stopped = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(file: &File, (state, changed): &(Mutex<SyncState>, Condvar)) {
    let mut held = lock(state);
    while !held.stopped {
        if !held.dirty {
            held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let gather = Duration::from_millis(GROUP_MS);
        held =
            changed.wait_timeout_while(held, gather, |state| !state.stopped).unwrap_or_else(PoisonError::into_inner).0;
        held.dirty = false;
        drop(held);
        let synced = file.sync_data();
        held = lock(state);
        held.failed = synced.err().or(held.failed.take());
    }
}

/// Once more for each who asks, in the system's words.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn lock(state: &Mutex<SyncState>) -> MutexGuard<'_, SyncState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Digest;

    fn address(byte: u8) -> ReplyAddress {
        ReplyAddress(Digest::from_bytes([byte; 32]))
    }

    /// The disaster: of replies that were to be written together one is told that it is kept, and it is not.
    #[test]
    fn all_of_a_group_that_cannot_be_written_hear_of_it_and_later_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(folder.path());
        let first = writer.take(address(1), b"kept", |_| ()).unwrap();
        writer.write(first, |written| assert_eq!(written.entries.len(), 1)).unwrap();
        let lost = [2, 3].map(|byte| writer.take(address(byte), b"lost", |_| ()).unwrap());
        let log = writer.log.as_mut().unwrap();
        log.file = Arc::new(File::open(&log.path).unwrap());
        for group in lost {
            assert!(writer.write(group, |_| panic!("nothing was written")).is_err());
        }
        writer.write(first, |_| panic!("it was written before")).unwrap();
        let later = writer.take(address(4), b"kept too", |_| ()).unwrap();
        let mut kept = Vec::new();
        writer.write(later, |written| kept.extend_from_slice(written.entries)).unwrap();
        assert_eq!(kept.iter().map(|entry| entry.address).collect::<Vec<_>>(), [address(4)]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "it lies in a log of its own");
    }
}

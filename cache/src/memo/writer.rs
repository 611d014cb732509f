//! The log that this process appends to, and the thread that syncs it in groups.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::record::{Entry, SEGMENT_HEADER};
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
}

struct Log {
    path: PathBuf,
    file: Arc<File>,
    entries: Vec<Entry>,
    bytes: u64,
    syncer: Syncer,
}

impl Writer {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), name: writer_name(), logs: 0, log: None }
    }

    /// What the file names of its logs begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends one record with one write; its log and its offset there.
    pub fn append(&mut self, address: ReplyAddress, record: &[u8]) -> Result<(&Path, u64)> {
        if self.log.as_ref().is_some_and(|log| log.bytes + record.len() as u64 > SEGMENT_BYTES) {
            self.log = None;
        }
        let mut log = match self.log.take() {
            Some(log) => log,
            None => self.begin_log()?,
        };
        // A log that failed is not put back: what is torn then lies at its end, and the next reply begins another.
        let offset = log.append(address, record)?;
        let log = self.log.insert(log);
        Ok((&log.path, offset))
    }

    fn begin_log(&mut self) -> Result<Log> {
        self.logs += 1;
        Log::create(&self.folder, &self.name, self.logs)
    }

    pub fn sync(&mut self) -> Result<()> {
        match &self.log {
            Some(log) => log.syncer.check(&log.path).and_then(|()| log.file.sync_data().at("sync", &log.path)),
            None => Ok(()),
        }
    }
}

impl Log {
    fn create(folder: &Path, writer: &str, number: u32) -> Result<Self> {
        let (path, file) = create(folder, writer, number)?;
        let file = Arc::new(file);
        let syncer = Syncer::start(file.clone());
        Ok(Self { path, file, entries: Vec::new(), bytes: SEGMENT_HEADER.len() as u64, syncer })
    }

    fn append(&mut self, address: ReplyAddress, record: &[u8]) -> Result<u64> {
        self.syncer.check(&self.path)?;
        (&*self.file).write_all(record).at("write", &self.path)?;
        let offset = self.bytes;
        self.bytes += record.len() as u64;
        self.entries.push(Entry { address, offset, bytes: record.len() as u32 });
        self.syncer.mark();
        Ok(offset)
    }
}

impl Drop for Log {
    /// Leaves an index, so that the next process need not scan; without one it merely takes longer.
    fn drop(&mut self) {
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
    fn check(&self, path: &Path) -> Result<()> {
        match &lock(&self.shared.0).failed {
            Some(error) => Err(Error::io("sync", path, same(error))),
            None => Ok(()),
        }
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

//! One log of replies and the index that is written beside it once no one appends to it any more.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::{Entry, SEGMENT_HEADER, Scan, decode, scan};
use crate::error::{AtPath, Error, Result};
use crate::hash::{Digest, Hasher, ReplyAddress};
use crate::lock::no_locks;

const INDEX_HEADER: [u8; 16] = *b"decoct replyidx1";
const INDEX_DOMAIN: &str = "decoct 1 reply index";
const ENTRY_BYTES: usize = 44;

/// Segments kept open for reading; a store with more of them opens the others for each read (processes have 1,024 files).
const OPEN_FILES: usize = 256;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A log to read from.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: OnceLock<File>,
}

/// What a segment holds, as far as it has been read.
#[derive(Debug)]
pub struct Contents {
    pub entries: Vec<Entry>,
    /// Where to go on reading if its writer lives; `None` once it is sealed.
    pub live_from: Option<u64>,
    /// Bytes that are no intact record: a torn tail or damage.
    pub lost_bytes: u64,
}

impl Segment {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: OnceLock::new() }
    }

    /// All intact records: from the index if there is a right one, else from the log itself, which is then indexed if its writer
    /// is gone and `may_index`.
    pub fn load(&self, may_index: bool) -> Result<Contents> {
        let size = fs::metadata(&self.path).at("read", &self.path)?.len();
        if let Some(entries) = read_index(&self.index_path(), size) {
            return Ok(Contents { entries, live_from: None, lost_bytes: 0 });
        }
        let file = File::open(&self.path).at("read", &self.path)?;
        // A writer locks its log before it writes the header and holds the lock as long as it lives. Shared, so that two readers
        // do not take each other for a writer.
        let sealed = size >= SEGMENT_HEADER.len() as u64 && matches!(file.try_lock_shared(), Ok(()));
        let size = file.metadata().at("read", &self.path)?.len();
        let found = self.read_from(SEGMENT_HEADER.len() as u64)?;
        match sealed {
            true => self.seal(found, size, may_index),
            false => {
                Ok(Contents { live_from: Some(found.end), lost_bytes: found.damaged_bytes, entries: found.entries })
            }
        }
    }

    /// Like [`Segment::load`]; `None` if the log is gone, merged into another.
    pub fn load_unless_gone(&self, may_index: bool) -> Result<Option<Contents>> {
        match self.load(may_index) {
            Err(_) if !self.exists() => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Whether there is an index for this size that does not list exactly these records, or one that is damaged.
    pub fn has_other_index(&self, entries: &[Entry], size: u64) -> bool {
        let path = self.index_path();
        path.exists() && read_index(&path, size).is_none_or(|indexed| indexed != entries)
    }

    /// Intact records from `offset` on.
    pub fn read_from(&self, offset: u64) -> Result<Scan> {
        let mut file = File::open(&self.path).at("read", &self.path)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut bytes)).at("read", &self.path)?;
        Ok(scan(&bytes, offset))
    }

    pub fn size(&self) -> Option<u64> {
        fs::metadata(&self.path).ok().map(|metadata| metadata.len())
    }

    /// The reply at `entry`; `None` unless the bytes there are intact and answer that address.
    pub fn read(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut bytes = vec![0; entry.bytes as usize];
        self.read_at(&mut bytes, entry.offset).ok().filter(|read| *read == bytes.len())?;
        reply_in(&bytes, entry)
    }

    /// Fills `bytes` as far as the log goes; how far that is.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(file) = self.file.get() {
            return read_at(file, bytes, offset);
        }
        let file = File::open(&self.path)?;
        let read = read_at(&file, bytes, offset)?;
        if OPEN.load(Ordering::Relaxed) < OPEN_FILES && self.file.set(file).is_ok() {
            OPEN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(read)
    }

    /// Makes the next process read the log itself, because the index points at damage.
    pub fn drop_index(&self) {
        let _ = fs::remove_file(self.index_path());
    }

    /// Writes the index of a log that holds `entries` in its `size` bytes. It can be made again: no sync.
    pub fn write_index(&self, entries: &[Entry], size: u64) -> Result<()> {
        let folder = self.path.parent().expect("a segment lies in a folder");
        let mut file = tempfile::NamedTempFile::new_in(folder).at("write", folder)?;
        file.write_all(&encode_index(entries, size)).at("write", folder)?;
        let path = self.index_path();
        file.persist(&path).map_err(|error| Error::io("write", &path, error.error))?;
        Ok(())
    }

    fn seal(&self, found: Scan, size: u64, may_index: bool) -> Result<Contents> {
        if may_index {
            // In a folder that is only read, the next process has to scan as well: no reason to stop.
            let _ = self.write_index(&found.entries, size);
        }
        Ok(Contents {
            entries: found.entries,
            live_from: None,
            lost_bytes: found.damaged_bytes + size.saturating_sub(found.end),
        })
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }
}

/// The reply in the bytes of a record; `None` unless they are intact and answer that address.
pub fn reply_in(record: &[u8], entry: &Entry) -> Option<Vec<u8>> {
    decode(record).filter(|(address, _)| *address == entry.address).map(|(_, reply)| reply.to_vec())
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.file.get().is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Starts log `number` of `writer`: locked before its header is written, so that no one takes it for a finished one.
pub fn create(folder: &Path, writer: &str, number: u32) -> Result<(PathBuf, File)> {
    let path = folder.join(format!("{writer}{number:04x}.log"));
    let mut file = File::options().create_new(true).append(true).open(&path).at("write", &path)?;
    match file.try_lock() {
        // Someone who looks at the still empty file: it will let go at once.
        Err(TryLockError::WouldBlock) => file.lock().at("lock", &path)?,
        Err(TryLockError::Error(error)) if !no_locks(&error) => return Err(error).at("lock", &path),
        _ => {}
    }
    file.write_all(&SEGMENT_HEADER).at("write", &path)?;
    crate::write::sync_folder(folder)?;
    Ok((path, file))
}

/// What the names of one writer's logs begin with: they sort by the time it began; the rest keeps writers of one moment apart.
pub fn writer_name() -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (process, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{:016x}-{process:x}-{count:x}-", now.as_micros())
}

/// Whether its writer is gone. A writer locks its log before it writes the header and holds the lock as long as it lives.
pub fn is_finished(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        let has_header = file.metadata().is_ok_and(|metadata| metadata.len() >= SEGMENT_HEADER.len() as u64);
        // Shared, so that two readers do not take each other for a writer.
        has_header && matches!(file.try_lock_shared(), Ok(()))
    })
}

/// Size of an index with that many entries.
pub fn index_bytes(entries: usize) -> u64 {
    (INDEX_HEADER.len() + 16 + entries * ENTRY_BYTES + 32) as u64
}

/// Header, size of the log, number of entries, entries, hash of all that.
fn encode_index(entries: &[Entry], size: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(index_bytes(entries.len()) as usize);
    bytes.extend_from_slice(&INDEX_HEADER);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(entry.address.as_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.bytes.to_le_bytes());
    }
    let digest = index_digest(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// `None` unless the index is intact and was made for a log of this size.
fn read_index(path: &Path, size: u64) -> Option<Vec<Entry>> {
    let bytes = fs::read(path).ok()?;
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    let (sizes, entries) = body.strip_prefix(&INDEX_HEADER)?.split_first_chunk::<16>()?;
    let indexed = u64::from_le_bytes(*sizes.first_chunk()?);
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    let whole = rest.is_empty() && indexed == size && index_digest(body).as_bytes() == digest;
    whole.then(|| entries.iter().map(decode_entry).collect())
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let (address, rest) = bytes.split_first_chunk::<32>().expect("44 bytes");
    let (offset, rest) = rest.split_first_chunk::<8>().expect("12 bytes");
    Entry {
        address: ReplyAddress(Digest::from_bytes(*address)),
        offset: u64::from_le_bytes(*offset),
        bytes: u32::from_le_bytes(rest.try_into().expect("4 bytes")),
    }
}

fn index_digest(body: &[u8]) -> Digest {
    Hasher::new(INDEX_DOMAIN).raw(body).finish()
}

//! Batches that are under way, a small file each: written before anything is billed, locked by the process that works on it.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Results are kept no longer at the server; a batch that old can no longer be fetched.
const OLDEST: Duration = Duration::from_secs(30 * 24 * 3600);

pub struct Journal {
    folder: PathBuf,
}

/// What a file holds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Noted {
    /// Of the uploaded requests.
    file: Option<String>,
    batch: Option<String>,
    requests: Vec<String>,
}

/// A batch, ours as long as this lives.
pub struct Record {
    /// The batch carries it at the server too.
    pub name: String,
    /// Addresses of their replies.
    pub requests: Vec<[u8; 32]>,
    /// An earlier process began it.
    pub is_left_behind: bool,
    path: PathBuf,
    noted: Mutex<Noted>,
    /// Locked.
    _lock: File,
}

impl Journal {
    pub fn new(folder: PathBuf) -> Journal {
        Journal { folder }
    }

    /// Notes a batch that is about to be submitted.
    pub fn begin(&self, requests: &[[u8; 32]]) -> std::io::Result<Record> {
        std::fs::create_dir_all(&self.folder)?;
        let name = name_of_batch(requests);
        let path = self.folder.join(format!("{name}.json"));
        let lock = lock_of(&path)?;
        lock.try_lock()?;
        let noted = Noted { requests: requests.iter().map(name_of_request).collect(), ..Noted::default() };
        let noted = Mutex::new(noted);
        let record = Record { name, requests: requests.to_vec(), is_left_behind: false, path, noted, _lock: lock };
        record.note(|_| {}).map(|()| record)
    }

    /// Batches of processes that have ended. Those of living ones, and what cannot be read, are left alone.
    pub fn left_behind(&self) -> Vec<Record> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let records = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        records.filter_map(|path| take_up(&path)).collect()
    }
}

fn take_up(path: &Path) -> Option<Record> {
    let lock = lock_of(path).ok()?;
    lock.try_lock().ok()?;
    let age = std::fs::metadata(path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    let noted: Noted = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let requests = noted.requests.iter().map(|name| address_of(name)).collect::<Option<_>>()?;
    let name = path.file_stem()?.to_str()?.to_string();
    let noted = Mutex::new(noted);
    let record = Record { name, requests, is_left_behind: true, path: path.into(), noted, _lock: lock };
    if age > OLDEST {
        record.forget();
        return None;
    }
    Some(record)
}

/// The lock is beside the note: that is replaced with each step.
fn lock_of(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path.with_extension("lock"))
}

/// A request's `custom_id`.
pub fn name_of_request(address: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*address).to_hex().to_string()
}

/// The address that a `custom_id` of ours names.
pub fn address_of(name: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(name).ok().map(|hash| *hash.as_bytes())
}

/// Unlike any other's, also of the same requests at another time.
fn name_of_batch(requests: &[[u8; 32]]) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut hasher = blake3::Hasher::new_derive_key("decoct batch 1");
    hasher.update(&now.as_nanos().to_le_bytes()).update(&std::process::id().to_le_bytes());
    requests.iter().for_each(|address| _ = hasher.update(address));
    hasher.finalize().to_hex()[..32].to_string()
}

impl Record {
    pub fn file(&self) -> Option<String> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).file.clone()
    }

    pub fn batch(&self) -> Option<String> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).batch.clone()
    }

    pub fn uploaded(&self, file: &str) -> std::io::Result<()> {
        self.note(|noted| noted.file = Some(file.to_string()))
    }

    pub fn submitted(&self, batch: &str) -> std::io::Result<()> {
        self.note(|noted| noted.batch = Some(batch.to_string()))
    }

    /// All is done. A note that cannot be removed costs the next run a look at a batch that is over.
    pub fn forget(&self) {
        _ = std::fs::remove_file(&self.path);
        _ = std::fs::remove_file(self.path.with_extension("lock"));
    }

    /// Aside and renamed: a crash leaves the note before or the one after.
    fn note(&self, change: impl FnOnce(&mut Noted)) -> std::io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut noted);
        let aside = self.path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(&*noted)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_leaves_another_takes_up_once_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("batches"));
        assert!(journal.left_behind().is_empty());
        let record = journal.begin(&[[1; 32], [2; 32]]).unwrap();
        record.uploaded("file-1").unwrap();
        assert!(journal.left_behind().is_empty(), "it is being worked on");
        let name = record.name.clone();
        drop(record);
        let record = journal.left_behind().pop().unwrap();
        assert_eq!((record.name.clone(), record.file(), record.batch()), (name, Some("file-1".to_string()), None));
        record.submitted("batch-1").unwrap();
        drop(record);
        let record = journal.left_behind().pop().unwrap();
        assert_eq!((record.batch().as_deref(), &record.requests), (Some("batch-1"), &vec![[1; 32], [2; 32]]));
        record.forget();
        drop(record);
        assert!(journal.left_behind().is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("batches")).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_torn_note_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("torn.json"), "{\"requests\": [\"a\"").unwrap();
        assert!(Journal::new(folder.path().into()).left_behind().is_empty());
        assert!(folder.path().join("torn.json").exists());
    }
}

//! Spares reading a source file again that has not changed since its bytes were hashed, by git's rule for racily clean entries.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{AtPath, Error, Result};
use crate::hash::{ContentHash, Digest, Hasher};
use crate::layout::Layout;
use crate::line::{sealed, unsealed};
use crate::stamp::{Stamp, now_ns};

const FOLDER_DOMAIN: &str = "decoct 1 source folder";
const STAT_DOMAIN: &str = "decoct 1 stat cache";

type Entries = HashMap<Digest, (Stamp, ContentHash)>;

/// What was found in files, by path and by what was looked for.
type Findings = HashMap<Digest, (Stamp, Value)>;

/// Hashes of source files by path and stamp, and what else was found in them. A damaged or missing file of it only costs reading the
/// sources again.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    hashes: Entries,
    findings: Findings,
    /// Not saved yet.
    is_new: bool,
}

/// As it lies on disk, sealed: a hash that is not its file's would give the rows of another one.
#[derive(Serialize, Deserialize)]
struct Saved<E, F> {
    files: E,
    #[serde(default)]
    found: F,
}

impl StatCache {
    pub fn open(path: &Path) -> Self {
        let saved =
            std::fs::read(path).ok().and_then(|bytes| unsealed::<Saved<Entries, Findings>>(bytes.trim_ascii_end()));
        let known = saved.map(|Saved { files, found }| Known { hashes: files, findings: found, is_new: false });
        Self { path: path.to_owned(), known: Mutex::new(known.unwrap_or_default()) }
    }

    /// Of the store at `root`, whether or not there is one yet.
    pub fn of_store(root: &Path) -> Self {
        Self::open(&Layout::new(root).stat_cache())
    }

    /// Written aside and renamed; what another process saved meanwhile is lost, at the cost of reading those files again.
    pub fn save(&self) -> Result<()> {
        let mut known = self.lock();
        if !known.is_new {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).at("write", folder)?;
        writeln!(file, "{}", sealed(&Saved { files: &known.hashes, found: &known.findings }))
            .at("write", file.path())?;
        file.persist(&self.path).map_err(|error| Error::io("write", &self.path, error.error))?;
        known.is_new = false;
        Ok(())
    }

    /// What `look` finds in a file, or what a look of this name found when the file was as it is. That nothing was found is not
    /// remembered.
    pub fn recall_or_look(&self, file: &Path, name: &str, look: impl FnOnce() -> Option<Value>) -> Option<Value> {
        let place = finding_digest(&std::path::absolute(file).ok()?, name);
        let stamp = || std::fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata));
        let (before, started_ns) = (stamp()?, now_ns());
        let known =
            self.lock().findings.get(&place).filter(|(known, _)| *known == before).map(|(_, found)| found.clone());
        if known.is_some() {
            return known;
        }
        let found = look()?;
        if before.rested(started_ns) && stamp() == Some(before) {
            let mut known = self.lock();
            known.findings.insert(place, (before, found.clone()));
            known.is_new = true;
        }
        Some(found)
    }

    fn find(&self, path: &Path, stamp: &Stamp) -> Option<ContentHash> {
        self.lock().hashes.get(&path_digest(path)).filter(|(known, _)| known == stamp).map(|(_, hash)| *hash)
    }

    fn remember(&self, path: &Path, stamp: Stamp, hash: ContentHash) {
        let mut known = self.lock();
        known.hashes.insert(path_digest(path), (stamp, hash));
        known.is_new = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Identity of a source by its bytes: a file's is plain blake3; a folder's is over the relative paths and hashes of all files in
/// it. Where the source lies, and when it was touched, do not matter.
///
/// # Errors
/// If it cannot be read, or a folder holds something that is neither file nor folder.
pub fn source_hash(path: &Path, stat_cache: Option<&StatCache>) -> Result<ContentHash> {
    match std::fs::metadata(path).at("read", path)?.is_dir() {
        true => folder_hash(path, stat_cache),
        false => file_hash(path, stat_cache),
    }
}

fn folder_hash(folder: &Path, stat_cache: Option<&StatCache>) -> Result<ContentHash> {
    let mut hasher = Hasher::new(FOLDER_DOMAIN);
    for (name, path) in crate::tree::files_of(folder)? {
        hasher.field(&name, file_hash(&path, stat_cache)?.as_bytes());
    }
    Ok(ContentHash(hasher.finish()))
}

fn file_hash(path: &Path, stat_cache: Option<&StatCache>) -> Result<ContentHash> {
    let absolute = std::path::absolute(path).at("read", path)?;
    let mut file = File::open(path).at("read", path)?;
    let before = Stamp::of(&file.metadata().at("read", path)?);
    if let Some(known) = stat_cache.and_then(|cache| cache.find(&absolute, &before)) {
        return Ok(known);
    }
    let started_ns = now_ns();
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).at("read", path)?;
    let hash = ContentHash(hasher.finalize().into());
    let after = Stamp::of(&file.metadata().at("read", path)?);
    if let Some(cache) = stat_cache.filter(|_| before == after && before.rested(started_ns)) {
        cache.remember(&absolute, before, hash);
    }
    Ok(hash)
}

/// Paths of a user's files stay out of the store, even out of this private corner.
fn path_digest(path: &Path) -> Digest {
    Hasher::new(STAT_DOMAIN).field("path", path.as_os_str().as_encoded_bytes()).finish()
}

fn finding_digest(path: &Path, name: &str) -> Digest {
    let path = path.as_os_str().as_encoded_bytes();
    Hasher::new(STAT_DOMAIN).field("path", path).field("name", name.as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::stamp::RACY_NS;

    fn age(path: &Path, seconds: u64) {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    /// The disaster: an edit of equal size right after hashing, within the clock's tick, goes unnoticed.
    #[test]
    fn a_file_edited_in_the_same_tick_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let cache = StatCache::open(&folder.path().join("stat.json"));
        fs::write(&path, "one").unwrap();
        let one = source_hash(&path, Some(&cache)).unwrap();
        fs::write(&path, "two").unwrap();
        assert_ne!(source_hash(&path, Some(&cache)).unwrap(), one);
        assert!(cache.lock().hashes.is_empty(), "a file changed a moment ago is not remembered");
    }

    /// `mtime` can be set back by anyone; `ctime` cannot.
    #[test]
    fn an_edit_whose_mtime_is_set_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "one").unwrap();
        age(&path, 60);
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        assert!(!stamp.rested(now_ns()), "changed now, whatever its mtime says");
        assert!(stamp.rested(now_ns() + 3 * RACY_NS));
    }

    #[test]
    fn an_unchanged_file_is_not_read_and_a_changed_stamp_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "one").unwrap();
        let saved = folder.path().join("stat.json");
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let mark = ContentHash(Digest::from_bytes([7; 32]));
        let cache = StatCache::open(&saved);
        cache.remember(&path, stamp, mark);
        cache.save().unwrap();

        let reopened = StatCache::open(&saved);
        assert_eq!(source_hash(&path, Some(&reopened)).unwrap(), mark, "found by its stamp");
        assert_ne!(source_hash(&path, None).unwrap(), mark, "`--no-stat-cache` reads the bytes");
        age(&path, 60);
        assert_ne!(source_hash(&path, Some(&reopened)).unwrap(), mark, "touched: read again");

        fs::write(&saved, "{ damaged").unwrap();
        assert_ne!(source_hash(&path, Some(&StatCache::open(&saved))).unwrap(), mark);
    }

    /// The disaster: one flipped digit, or two hashes that changed places, and the rows of another file.
    #[test]
    fn what_was_not_saved_like_this_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, saved) = (folder.path().join("rows.jsonl"), folder.path().join("stat.json"));
        fs::write(&path, "one").unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let mark = ContentHash(Digest::from_bytes([7; 32]));
        let cache = StatCache::open(&saved);
        cache.remember(&path, stamp, mark);
        cache.save().unwrap();
        let bytes = fs::read(&saved).unwrap();
        let found = |bytes: &[u8]| {
            fs::write(&saved, bytes).unwrap();
            StatCache::open(&saved).find(&path, &stamp)
        };
        assert_eq!(found(&bytes), Some(mark));
        // The last byte ends the line.
        for position in 0..bytes.len() - 1 {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                assert_eq!(found(&flipped), None, "bit {bit} of byte {position}");
            }
            assert_eq!(found(&bytes[..position]), None, "cut at {position}");
        }
        // As the first release saved it.
        assert_eq!(found(&serde_json::to_vec(&cache.lock().hashes).unwrap()), None);
    }

    /// The disaster: what was found in a file is told of the one that took its place.
    #[test]
    fn what_was_found_holds_for_this_file_and_this_look_only() {
        let folder = tempfile::tempdir().unwrap();
        let (path, saved) = (folder.path().join("rows.jsonl"), folder.path().join("stat.json"));
        fs::write(&path, "one").unwrap();
        let cache = StatCache::open(&saved);
        let found = |cache: &StatCache, name: &str, now: i64| {
            cache.recall_or_look(&path, name, || Some(json!(now))).map(|found| found.as_i64().unwrap())
        };
        assert_eq!([1, 2].map(|now| found(&cache, "rows", now)), [Some(1), Some(2)], "it changed a moment ago");

        let place = finding_digest(&path, "rows");
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let mut known = cache.lock();
        known.findings.insert(place, (stamp, json!(3)));
        known.is_new = true;
        drop(known);
        cache.save().unwrap();
        let reopened = StatCache::open(&saved);
        assert_eq!(found(&reopened, "rows", 4), Some(3), "known by its stamp");
        assert_eq!(found(&reopened, "columns", 5), Some(5), "another look");
        age(&path, 60);
        assert_eq!(found(&reopened, "rows", 6), Some(6), "touched");
        fs::remove_file(&path).unwrap();
        assert_eq!(found(&reopened, "rows", 7), None, "gone");
    }

    #[test]
    fn a_rested_file_is_looked_through_once_and_nothing_found_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, saved) = (folder.path().join("rows.jsonl"), folder.path().join("stat.json"));
        fs::write(&path, "one").unwrap();
        std::thread::sleep(Duration::from_nanos(RACY_NS as u64 + 200_000_000));
        let cache = StatCache::open(&saved);
        let looks = std::cell::Cell::new(0);
        let look = |name: &str, found: Option<Value>| {
            cache.recall_or_look(&path, name, || {
                looks.set(looks.get() + 1);
                found
            })
        };
        assert_eq!([1, 2].map(|now| look("rows", Some(json!(now)))), [Some(json!(1)), Some(json!(1))]);
        assert_eq!(looks.get(), 1);
        assert_eq!([1, 2].map(|_| look("broken", None)), [None, None]);
        assert_eq!(looks.get(), 3);
        cache.save().unwrap();
        let written = fs::metadata(&saved).unwrap().modified().unwrap();
        cache.save().unwrap();
        assert_eq!(fs::metadata(&saved).unwrap().modified().unwrap(), written, "there is nothing new to save");
    }

    #[test]
    fn a_folder_is_its_names_and_bytes() {
        let hash_with = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            source_hash(folder.path(), None).unwrap()
        };
        let base = hash_with(&[("a", "1"), ("b/c", "2")]);
        assert_eq!(base, hash_with(&[("b/c", "2"), ("a", "1")]));
        assert_ne!(base, hash_with(&[("a", "2"), ("b/c", "1")]));
        assert_ne!(base, hash_with(&[("a", "1"), ("bc", "2")]));
        assert_ne!(base, hash_with(&[("a", "1")]));
    }
}

//! What was found up to date stays so until a file that it rests on changes: a run with nothing to do costs one `stat` a file.
//!
//! Git's index for a whole answer. A record names every file that had a say (sources, prompts, the recipe, the program, manifests,
//! blobs), also those that were looked for and not there, each with its stamp. If all stamps are as they were, so is the answer;
//! if any is not, or the record is damaged or missing, the question has to be answered again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{AtPath, Error, Result};
use crate::hash::{ActionKey, BlobHash, Digest, Hasher};
use crate::layout::Layout;
use crate::stamp::{Stamp, nanoseconds};
use crate::store::Store;
use crate::write::write_aside;

const DOMAIN: &str = "decoct 1 up to date";
const DIGEST_BYTES: usize = 32;
/// Stamps are compared on as many threads as pays: starting one costs about as much as this many stamps.
const FILES_A_THREAD: usize = 2_000;
const THREADS_AT_MOST: usize = 4;
/// Files in folders beyond which looking anew costs less than comparing stamps.
const PATHS_MAX: usize = 100_000;

/// What an answer rests on.
#[derive(Debug, Default)]
pub struct Basis {
    /// Files and folders, absolute or relative to the working directory, that were read or looked for. A folder counts with all in it.
    pub paths: BTreeSet<PathBuf>,
    pub keys: Vec<ActionKey>,
    pub blobs: Vec<BlobHash>,
}

/// An answer that still holds.
#[derive(Debug, PartialEq)]
pub struct UpToDate {
    pub answer: Vec<u8>,
    /// The run that found it, by its record: whoever goes by the answer notes that it is still in use.
    pub run: PathBuf,
}

impl UpToDate {
    /// The answer to `question` in the store at `root`, if nothing that it rests on has changed since.
    pub fn recall(root: &Path, question: &Digest) -> Option<UpToDate> {
        let bytes = fs::read(Layout::new(root).current(question)).ok()?;
        let record = Record::read(&bytes, question)?;
        record.stands().then(|| UpToDate { answer: record.answer.to_vec(), run: PathBuf::from(record.run) })
    }

    /// Keeps what the answer names from being swept for as long as a run of this moment would.
    ///
    /// # Errors
    /// If the record of the run that found it is gone, or cannot be touched.
    pub fn renew(&self) -> Result<()> {
        let file = File::options().append(true).open(&self.run).at("open", &self.run)?;
        file.set_modified(SystemTime::now()).at("touch", &self.run)
    }
}

impl Store {
    /// Notes an answer that was found by looking at `basis` from `began` on, in the run whose record is `run`.
    /// Nothing is noted if a file changed so shortly before that a later change could look the same, or if there are too many.
    ///
    /// # Errors
    /// If the store cannot be written to.
    pub fn note_up_to_date(
        &self,
        question: &Digest,
        basis: &Basis,
        answer: &[u8],
        run: &Path,
        began: SystemTime,
    ) -> Result<()> {
        let layout = self.layout();
        let mut paths: BTreeSet<PathBuf> = BTreeSet::from([layout.format()]);
        basis.paths.iter().for_each(|path| add_with_contents(path, &mut paths));
        if paths.len() > PATHS_MAX {
            return Ok(());
        }
        paths.extend(basis.keys.iter().map(|key| layout.manifest(key)));
        paths.extend(basis.blobs.iter().map(|blob| layout.blob(blob)));
        let began_ns = nanoseconds(began);
        let mut stamps = Vec::with_capacity(paths.len());
        for path in &paths {
            let path = std::path::absolute(path).at("find", path)?;
            let stamp = fs::metadata(&path).ok().map(|metadata| Stamp::of(&metadata));
            if stamp.is_some_and(|stamp| !stamp.rested(began_ns)) {
                return Ok(());
            }
            let Some(path) = path.to_str().map(str::to_owned) else { return Ok(()) };
            stamps.push((path, stamp));
        }
        let Some(run) = run.to_str() else { return Ok(()) };
        let (place, aside) = (layout.current(question), layout.temporary());
        let file = write_aside(&aside, &written(question, &stamps, run, answer))?;
        file.persist(&place).map_err(|error| Error::io("write", &place, error.error)).map(drop)
    }
}

/// A folder's stamp tells of names that come and go, not of changes in its files. Links are followed, as they are where folders are
/// hashed; a circle of them ends where the system gives up on it.
fn add_with_contents(path: &Path, paths: &mut BTreeSet<PathBuf>) {
    if paths.len() <= PATHS_MAX && paths.insert(path.to_owned()) && path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| add_with_contents(&entry.path(), paths));
    }
}

/// Its digest first, then texts and lists with their lengths before them.
fn written(question: &Digest, stamps: &[(String, Option<Stamp>)], run: &str, answer: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(stamps.len() * 192 + answer.len());
    body.extend((stamps.len() as u64).to_le_bytes());
    for (path, stamp) in stamps {
        write_bytes(path.as_bytes(), &mut body);
        let stamp = stamp.map(Stamp::to_bytes);
        write_bytes(stamp.as_ref().map_or(&[], |stamp| stamp.as_slice()), &mut body);
    }
    write_bytes(run.as_bytes(), &mut body);
    body.extend(answer);
    [digest(question, &body).as_bytes().as_slice(), &body].concat()
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn digest(question: &Digest, body: &[u8]) -> Digest {
    Hasher::new(DOMAIN).field("question", question.as_bytes()).field("body", body).finish()
}

struct Record<'a> {
    /// No stamp: there was no such file.
    files: Vec<(&'a str, &'a [u8])>,
    run: &'a str,
    answer: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` unless it was written for this question and has not changed since.
    fn read(bytes: &'a [u8], question: &Digest) -> Option<Record<'a>> {
        let (seal, mut rest) = bytes.split_at_checked(DIGEST_BYTES)?;
        if seal != digest(question, rest).as_bytes() {
            return None;
        }
        let count = take_number(&mut rest)?;
        let mut files = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            files.push((take_text(&mut rest)?, take_bytes(&mut rest)?));
        }
        Some(Record { files, run: take_text(&mut rest)?, answer: rest })
    }

    fn stands(&self) -> bool {
        let threads = (self.files.len() / FILES_A_THREAD + 1).min(THREADS_AT_MOST);
        let mut parts = self.files.chunks(self.files.len().div_ceil(threads).max(1));
        let Some(first) = parts.next() else { return true };
        std::thread::scope(|scope| {
            let others: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().all(is_unchanged))).collect();
            let first = first.iter().all(is_unchanged);
            others.into_iter().all(|other| other.join().unwrap_or(false)) && first
        })
    }
}

fn is_unchanged((path, stamp): &(&str, &[u8])) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => *stamp == Stamp::of(&metadata).to_bytes(),
        Err(_) => stamp.is_empty(),
    }
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u64::from_le_bytes(*number)).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = take_number(rest)?;
    let (bytes, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(bytes)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(rest)?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        store: Store,
    }

    /// As if everything had been written long before the run began.
    fn long_after() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("prompts/parts")).unwrap();
            fs::create_dir(folder.path().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("../elsewhere", folder.path().join("prompts/link")).unwrap();
            for name in ["recipe.yaml", "prompts/cot.md", "prompts/parts/a.md", "elsewhere/b.md", "run.jsonl"] {
                fs::write(folder.path().join(name), name).unwrap();
            }
            let store = Store::open(&folder.path().join("store")).unwrap();
            Place { folder, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn note(&self, began: SystemTime) {
            let paths = ["recipe.yaml", "prompts", "missing.md"].map(|name| self.path(name)).into();
            let basis = Basis { paths, ..Basis::default() };
            self.store.note_up_to_date(&question(), &basis, b"all hits", &self.path("run.jsonl"), began).unwrap();
        }

        fn recall(&self) -> Option<Vec<u8>> {
            UpToDate::recall(self.store.layout().root(), &question()).map(|found| found.answer)
        }
    }

    fn question() -> Digest {
        Hasher::new("test").finish()
    }

    /// The disaster: an edit goes unnoticed because a run need not look any more.
    #[test]
    fn an_answer_holds_until_anything_that_it_rests_on_changes() {
        type Change = fn(&Place);
        let changes: [(&str, Change); 9] = [
            ("edited", |place| fs::write(place.path("recipe.yaml"), "other.yaml!").unwrap()),
            ("edited, time set back", |place| {
                let modified = fs::metadata(place.path("recipe.yaml")).unwrap().modified().unwrap();
                fs::write(place.path("recipe.yaml"), "RECIPE.YAML").unwrap();
                let file = File::options().write(true).open(place.path("recipe.yaml")).unwrap();
                file.set_modified(modified).unwrap();
            }),
            ("removed", |place| fs::remove_file(place.path("recipe.yaml")).unwrap()),
            ("replaced by its copy", |place| {
                fs::copy(place.path("recipe.yaml"), place.path("copy")).unwrap();
                fs::rename(place.path("copy"), place.path("recipe.yaml")).unwrap();
            }),
            ("a missing file made", |place| fs::write(place.path("missing.md"), "").unwrap()),
            ("a file edited in a folder", |place| fs::write(place.path("prompts/parts/a.md"), "!").unwrap()),
            ("a file added to a folder", |place| fs::write(place.path("prompts/parts/b.md"), "!").unwrap()),
            ("a file edited behind a link to its folder", |place| {
                fs::write(place.path("elsewhere/b.md"), "!").unwrap()
            }),
            ("the store of another program", |place| {
                fs::write(place.store.layout().format(), "decoct-store 2").unwrap()
            }),
        ];
        for (what, change) in changes {
            let place = Place::new();
            assert_eq!(place.recall(), None);
            place.note(long_after());
            assert_eq!(place.recall().as_deref(), Some(&b"all hits"[..]), "{what}");
            std::thread::sleep(Duration::from_millis(15)); // A tick of the clock of files: the rule of rest is tested below.
            change(&place);
            assert_eq!(place.recall(), None, "{what}");
        }
    }

    #[test]
    fn files_changed_a_moment_ago_are_not_gone_by() {
        let place = Place::new();
        place.note(SystemTime::now());
        assert_eq!(place.recall(), None, "they could change again within the same tick");
    }

    #[test]
    fn another_question_or_a_damaged_record_has_no_answer() {
        let place = Place::new();
        place.note(long_after());
        let other = Hasher::new("other").finish();
        let layout = place.store.layout();
        fs::copy(layout.current(&question()), layout.current(&other)).unwrap();
        assert_eq!(UpToDate::recall(layout.root(), &other), None, "a record in the place of another");
        let whole = fs::read(layout.current(&question())).unwrap();
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << (position % 8);
            fs::write(layout.current(&question()), flipped).unwrap();
            assert_eq!(place.recall(), None, "byte {position}");
            fs::write(layout.current(&question()), &whole[..position]).unwrap();
            assert_eq!(place.recall(), None, "cut at {position}");
        }
    }

    #[test]
    fn an_answer_renews_the_record_of_its_run_or_is_none() {
        let place = Place::new();
        place.note(long_after());
        let found = UpToDate::recall(place.store.layout().root(), &question()).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
        File::options().append(true).open(&found.run).unwrap().set_modified(long_ago).unwrap();
        found.renew().unwrap();
        assert!(fs::metadata(&found.run).unwrap().modified().unwrap() > long_ago + Duration::from_secs(999_000));
        fs::remove_file(&found.run).unwrap();
        assert!(found.renew().is_err(), "a sweep took it: nothing says any more that its results are in use");
    }
}

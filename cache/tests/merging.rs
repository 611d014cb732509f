//! Merging logs of replies: no answer changes, none is lost, whoever has the old logs open, wherever it dies.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cache::memo::merge::{merge_all, tidy};
use cache::{Merged, Origins, Preimage, Replies, ReplyAddress};
use proptest::prelude::*;

fn address(number: usize) -> ReplyAddress {
    Preimage::new().with("number", number).reply_address()
}

fn reply(number: usize) -> Vec<u8> {
    format!("reply {number} ").repeat(number % 5 + 1).into_bytes()
}

struct Shelf {
    folder: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn replies(&self) -> PathBuf {
        self.folder.path().join("replies")
    }

    fn claims(&self) -> PathBuf {
        self.folder.path().join("claims")
    }

    fn open(&self) -> Replies {
        Replies::open(&self.replies(), &self.claims()).unwrap()
    }

    /// One log.
    fn fill(&self, numbers: Range<usize>) {
        let replies = self.open();
        numbers.for_each(|number| replies.put(&address(number), &reply(number)).unwrap());
    }

    fn merge(&self) -> Merged {
        merge_all(&self.replies(), &self.claims(), true).unwrap()
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.replies()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
        files.sort();
        files
    }

    fn bytes(&self) -> u64 {
        self.files("").iter().map(|path| fs::metadata(path).unwrap().len()).sum()
    }

    fn assert_has(&self, numbers: Range<usize>) {
        assert_has(&self.open(), numbers);
    }

    fn covered(&self, stem: &str) -> Vec<Range<u64>> {
        Origins::of(&self.replies()).unwrap().covered(stem).to_vec()
    }
}

fn assert_has(replies: &Replies, numbers: Range<usize>) {
    for number in numbers {
        assert_eq!(replies.get(&address(number)), Some(reply(number)), "reply {number}");
    }
}

fn age(path: &Path) {
    File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
}

/// Named by when its newest part was written, then by when it was merged.
fn is_merged(path: &Path) -> bool {
    stem(path).split('-').count() == 7
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn many_logs_become_one_and_free_what_was_said() {
    let shelf = Shelf::new();
    (0..20).for_each(|log| shelf.fill(log * 3..log * 3 + 5));
    let (before, said) = (shelf.bytes(), merge_all(&shelf.replies(), &shelf.claims(), false).unwrap());
    assert_eq!((before, shelf.files(".log").len()), (shelf.bytes(), 20), "a rehearsal changes nothing");
    assert_eq!(shelf.merge(), said);
    assert_eq!(before - shelf.bytes(), said.freed_bytes);
    assert_eq!((said.logs_before, said.logs_after, said.superseded), (20, 1, 38));
    assert_eq!((shelf.files(".log").len(), shelf.files(".idx").len(), shelf.files(".origins").len()), (1, 1, 1));
    shelf.assert_has(0..62);
    assert_eq!(shelf.merge(), Merged::default(), "there is nothing left to do");
}

#[test]
fn damaged_bytes_are_left_behind() {
    let shelf = Shelf::new();
    (0..8).for_each(|log| shelf.fill(log * 4..log * 4 + 4));
    let log = shelf.files(".log").remove(3);
    let mut bytes = fs::read(&log).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&log, &bytes).unwrap();
    assert!(shelf.merge().damaged_bytes > 0);
    let replies = shelf.open();
    assert_eq!(replies.get(&address(15)), None, "the damaged reply is asked for again");
    assert_eq!(replies.damage().bytes, 0);
    assert_has(&replies, 0..15);
    assert_has(&replies, 16..32);
}

/// The disaster: a run that goes on while logs are merged finds nothing any more, and pays for everything again.
#[test]
fn who_has_the_old_logs_open_goes_on_reading() {
    let shelf = Shelf::new();
    (0..30).for_each(|log| shelf.fill(log * 4..log * 4 + 4));
    let (untouched, reading) = (shelf.open(), shelf.open());
    assert_has(&reading, 0..50);
    assert_eq!(shelf.merge().logs_after, 1);
    for replies in [&untouched, &reading] {
        assert_has(replies, 0..120);
        assert_eq!(replies.damage().replies, 0, "what was moved is not damaged");
    }
}

/// A log that was closed because it was full belongs to a process that lives, and may be merged by another one.
#[test]
fn a_merged_log_of_ones_own_is_found_again() {
    let shelf = Shelf::new();
    let first = shelf.open();
    first.put(&address(0), &reply(0)).unwrap();
    drop(first);
    let name = stem(&shelf.files(".log")[0]);
    shelf.fill(1..20);
    shelf.fill(1..20);
    shelf.merge();
    let merged = &shelf.files(".log")[0];
    assert!(is_merged(merged));
    assert_eq!(shelf.covered(&name).len(), 1);
    shelf.assert_has(0..20);
}

#[test]
fn a_log_in_use_stays_and_keeps_its_rank() {
    let shelf = Shelf::new();
    shelf.fill(0..10);
    shelf.fill(0..10);
    let living = shelf.open();
    living.put(&address(5), b"between").unwrap();
    shelf.fill(20..30);
    shelf.fill(20..30);
    assert_eq!(shelf.merge().logs_after, 2);
    assert_eq!(shelf.files(".log").len(), 3);
    assert_eq!(shelf.open().get(&address(5)), Some(b"between".to_vec()), "newer than what was merged before it");
    living.put(&address(6), b"still writing").unwrap();
    assert_eq!(shelf.open().get(&address(6)), Some(b"still writing".to_vec()));
}

#[test]
fn a_crash_at_any_step_loses_nothing() {
    let check = |name: &str, undo: &dyn Fn(&Shelf, &[(PathBuf, Vec<u8>)])| {
        let shelf = Shelf::new();
        (0..10).for_each(|log| shelf.fill(log * 2..log * 2 + 4));
        let old: Vec<_> = shelf.files("").into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
        shelf.merge();
        undo(&shelf, &old);
        shelf.assert_has(0..22);
        shelf.merge();
        shelf.assert_has(0..22);
        assert_eq!(shelf.files(".log").len(), 1, "{name}");
    };
    let restore = |old: &[(PathBuf, Vec<u8>)], count: usize| {
        old.iter().take(count).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    };
    check("all done", &|_, _| {});
    check("before the first old log was removed", &|_, old| restore(old, old.len()));
    check("between two removals", &|_, old| restore(old, old.len() / 2 + 1));
    check("before the index", &|shelf, old| {
        restore(old, old.len());
        fs::remove_file(shelf.files(".idx").into_iter().find(|path| is_merged(path)).unwrap()).unwrap();
    });
    check("before the log", &|shelf, old| {
        for path in shelf.files("").iter().filter(|path| is_merged(path)) {
            if !path.to_str().unwrap().ends_with(".origins") {
                fs::remove_file(path).unwrap();
            }
        }
        restore(old, old.len());
        assert_eq!(shelf.covered(&stem(&old[0].0)), [], "a list without its log vouches for nothing");
    });
}

#[test]
fn what_was_merged_is_known_by_log_and_range() {
    let shelf = Shelf::new();
    shelf.fill(0..10);
    let whole = shelf.files(".log").remove(0);
    let bytes = fs::metadata(&whole).unwrap().len();
    fs::remove_file(whole.with_extension("idx")).unwrap();
    let elsewhere = "0000000000000001-1-0-0001";
    for (from, to) in [(16, 100), (100, 250), (400, 500)] {
        fs::copy(&whole, shelf.replies().join(format!("{elsewhere}.{from}-{to}.log"))).unwrap();
    }
    (0..4).for_each(|_| shelf.fill(0..10));
    shelf.merge();
    assert_eq!(shelf.covered(&stem(&whole)), vec![16..bytes]);
    assert_eq!(shelf.covered(elsewhere), [16..250, 400..500]);
    let merged = shelf.files(".log").remove(0);
    let merged_bytes = fs::metadata(&merged).unwrap().len();
    (0..4).for_each(|_| shelf.fill(5..15));
    shelf.merge();
    assert_eq!(
        shelf.covered(&stem(&merged)),
        vec![16..merged_bytes],
        "it may have been sent before it was merged again"
    );
    assert_eq!(shelf.files(".log").len(), 1);
    assert_eq!(shelf.covered(elsewhere), [16..250, 400..500], "handed on when merged again");
    assert_eq!(shelf.covered("nowhere"), []);
    let list = shelf.files(".origins").remove(0);
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replace("250", "260")).unwrap();
    assert_eq!(shelf.covered(elsewhere), [], "a damaged list vouches for nothing");
}

#[test]
fn a_folder_with_many_rested_logs_is_tidied_when_it_is_opened() {
    let shelf = Shelf::new();
    (0..260).for_each(|log| shelf.fill(log..log + 1));
    tidy(&shelf.replies(), &shelf.claims()).unwrap();
    assert_eq!(shelf.files(".log").len(), 260, "written a moment ago");
    shelf.files(".log").iter().for_each(|path| age(path));
    let held = File::open(&shelf.files(".log")[40]).unwrap();
    held.lock().unwrap();
    shelf.assert_has(0..260);
    assert_eq!(shelf.files(".log").len(), 3, "all but the one in use, which parts them");
}

#[test]
fn readers_and_mergers_at_once_never_miss_a_reply() {
    let shelf = Shelf::new();
    (0..12).for_each(|log| shelf.fill(log * 5..log * 5 + 5));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let first = shelf.open();
                while !done.load(Ordering::Relaxed) {
                    shelf.assert_has(0..60);
                    first.refresh().unwrap();
                    assert_has(&first, 0..60);
                }
            });
        }
        for _ in 0..40 {
            shelf.fill(0..30);
            shelf.fill(30..60);
            shelf.merge();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[derive(Clone, Debug)]
struct Log {
    puts: Vec<(usize, u8)>,
    is_living: bool,
    flips: Option<prop::sample::Index>,
}

fn log() -> impl Strategy<Value = Log> {
    let puts = prop::collection::vec((0usize..12, any::<u8>()), 1..8);
    (puts, prop::bool::weighted(0.2), prop::option::weighted(0.2, any::<prop::sample::Index>()))
        .prop_map(|(puts, is_living, flips)| Log { puts, is_living, flips })
}

fn answers(shelf: &Shelf) -> BTreeMap<usize, Vec<u8>> {
    // An index from before a flip points at damage; each look finds one such log at most for a
    // request and reads it again, so that the next look finds the answer of the log before it.
    for _ in shelf.files(".log") {
        let replies = shelf.open();
        (0..12).for_each(|number| drop(replies.get(&address(number))));
    }
    let replies = shelf.open();
    (0..12).filter_map(|number| Some((number, replies.get(&address(number))?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever lies in the folder, every request has the same answer after a merge as before.
    #[test]
    fn merging_changes_no_answer(logs in prop::collection::vec(log(), 1..8)) {
        let (shelf, mut living, mut known) = (Shelf::new(), Vec::new(), HashSet::new());
        for log in &logs {
            let replies = shelf.open();
            for (number, value) in &log.puts {
                replies.put(&address(*number), &[*value; 30]).unwrap();
            }
            if log.is_living {
                living.push(replies);
                continue;
            }
            drop(replies);
            if let Some(at) = log.flips {
                let new = shelf.files(".log").into_iter().find(|path| known.insert(path.clone()) && path.with_extension("idx").exists());
                if let Some(path) = new {
                    let mut bytes = fs::read(&path).unwrap();
                    let at = at.index(bytes.len());
                    bytes[at] ^= 4;
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
        let before = answers(&shelf);
        merge_all(&shelf.replies(), &shelf.claims(), true).unwrap();
        prop_assert_eq!(answers(&shelf), before);
    }
}

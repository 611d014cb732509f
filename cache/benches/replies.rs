//! How fast replies open, are found and are kept: one line for each, by the clock and by this thread's CPU time (which a busy
//! machine does not distort). `cargo bench -p cache`.

mod support;

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use cache::{Digest, Replies, ReplyAddress};
use support::{Time, report};

const REPLIES: usize = 100_000;
const REPLY_BYTES: usize = 1_300;
const LOGS: usize = 1_000;
const LOG_REPLIES: usize = 20;
/// At once, as one opening is over before the clock of CPU time ticks.
const OPENINGS: usize = 50;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let addresses: Vec<_> = (0..REPLIES as u64).map(address).collect();
    report("put", REPLIES, fill(folder.path(), &addresses));
    report("open, indexed", REPLIES, Time::best(|| drop(black_box(open(folder.path())))));
    let replies = open(folder.path());
    report(
        "contains",
        REPLIES,
        Time::best(|| addresses.iter().for_each(|at| assert!(black_box(replies.contains(at))))),
    );
    report(
        "get, verified",
        REPLIES,
        Time::best(|| addresses.iter().for_each(|at| assert!(black_box(replies.get(at)).is_some()))),
    );
    let every_core = Time::best(|| get_on_every_core(&replies, &addresses));
    report("get, every core", REPLIES, Time { cpu: Duration::ZERO, ..every_core });
    report("claim and release", 10_000, Time::best(|| claim(&replies, 10_000)));
    report("open, scanned", REPLIES, Time::best(|| scan(folder.path())));
    many_small_logs();
}

/// What many short runs leave behind, as it is opened before and after a merge.
fn many_small_logs() {
    let addresses: Vec<_> = (0..LOGS * LOG_REPLIES).map(|number| address(number as u64)).collect();
    for logs in [16, 64, 256, LOGS] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for addresses in addresses.chunks(LOG_REPLIES).take(logs) {
            fill(folder.path(), addresses);
        }
        let replies = logs * LOG_REPLIES;
        let opened = || (0..OPENINGS).for_each(|_| drop(black_box(open(folder.path()))));
        report(&format!("open, {logs} logs"), replies * OPENINGS, Time::best(opened));
        let start = Time::now();
        let (place, claims) = (folder.path().join("replies"), folder.path().join("claims"));
        black_box(cache::memo::merge::merge_all(&place, &claims, true).expect("room for a log"));
        report("merge them", replies, Time::now() - start);
        report("open, merged", replies * OPENINGS, Time::best(opened));
    }
}

fn address(number: u64) -> ReplyAddress {
    ReplyAddress(Digest::from_bytes(*cache::Hasher::new("bench").raw(&number.to_le_bytes()).finish().as_bytes()))
}

fn open(folder: &Path) -> Replies {
    Replies::open(&folder.join("replies"), &folder.join("claims")).expect("a folder of replies")
}

fn fill(folder: &Path, addresses: &[ReplyAddress]) -> Time {
    let replies = open(folder);
    let text = "dose ".repeat(REPLY_BYTES / 5);
    Time::of(|| {
        addresses.iter().for_each(|address| replies.put(address, text.as_bytes()).expect("room for a reply"));
        replies.flush().expect("a disk that syncs");
    })
}

/// A warm process asks from many threads. Only the clock tells here: the time of the others' cores is not this thread's.
fn get_on_every_core(replies: &Replies, addresses: &[ReplyAddress]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for part in addresses.chunks(addresses.len().div_ceil(cores)) {
            scope.spawn(|| part.iter().for_each(|at| assert!(black_box(replies.get(at)).is_some())));
        }
    });
}

fn claim(replies: &Replies, count: u64) {
    for number in 0..count {
        drop(black_box(replies.claim(&address(u64::MAX - number)).expect("a claim")));
    }
}

fn scan(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("replies")).expect("a folder").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "idx") {
            std::fs::remove_file(entry.path()).expect("an index to remove");
        }
    }
    drop(black_box(open(folder)));
}

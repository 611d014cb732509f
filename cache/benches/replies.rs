//! How fast replies open, are found and are kept: one line for each, by the clock and by this thread's CPU time (which a busy
//! machine does not distort). `cargo bench -p cache`.

mod support;

use std::hint::black_box;
use std::path::Path;

use cache::{Digest, Replies, ReplyAddress};
use support::{Time, report};

const REPLIES: usize = 100_000;
const REPLY_BYTES: usize = 1_300;

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
    report("claim and release", 10_000, Time::best(|| claim(&replies, 10_000)));
    report("open, scanned", REPLIES, Time::best(|| scan(folder.path())));
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

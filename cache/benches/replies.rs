//! How fast replies open, are found and are kept: prints one line for each. `cargo bench -p cache`.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use cache::{Digest, Replies, ReplyAddress};

const REPLIES: usize = 100_000;
const REPLY_BYTES: usize = 1_300;
const REPEATS: usize = 5;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let addresses: Vec<_> = (0..REPLIES as u64).map(address).collect();
    report("put", REPLIES, fill(folder.path(), &addresses));
    report("open, indexed", REPLIES, best(|| drop(black_box(open(folder.path())))));
    let replies = open(folder.path());
    report("contains", REPLIES, best(|| addresses.iter().for_each(|at| assert!(black_box(replies.contains(at))))));
    report(
        "get, verified",
        REPLIES,
        best(|| addresses.iter().for_each(|at| assert!(black_box(replies.get(at)).is_some()))),
    );
    report("get, verified, 2 threads", REPLIES, best(|| get_on_two_threads(&replies, &addresses)));
    report("claim and release", 10_000, best(|| claim(&replies, 10_000)));
    report("open, scanned", REPLIES, best(|| scan(folder.path())));
}

fn address(number: u64) -> ReplyAddress {
    ReplyAddress(Digest::from_bytes(*cache::Hasher::new("bench").raw(&number.to_le_bytes()).finish().as_bytes()))
}

fn open(folder: &Path) -> Replies {
    Replies::open(&folder.join("replies"), &folder.join("claims")).expect("a folder of replies")
}

fn fill(folder: &Path, addresses: &[ReplyAddress]) -> Duration {
    let replies = open(folder);
    let text = "dose ".repeat(REPLY_BYTES / 5);
    let start = Instant::now();
    addresses.iter().for_each(|address| replies.put(address, text.as_bytes()).expect("room for a reply"));
    replies.flush().expect("a disk that syncs");
    start.elapsed()
}

fn get_on_two_threads(replies: &Replies, addresses: &[ReplyAddress]) {
    let (left, right) = addresses.split_at(addresses.len() / 2);
    std::thread::scope(|scope| {
        for half in [left, right] {
            scope.spawn(|| half.iter().for_each(|at| assert!(black_box(replies.get(at)).is_some())));
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

fn best(mut run: impl FnMut()) -> Duration {
    let times = (0..REPEATS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().expect("at least one repeat")
}

fn report(what: &str, count: usize, time: Duration) {
    let (milliseconds, rate) = (time.as_secs_f64() * 1e3, count as f64 / time.as_secs_f64() / 1e6);
    println!("{what:<26} {count:>7} in {milliseconds:>8.1} ms {rate:>8.2} M/s");
}

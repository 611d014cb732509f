//! Replies under kill -9, torn tails, flipped bytes and company: nothing that was put is lost, nothing wrong is ever returned.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cache::{Claim, Digest, Preimage, Replies, ReplyAddress};

fn address(number: usize) -> ReplyAddress {
    Preimage::new().with("number", number).reply_address()
}

fn reply(number: usize) -> Vec<u8> {
    format!("reply {number} ").repeat(number % 40 + 1).into_bytes()
}

fn open(folder: &Path) -> Replies {
    Replies::open(&folder.join("replies"), &folder.join("claims")).unwrap()
}

fn fill(folder: &Path, numbers: std::ops::Range<usize>) {
    let replies = open(folder);
    numbers.for_each(|number| replies.put(&address(number), &reply(number)).unwrap());
}

fn assert_has(replies: &Replies, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(replies.get(&address(number)), Some(reply(number)), "reply {number}");
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("replies")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Runs `role` of this test binary in another process.
fn spawn(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .env("CACHE_TEST_ROLE", role)
        .env("CACHE_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test of its own: what a spawned process does.
#[test]
fn child_process() {
    let Ok(role) = std::env::var("CACHE_TEST_ROLE") else { return };
    let folder = PathBuf::from(std::env::var("CACHE_TEST_FOLDER").unwrap());
    match role.as_str() {
        "put forever" => {
            let replies = open(&folder);
            for number in 0.. {
                replies.put(&address(number), &reply(number)).unwrap();
                println!("put {number}");
            }
        }
        "call each once" => call_each_once(&folder),
        "claim many" => claim_many(&folder),
        other => panic!("no role `{other}`"),
    }
}

const CALLS: usize = 150;

/// Every process wants all replies; `calls` counts who really called.
fn call_each_once(folder: &Path) {
    let replies = open(folder);
    for number in 0..CALLS {
        loop {
            match replies.claim(&address(number)).unwrap() {
                Claim::Answered(found) => break assert_eq!(found, reply(number)),
                Claim::Ours(_claimed) => {
                    std::thread::sleep(Duration::from_micros(200));
                    replies.put(&address(number), &reply(number)).unwrap();
                    println!("called {number}");
                    break;
                }
                Claim::Elsewhere => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }
}

#[test]
fn kill_9_in_the_middle_of_writing_loses_nothing_that_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = spawn("put forever", folder.path());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut put = 0;
    for line in lines {
        if let Some(number) = line.rsplit_once("put ").and_then(|(_, number)| number.parse::<usize>().ok()) {
            put = number + 1;
            if put == 3_000 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(put >= 3_000);
    for _ in 0..2 {
        assert_has(&open(folder.path()), 0..put);
    }
    fill(folder.path(), put..put + 10);
    assert_has(&open(folder.path()), 0..put + 10);
}

#[test]
fn processes_that_want_the_same_replies_call_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4).map(|_| spawn("call each once", folder.path())).collect();
    let mut called = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        called.extend(
            text.split("called ").skip(1).map(|rest| rest.split_whitespace().next().unwrap().parse::<usize>().unwrap()),
        );
    }
    called.sort_unstable();
    assert_eq!(called, (0..CALLS).collect::<Vec<_>>());
    assert_has(&open(folder.path()), 0..CALLS);
}

/// More claims at once than this process may open files.
fn claim_many(folder: &Path) {
    let replies = open(folder);
    let claims: Vec<_> = (0..200).map(|number| replies.claim(&address(number)).unwrap()).collect();
    assert!(claims.iter().all(|claim| matches!(claim, Claim::Ours(_))));
    let theirs = open(folder);
    assert!((0..200).all(|number| matches!(theirs.claim(&address(number)).unwrap(), Claim::Elsewhere)));
    drop(claims);
    assert!(matches!(theirs.claim(&address(199)).unwrap(), Claim::Ours(_)), "given back");
}

#[test]
fn more_calls_may_be_claimed_at_once_than_files_may_be_open() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_process"])
        .env("CACHE_TEST_ROLE", "claim many")
        .env("CACHE_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_reply_is_found_while_its_lock_serves_another_call() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, theirs) = (open(folder.path()), open(folder.path()));
    // Addresses that begin alike share a lock.
    let mut neighbour = *address(0).as_bytes();
    neighbour[31] ^= 1;
    let neighbour = ReplyAddress(Digest::from_bytes(neighbour));
    let Claim::Ours(_held) = theirs.claim(&neighbour).unwrap() else { panic!("free") };
    assert!(matches!(mine.claim(&address(0)).unwrap(), Claim::Elsewhere));
    theirs.put(&address(0), b"yes").unwrap();
    assert!(matches!(mine.claim(&address(0)).unwrap(), Claim::Answered(found) if found == b"yes"));
}

#[test]
fn tasks_that_want_the_same_reply_call_once() {
    let folder = tempfile::tempdir().unwrap();
    let replies = open(folder.path());
    let Claim::Ours(claimed) = replies.claim(&address(1)).unwrap() else { panic!("free") };
    assert!(matches!(replies.claim(&address(1)).unwrap(), Claim::Elsewhere));
    drop(claimed);
    let Claim::Ours(claimed) = replies.claim(&address(1)).unwrap() else {
        panic!("given up without a reply: free again")
    };
    replies.put(&address(1), b"yes").unwrap();
    assert!(matches!(replies.claim(&address(1)).unwrap(), Claim::Answered(found) if found == b"yes"));
    drop(claimed);
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_kept() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..20);
    let log = files(folder.path(), "log").remove(0);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    let replies = open(folder.path());
    assert_has(&replies, 0..19);
    assert_eq!(replies.get(&address(19)), None);
    assert!(replies.damage().bytes > 0);
    replies.put(&address(19), &reply(19)).unwrap();
    drop(replies);
    assert_has(&open(folder.path()), 0..20);
}

/// The disaster: the index vouches for a record whose bytes have changed.
#[test]
fn a_flipped_byte_is_a_miss_also_behind_an_intact_index_and_can_be_paid_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..5);
    let log = files(folder.path(), "log").remove(0);
    let size = fs::read(&log).unwrap().len();
    flip(&log, size - 1);
    let replies = open(folder.path());
    assert_eq!(replies.get(&address(4)), None);
    assert_eq!(replies.damage().replies, 1);
    assert_has(&replies, 0..4);
    replies.put(&address(4), &reply(4)).unwrap();
    drop(replies);
    for _ in 0..2 {
        assert_has(&open(folder.path()), 0..5);
    }
}

#[test]
fn a_flip_anywhere_in_log_or_index_never_gives_a_wrong_reply() {
    for extension in ["log", "idx"] {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), 0..4);
        let path = files(folder.path(), extension).remove(0);
        let (log, index) = (files(folder.path(), "log").remove(0), files(folder.path(), "idx").remove(0));
        let (whole_log, whole_index) = (fs::read(&log).unwrap(), fs::read(&index).unwrap());
        for at in 0..fs::metadata(&path).unwrap().len() as usize {
            flip(&path, at);
            let replies = open(folder.path());
            let found = (0..4).filter(|number| match replies.get(&address(*number)) {
                Some(found) => {
                    found == reply(*number) || panic!("a wrong reply after a flip at {at} of the {extension}")
                }
                None => false,
            });
            assert!(found.count() >= if extension == "log" { 3 } else { 4 }, "flip at {at} of the {extension}");
            fs::write(&log, &whole_log).unwrap();
            fs::write(&index, &whole_index).unwrap();
        }
    }
}

#[test]
fn a_log_without_its_index_is_read_and_indexed_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..10);
    fs::remove_file(files(folder.path(), "idx").remove(0)).unwrap();
    assert_has(&open(folder.path()), 0..10);
    assert_eq!(files(folder.path(), "idx").len(), 1);
}

#[test]
fn a_living_writers_log_is_read_but_not_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()), open(folder.path()));
    for number in 0..50 {
        one.put(&address(number), &reply(number)).unwrap();
        two.refresh().unwrap();
        assert_has(&two, number..number + 1);
    }
    let three = open(folder.path());
    assert_has(&three, 0..50);
    assert!(files(folder.path(), "idx").is_empty());
    drop(one);
    assert_eq!(files(folder.path(), "idx").len(), 1);
    assert_has(&open(folder.path()), 0..50);
}

#[test]
fn a_run_that_only_reads_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..3);
    let before = files(folder.path(), "log").len();
    assert_has(&open(folder.path()), 0..3);
    assert_eq!(files(folder.path(), "log").len(), before);
}

#[test]
fn a_second_answer_to_one_request_replaces_the_first_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let replies = open(folder.path());
    replies.put(&address(1), b"first").unwrap();
    replies.put(&address(1), b"second").unwrap();
    replies.put(&address(2), b"").unwrap();
    replies.flush().unwrap();
    drop(replies);
    let later = open(folder.path());
    assert_eq!(later.get(&address(1)), Some(b"second".to_vec()));
    assert_eq!(later.get(&address(2)), Some(Vec::new()), "an empty reply is a reply");
    later.put(&address(1), b"third").unwrap();
    drop(later);
    assert_eq!(open(folder.path()).get(&address(1)), Some(b"third".to_vec()));
    assert_eq!(open(folder.path()).len(), 2);
}

#[test]
fn more_logs_than_open_files_are_all_readable() {
    let folder = tempfile::tempdir().unwrap();
    (0..300).for_each(|number| fill(folder.path(), number..number + 1));
    assert_has(&open(folder.path()), 0..300);
}

#[test]
fn replies_that_are_handed_in_are_kept_together() {
    let folder = tempfile::tempdir().unwrap();
    let replies = open(folder.path());
    let groups = [0, 1, 2].map(|number| replies.hand_in(&address(number), &reply(number)).unwrap());
    assert!((0..3).all(|number| replies.get(&address(number)).is_none()), "nobody has asked to keep them");
    replies.keep(groups[1]).unwrap();
    assert_has(&replies, 0..3);
    assert_has(&open(folder.path()), 0..3);
    replies.hand_in(&address(3), &reply(3)).unwrap();
    groups.into_iter().for_each(|group| replies.keep(group).unwrap());
    assert_eq!(replies.get(&address(3)), None, "those were kept already");
    drop(replies);
    assert_has(&open(folder.path()), 0..4);
}

/// The disaster: a reply read ahead is another's, or is missing because its log went on since.
#[test]
fn replies_are_found_in_any_order_while_more_are_put() {
    let folder = tempfile::tempdir().unwrap();
    let writer = open(folder.path());
    let number = |step: usize| (step * 389) % 1_500;
    let reader = open(folder.path());
    for step in 0..1_500 {
        writer.put(&address(number(step)), &reply(number(step))).unwrap();
        if step % 50 == 49 {
            reader.refresh().unwrap();
            (0..=step).rev().step_by(3).for_each(|step| {
                assert_eq!(reader.get(&address(number(step))), Some(reply(number(step))), "{step}");
            });
        }
    }
    let readers = std::iter::repeat_with(|| {
        std::thread::spawn({
            let reader = reader.clone();
            move || assert_has(&reader, 0..1_500)
        })
    });
    readers.take(3).collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().unwrap());
}

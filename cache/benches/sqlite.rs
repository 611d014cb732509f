//! Replies in our log and in SQLite, the same ones in one run: why the log was chosen.
//! `cargo bench -p cache --features sqlite-bench --bench sqlite`.
//!
//! Both keep what was put when the process is killed, and lose the last moments in a power cut (SQLite: WAL, `synchronous=NORMAL`).
//! Our `get` checks each reply's checksum; SQLite's does not.

mod support;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use cache::{Digest, Replies, ReplyAddress};
use rusqlite::{Connection, params};
use support::{Time, report};

const REPLIES: usize = 100_000;
const REPLY_BYTES: usize = 1_300;
/// Replies that one transaction carries in the grouped case.
const GROUP: usize = 100;
/// Pages that SQLite may keep in memory, 30 times its default.
const PAGES_KIB: i64 = 64 * 1024;

type Pairs = Vec<(ReplyAddress, Vec<u8>)>;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pairs: Pairs = (0..REPLIES as u64).map(|number| (address(number), reply(number))).collect();
    our_log(&folder.path().join("log"), &pairs);
    sqlite(&folder.path().join("each"), &pairs, 1);
    sqlite(&folder.path().join("grouped"), &pairs, GROUP);
}

fn address(number: u64) -> ReplyAddress {
    ReplyAddress(Digest::from_bytes(*cache::Hasher::new("bench").raw(&number.to_le_bytes()).finish().as_bytes()))
}

fn reply(number: u64) -> Vec<u8> {
    let text = format!("reply {number}: give 2 of 45 mg and 1 of 30 mg. ");
    text.repeat(REPLY_BYTES / text.len() + 1).into_bytes()[..REPLY_BYTES].to_vec()
}

fn our_log(folder: &Path, pairs: &Pairs) {
    let open = || Replies::open(&folder.join("replies"), &folder.join("claims")).expect("a folder of replies");
    let put = || {
        let replies = open();
        pairs.iter().for_each(|(address, reply)| replies.put(address, reply).expect("room for a reply"));
        replies.flush().expect("a disk that syncs");
    };
    report("log: put", REPLIES, Time::of(put));
    report("log: open", REPLIES, Time::best(|| assert_eq!(black_box(open()).len(), REPLIES)));
    let replies = open();
    let get = || pairs.iter().for_each(|(address, reply)| assert!(replies.get(address).as_ref() == Some(reply)));
    report("log: get, verified", REPLIES, Time::best(get));
    print_size("log", &folder.join("replies"));
}

fn sqlite(folder: &Path, pairs: &Pairs, group: usize) {
    fs::create_dir(folder).expect("a folder");
    let name = format!("sqlite, {group} a commit");
    let put = || {
        let mut connection = open(folder);
        for pairs in pairs.chunks(group) {
            let transaction = connection.transaction().expect("a transaction");
            for (address, reply) in pairs {
                let mut insert =
                    transaction.prepare_cached("insert or replace into replies values (?, ?)").expect("SQL");
                insert.execute(params![&address.0.as_bytes()[..], reply]).expect("room for a reply");
            }
            transaction.commit().expect("a commit");
        }
    };
    report(&format!("{name}: put"), REPLIES, Time::of(put));
    report(&format!("{name}: open"), REPLIES, Time::best(|| drop(black_box(open(folder)))));
    let connection = open(folder);
    let get = || {
        for (address, reply) in pairs {
            let mut select = connection.prepare_cached("select reply from replies where address = ?").expect("SQL");
            let found: Vec<u8> = select.query_one([&address.0.as_bytes()[..]], |row| row.get(0)).expect("a reply");
            assert!(found == *reply);
        }
    };
    report(&format!("{name}: get"), REPLIES, Time::best(get));
    print_size(&name, folder);
}

fn open(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("replies.sqlite")).expect("a database");
    connection.pragma_update(None, "journal_mode", "wal").expect("a database");
    connection.pragma_update(None, "synchronous", "normal").expect("a database");
    connection.pragma_update(None, "cache_size", -PAGES_KIB).expect("a database");
    let table = "create table if not exists replies (address blob primary key, reply blob not null)";
    connection.execute(table, []).expect("a table");
    connection
}

fn print_size(name: &str, folder: &Path) {
    let sizes =
        fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.metadata().map_or(0, |file| file.len()));
    let bytes: u64 = sizes.sum();
    println!(
        "{name:<28} {:.1} MB on disk for {:.1} MB of replies",
        bytes as f64 / 1e6,
        (REPLIES * REPLY_BYTES) as f64 / 1e6
    );
}

//! Whatever a store reads back: manifests, logs of replies and their indices, sealed lines, signed stretches of a shared store.
//!
//! Input: a byte that chooses the reader, then its bytes. Where a checksum would keep everything out it is put right first: who can
//! write to a store can compute it, and the reader behind it must bear whatever comes.
#![no_main]

use cache::hash::Hasher;
use cache::{
    Bucket, Manifest, Preimage, Push, Put, Replies, ReplyAddress, Result, Sealed, Sharing, SharingOptions, StatCache,
    Store, Trust, source_hash,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

const READERS: [fn(&[u8]); 7] = [raw_manifest, manifest, log, index, lines, stat_cache, stretch];

static ROOT: LazyLock<PathBuf> = LazyLock::new(fuzz::scratch);
static STORE: LazyLock<Store> = LazyLock::new(|| Store::open(&ROOT.join("store")).unwrap());

fuzz_target!(|data: &[u8]| {
    if let Some((reader, bytes)) = data.split_first() {
        READERS[usize::from(*reader) % READERS.len()](bytes);
    }
});

/// As it lies in a store, signed or not.
fn raw_manifest(bytes: &[u8]) {
    let written: Option<Value> =
        bytes.split(|byte| *byte == b'\n').next().and_then(|body| serde_json::from_slice(body).ok());
    let key = written.and_then(|written| written["key"].as_str()?.parse().ok());
    let key = key.unwrap_or_else(|| Preimage::new().action_key());
    if let Ok(sealed) = Sealed::from_bytes(&key, bytes) {
        assert_eq!(sealed.manifest.key, key);
    }
}

/// The body alone, under the right checksum and its own key.
fn manifest(body: &[u8]) {
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(body) else { return };
    manifest.key = manifest.preimage.action_key();
    let read = Manifest::from_bytes(&manifest.key, &manifest.to_bytes());
    assert!(read.is_err() || read.as_ref() == Ok(&manifest), "what is written is read");
    manifest.bytes();
}

/// A log of a writer that is gone.
fn log(records: &[u8]) {
    let folder = fresh("replies");
    fs::write(folder.join("00ab-1-0-0001.log"), [b"decoct replies 1", records].concat()).unwrap();
    open_replies(records);
    // Again, through the index that the first reader has left.
    open_replies(records);
}

/// A log and its index, parted by a zero byte.
fn index(bytes: &[u8]) {
    let folder = fresh("replies");
    let (records, entries) = split_at_zero(bytes);
    let log = [b"decoct replies 1", records].concat();
    let count = (entries.len() / 44) as u64;
    let body = [b"decoct replyidx1", &(log.len() as u64).to_le_bytes()[..], &count.to_le_bytes(), entries].concat();
    let digest = Hasher::new("decoct 1 reply index").raw(&body).finish();
    fs::write(folder.join("00ab-1-0-0001.idx"), [&body[..], digest.as_bytes()].concat()).unwrap();
    fs::write(folder.join("00ab-1-0-0001.log"), log).unwrap();
    open_replies(bytes);
}

fn open_replies(bytes: &[u8]) {
    let replies = Replies::open(&ROOT.join("replies"), &ROOT.join("claims")).unwrap();
    for address in addresses(bytes) {
        replies.get(&address);
    }
    replies.damage();
}

/// Whatever follows a mark could be an address that someone asks for.
fn addresses(bytes: &[u8]) -> impl Iterator<Item = ReplyAddress> {
    let starts = bytes.windows(4).enumerate().filter(|(_, window)| *window == b"rpl1").map(|(at, _)| at + 16);
    let own = starts.filter_map(|at| bytes.get(at..at + 32)).chain(bytes.chunks_exact(44).map(|entry| &entry[..32]));
    let own = own.map(|address| ReplyAddress(cache::Digest::from_bytes(address.try_into().expect("32 bytes"))));
    own.chain([Preimage::new().reply_address()]).collect::<Vec<_>>().into_iter()
}

/// Records of runs, pins, histories: lines of JSON, sealed where they have to be.
fn lines(text: &[u8]) {
    let layout = STORE.layout();
    let sealed: Vec<u8> =
        text.split(|byte| *byte == b'\n').flat_map(|line| [seal(line), b"\n".to_vec()].concat()).collect();
    fs::create_dir_all(layout.pins()).unwrap();
    fs::write(layout.runs().join("0-0-0.jsonl"), &sealed).unwrap();
    fs::write(layout.pin("one"), &sealed).unwrap();
    fs::write(layout.history("recipe", "node"), text).unwrap();
    STORE.runs().expect("a damaged line costs only itself");
    _ = STORE.pins();
    STORE.history("recipe", "node");
}

fn stat_cache(files: &[u8]) {
    let path = ROOT.join("stat.json");
    fs::write(&path, seal(files)).unwrap();
    source_hash(&path, Some(&StatCache::open(&path))).unwrap();
}

/// The line with the seal that its bytes have.
fn seal(line: &[u8]) -> Vec<u8> {
    let Some(body) = line.strip_suffix(b"}") else { return line.to_vec() };
    let digits = Hasher::new("decoct 1 sealed line").raw(line).finish().to_string();
    [body, b",\"seal\":\"", &digits.as_bytes()[..16], b"\"}"].concat()
}

/// One object in the shared store's folder of replies: its name, a zero byte, its bytes.
fn stretch(object: &[u8]) {
    let (name, bytes) = split_at_zero(object);
    let name = String::from_utf8_lossy(name).into_owned();
    let options = SharingOptions { push: Push::Never, trust: Arc::new(Trust::none()), allow_unsigned: true };
    let sharing = Sharing::with_bucket(Arc::new(Single { name, bytes: bytes.to_vec() }), options);
    let store = Store::open(&ROOT.join("beside")).unwrap().shared(sharing).looking();
    let replies = store.replies().expect("what is no stretch is left where it is");
    addresses(bytes).for_each(|address| drop(replies.get(&address)));
}

fn split_at_zero(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..at], bytes.get(at + 1..).unwrap_or_default())
}

fn fresh(name: &str) -> PathBuf {
    let folder = ROOT.join(name);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A shared store that holds one object.
struct Single {
    name: String,
    bytes: Vec<u8>,
}

impl Bucket for Single {
    fn name(&self) -> &str {
        "fuzz"
    }
    fn round_ms(&self) -> RangeInclusive<u64> {
        1..=1
    }
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok((path.strip_prefix("replies/") == Some(&self.name)).then(|| self.bytes.clone()))
    }
    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool> {
        Ok(self.get(path)?.is_some_and(|bytes| output.write_all(&bytes).is_ok()))
    }
    fn put(&self, _: &str, _: &[u8], _: Put) -> Result<bool> {
        Ok(true)
    }
    fn put_file(&self, _: &str, _: &mut File, _: u64) -> Result<()> {
        Ok(())
    }
    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.get(path)?.map(|bytes| bytes.len() as u64))
    }
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let here = folder == "replies" && !self.name.is_empty();
        Ok(if here { vec![(self.name.clone(), self.bytes.len() as u64)] } else { Vec::new() })
    }
    fn remove(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

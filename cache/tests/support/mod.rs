//! A team around one shared store: machines with stores and keys of their own, and shared stores with faults.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod s3;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cache::{
    Bucket, Error, Manifest, Preimage, Provenance, Push, Put, Result, Sharing, SharingOptions, Store, Table, Trust,
};

pub fn table(values: &[i64]) -> Table {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    Table::new(batch.schema(), vec![batch])
}

pub fn preimage(name: &str) -> Preimage {
    Preimage::new().text("kind", name)
}

pub fn publish(store: &Store, name: &str, values: &[i64]) -> Manifest {
    let mut publication = store.publish(preimage(name));
    publication.table("rows", &table(values)).unwrap();
    publication.commit(Provenance::default()).unwrap()
}

/// The rows of an action if store and shared store have them whole, as a run asks for them.
pub fn find(store: &Store, name: &str) -> Option<Vec<i64>> {
    let manifest = store.lookup(&preimage(name).action_key()).unwrap().intact()?;
    let is_whole = store.missing_blobs(&manifest).unwrap().is_empty();
    is_whole.then(|| read(store, &manifest)).flatten()
}

pub fn read(store: &Store, manifest: &Manifest) -> Option<Vec<i64>> {
    let rows = store.open_rows(manifest, "rows").unwrap().intact()?.concat().unwrap();
    assert_eq!(table(&values(&rows)).content().unwrap(), manifest.outputs["rows"].content(), "wrong bytes");
    Some(values(&rows))
}

fn values(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

/// Every file below `folder` with its bytes.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => files.extend(snapshot(&entry.path())),
            false => drop(files.insert(entry.path(), fs::read(entry.path()).unwrap())),
        }
    }
    files
}

/// The address of a shared store on which a test binary runs once more, instead of on those made here.
pub const REMOTE: &str = "CACHE_TEST_REMOTE";

/// Shared stores by name: what must hold holds on each.
pub fn buckets(folder: &Path) -> Vec<(&'static str, Arc<dyn Bucket>)> {
    static PREFIXES: AtomicU64 = AtomicU64::new(0);
    if let Ok(url) = std::env::var(REMOTE) {
        let prefix = PREFIXES.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{url}/{prefix}-{}", std::process::id());
        return vec![("object store", open(&prefix))];
    }
    let at = |name: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        open(folder.join(name).to_str().unwrap())
    };
    let careless = Faulty { is_careless: true, ..Faulty::new(at("careless")) };
    vec![("folder", at("plain")), ("careless folder", Arc::new(careless)), ("memory", Arc::new(Memory::default()))]
}

pub fn open(url: &str) -> Arc<dyn Bucket> {
    let options = SharingOptions { push: Push::Never, trust: Arc::new(Trust::none()), allow_unsigned: false };
    Sharing::open(url, options).unwrap().bucket_handle()
}

pub fn on_each_bucket(members: usize, body: impl Fn(&str, &Team)) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bucket) in buckets(folder.path()) {
        body(name, &Team::new(members, bucket));
    }
}

/// Runs all tests of this binary again, in another process, on S3; `except` is the test that asks for it.
pub fn run_again_on_s3(except: &str) {
    if std::env::var_os(REMOTE).is_some() {
        return;
    }
    let server = s3::Server::start();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--skip", except, "--test-threads", "4"]).envs(server.environment()).env(REMOTE, server.url());
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "{text}");
}

/// People who trust each other, and one shared store.
pub struct Team {
    pub folder: tempfile::TempDir,
    pub bucket: Arc<dyn Bucket>,
    pub members: Vec<PathBuf>,
}

impl Team {
    pub fn new(members: usize, bucket: Arc<dyn Bucket>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places: Vec<_> = (0..members).map(|member| folder.path().join(format!("keys{member}"))).collect();
        let keys: Vec<_> = places.iter().map(|place| Trust::open(place).unwrap().signer().unwrap().public()).collect();
        for (member, place) in places.iter().enumerate() {
            let mut trust = Trust::open(place).unwrap();
            for other in (0..members).filter(|other| *other != member) {
                trust.add(&format!("member{other}"), keys[other]).unwrap();
            }
        }
        Self { folder, bucket, members: places }
    }

    pub fn trust(&self, member: usize) -> Trust {
        Trust::open(&self.members[member]).unwrap()
    }

    /// A machine of a member with an empty store.
    pub fn machine(&self, member: usize) -> Store {
        self.machine_with(member, Push::Always, false)
    }

    pub fn machine_with(&self, member: usize, push: Push, allow_unsigned: bool) -> Store {
        static MACHINES: AtomicU64 = AtomicU64::new(0);
        let name = format!("machine{}", MACHINES.fetch_add(1, Ordering::Relaxed));
        self.machine_at(&self.folder.path().join(name), self.trust(member), push, allow_unsigned)
    }

    pub fn machine_at(&self, root: &Path, trust: Trust, push: Push, allow_unsigned: bool) -> Store {
        let options = SharingOptions { push, trust: Arc::new(trust), allow_unsigned };
        Store::open(root).unwrap().shared(Sharing::with_bucket(self.bucket.clone(), options))
    }

    /// Someone whom nobody trusts, and who trusts nobody.
    pub fn stranger(&self) -> Store {
        let root = self.folder.path().join("stranger");
        self.machine_at(&root.join("store"), Trust::open(&root.join("keys")).unwrap(), Push::Always, false)
    }

    /// Changes bytes in the shared store behind everyone's back.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bucket.get(path).unwrap().unwrap();
        change(&mut bytes);
        self.bucket.put(path, &bytes, Put::Replace).unwrap();
    }
}

/// A shared store in memory.
#[derive(Default)]
pub struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Bucket for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn round_ms(&self) -> RangeInclusive<u64> {
        5..=20
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(path).cloned())
    }

    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool> {
        let Some(bytes) = self.get(path)? else { return Ok(false) };
        output.write_all(&bytes).unwrap();
        Ok(true)
    }

    fn put(&self, path: &str, bytes: &[u8], how: Put) -> Result<bool> {
        let mut objects = self.0.lock().unwrap();
        let written = how == Put::Replace || !objects.contains_key(path);
        if written {
            objects.insert(path.to_owned(), bytes.to_vec());
        }
        Ok(written)
    }

    fn put_file(&self, path: &str, file: &mut File, bytes: u64) -> Result<()> {
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, bytes);
        self.put(path, &content, Put::Replace).map(drop)
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.0.lock().unwrap().get(path).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let objects = self.0.lock().unwrap();
        let within = objects.iter().filter_map(|(path, bytes)| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| (name.to_owned(), bytes.len() as u64))
        });
        Ok(within.collect())
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.0.lock().unwrap().remove(path);
        Ok(())
    }
}

/// Another store with a fault.
pub struct Faulty {
    pub inner: Arc<dyn Bucket>,
    /// Lets every writer win, as some stores do.
    pub is_careless: bool,
    /// One in so many requests fails.
    pub fails_one_in: Option<u64>,
    /// Nothing answers.
    pub is_dead: AtomicBool,
    pub requests: AtomicU64,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Bucket>) -> Self {
        let (is_dead, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { inner, is_careless: false, fails_one_in: None, is_dead, requests }
    }

    fn answer(&self) -> Result<()> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        // Multiplied, so that faults do not fall on every n-th request of a fixed sequence.
        let is_unlucky = |one_in| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(one_in);
        match self.is_dead.load(Ordering::SeqCst) || self.fails_one_in.is_some_and(is_unlucky) {
            true => Err(Error::Remote { doing: "reach", place: "faulty".into(), reason: "no answer".into() }),
            false => Ok(()),
        }
    }
}

impl Bucket for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn round_ms(&self) -> RangeInclusive<u64> {
        5..=20
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.answer()?;
        self.inner.get(path)
    }

    /// Fails after half of the bytes.
    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool> {
        match (self.answer(), self.inner.get(path)?) {
            (Ok(()), _) => self.inner.get_into(path, output),
            (Err(error), bytes) => {
                let bytes = bytes.unwrap_or_default();
                output.write_all(&bytes[..bytes.len() / 2]).unwrap();
                Err(error)
            }
        }
    }

    fn put(&self, path: &str, bytes: &[u8], how: Put) -> Result<bool> {
        self.answer()?;
        self.inner.put(path, bytes, if self.is_careless { Put::Replace } else { how })
    }

    fn put_file(&self, path: &str, file: &mut File, bytes: u64) -> Result<()> {
        self.answer()?;
        self.inner.put_file(path, file, bytes)
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        self.answer()?;
        self.inner.size(path)
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        self.answer()?;
        self.inner.list(folder)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.answer()?;
        self.inner.remove(path)
    }
}

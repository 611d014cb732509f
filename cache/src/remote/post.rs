//! Replies on their way between this store and a shared one: what is new in our own log goes out, what is new there comes in.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::report::Moved;
use super::stretch::{Coverage, Stretch, open, seal};
use super::transfer::{Counter, each, into_inner, push_to};
use super::{Push, Put, Sharing, path_text};
use crate::error::{AtPath, Error, Result};
use crate::layout::Layout;
use crate::memo::{SEGMENT_HEADER, Shared, scan};
use crate::store::Store;
use crate::write::{persist, write_aside};

const HEADER_BYTES: u64 = SEGMENT_HEADER.len() as u64;

/// What one object holds at most, unless a single reply is larger: it is sent and fetched in one piece.
const STRETCH_BYTES: u64 = 16 << 20;

/// Nothing that we write comes near this; what does is not fetched into memory.
const LARGEST_OBJECT_BYTES: u64 = 1 << 30;

/// So many small objects of one log are worth replacing by few large ones.
const MANY_STRETCHES: usize = 4;

/// Others may add as fast as we fetch: then the rest has to wait for the next round.
const LOOKS: usize = 16;

/// The traffic of one process.
pub(crate) struct Post {
    sharing: Sharing,
    replies: Arc<Shared>,
    layout: Arc<Layout>,
    /// Nothing is kept of what comes in.
    is_looking: bool,
    /// Our own logs by name: what was sent of them, in order.
    sent: HashMap<String, Vec<Stretch>>,
    /// Names there that need not be looked at again.
    settled: HashSet<String>,
    /// Logs that are used in this process only.
    borrowed: Option<TempDir>,
    /// The last attempt to send failed.
    is_failing: bool,
}

impl Post {
    pub fn new(sharing: Sharing, replies: Arc<Shared>, layout: Arc<Layout>, is_looking: bool) -> Self {
        let (sent, settled) = (HashMap::new(), HashSet::new());
        Self { sharing, replies, layout, is_looking, sent, settled, borrowed: None, is_failing: false }
    }

    pub fn round_ms(&self) -> RangeInclusive<u64> {
        self.sharing.bucket().round_ms()
    }

    /// One round in both directions; whether there was anything to carry. Failures are noted: calls go on without the others'
    /// replies, and what could not be sent waits.
    pub fn round(&mut self) -> bool {
        let fetched = self.fetch();
        self.sharing.tally().replies_fetched(fetched.as_ref().err());
        let sent = self.send_or_note();
        fetched.unwrap_or(false) || sent
    }

    pub fn send_or_note(&mut self) -> bool {
        let sent = self.send();
        self.note(sent.as_ref().err());
        sent.unwrap_or(false)
    }

    /// Not tried again on a store that did not answer the last time: whoever ends a run must not wait for it twice.
    pub fn finish_or_note(&mut self) {
        if !self.is_failing {
            let finished = self.finish();
            self.note(finished.as_ref().err());
        }
    }

    fn note(&mut self, failure: Option<&Error>) {
        self.is_failing = failure.is_some();
        self.sharing.tally().replies_sent(failure);
    }

    /// Takes in what others have sent since; whether there was anything.
    pub fn fetch(&mut self) -> Result<bool> {
        let mut any = false;
        // What covered something else may prove useless, or be gone because its writer has just put objects together.
        for _ in 0..LOOKS {
            let wanted = self.wanted()?;
            if wanted.is_empty() {
                break;
            }
            self.fetch_all(&wanted)?;
            any = true;
        }
        Ok(any)
    }

    /// What is there and neither here nor useless; the largest of those that cover each other.
    fn wanted(&mut self) -> Result<Vec<Stretch>> {
        let listed = self.sharing.bucket().list(&path_text(&self.sharing.layout().replies()))?;
        let is_sound = |(name, bytes): (String, u64)| name.parse().ok().filter(|_| bytes <= LARGEST_OBJECT_BYTES);
        let mut new: Vec<Stretch> = listed.into_iter().filter_map(is_sound).collect();
        new.retain(|stretch| !self.settled.contains(&stretch.to_string()));
        if new.is_empty() {
            return Ok(new);
        }
        let (here, mut chosen) = (coverage_of(&self.layout.replies())?, Coverage::default());
        let (known, mut new): (Vec<_>, Vec<_>) = new.into_iter().partition(|stretch| here.covers(stretch));
        self.settled.extend(known.iter().map(Stretch::to_string));
        new.sort_by_key(|stretch| std::cmp::Reverse(stretch.bytes()));
        new.retain(|stretch| {
            let is_first = !chosen.covers(stretch);
            chosen.add(stretch);
            is_first
        });
        Ok(new)
    }

    fn fetch_all(&mut self, wanted: &[Stretch]) -> Result<()> {
        let borrowed = self.place_for_borrowed()?;
        let done = Mutex::new(Vec::new());
        let outcome = each(wanted, |stretch| {
            push_to(&done, (stretch.to_string(), self.fetch_one(stretch, borrowed.as_deref())?));
            Ok(())
        });
        for (name, borrowed) in into_inner(done) {
            self.settled.insert(name);
            borrowed.map_or(Ok(()), |path| self.replies.take_in(path))?;
        }
        self.replies.refresh()?;
        outcome
    }

    /// Keeps an object where the index will find it, if it is there and sound and its writer is trusted. What is to be used in
    /// this process only lies at the path returned.
    fn fetch_one(&self, stretch: &Stretch, borrowed: Option<&Path>) -> Result<Option<PathBuf>> {
        let path = object_path(&self.sharing, stretch);
        let Some(bytes) = self.sharing.bucket().get(&path)? else { return Ok(None) };
        let Ok((records, signer)) = open(stretch, &bytes) else {
            self.sharing.tally().damaged(&path);
            return Ok(None);
        };
        let options = self.sharing.options();
        let is_trusted = options.trust.standing(signer.as_ref()).is_trusted();
        if !is_trusted && !options.allow_unsigned {
            self.sharing.tally().refused(&path, signer);
            return Ok(None);
        }
        let replies = scan(records, stretch.from).entries.len() as u64;
        self.sharing.tally().fetched(Moved { replies, bytes: bytes.len() as u64, ..Moved::default() });
        match borrowed.filter(|_| self.is_looking || !is_trusted) {
            Some(folder) => borrow(folder, stretch, records).map(Some),
            None => self.keep(stretch, records).map(|()| None),
        }
    }

    fn keep(&self, stretch: &Stretch, records: &[u8]) -> Result<()> {
        let file = write_aside(&self.layout.temporary(), &[&SEGMENT_HEADER[..], records].concat())?;
        persist(file, &self.layout.reply_log(&stretch.to_string()))
    }

    fn place_for_borrowed(&mut self) -> Result<Option<PathBuf>> {
        if !self.is_looking && !self.sharing.options().allow_unsigned {
            return Ok(None);
        }
        let place = match self.borrowed.take() {
            Some(place) => place,
            // Not in the store: whoever looks leaves nothing there, even if killed.
            None => tempfile::tempdir().at("create", Path::new("(a temporary folder)"))?,
        };
        Ok(Some(self.borrowed.insert(place).path().to_owned()))
    }

    /// Sends what this process has added to its logs since; whether there was anything.
    fn send(&mut self) -> Result<bool> {
        if self.sharing.options().push != Push::Always || self.is_looking {
            return Ok(false);
        }
        let mut any = false;
        for path in self.replies.own_logs() {
            let log = log_name(&path);
            let from = self.sent.get(&log).and_then(|sent| sent.last()).map_or(HEADER_BYTES, |last| last.to);
            let tail = Tail::read(&path, &log, from)?;
            for stretch in tail.stretches(&Coverage::default()) {
                send_stretch(&self.sharing, &stretch, tail.records(&stretch))?;
                self.sent.entry(log.clone()).or_default().push(stretch);
                any = true;
            }
        }
        Ok(any)
    }

    /// Sends the rest, and puts what went in many small objects into few: whoever lists them later is grateful.
    fn finish(&mut self) -> Result<()> {
        self.send()?;
        for (log, sent) in std::mem::take(&mut self.sent) {
            if sent.len() >= MANY_STRETCHES {
                self.put_together(&log, &sent)?;
            }
        }
        Ok(())
    }

    fn put_together(&self, log: &str, sent: &[Stretch]) -> Result<()> {
        let tail = Tail::read(&self.layout.reply_log(log), log, HEADER_BYTES)?;
        let large = tail.stretches(&Coverage::default());
        let mut covered = Coverage::default();
        for stretch in &large {
            send_stretch(&self.sharing, stretch, tail.records(stretch))?;
            covered.add(stretch);
        }
        for small in sent.iter().filter(|small| covered.covers(small) && !large.contains(small)) {
            self.sharing.bucket().remove(&object_path(&self.sharing, small))?;
        }
        Ok(())
    }
}

impl Store {
    /// Sends all replies that are kept here and not there yet.
    pub(crate) fn push_replies(&self, sharing: &Sharing, counter: &Counter) -> Result<()> {
        let mut there = Coverage::default();
        for (name, _) in sharing.bucket().list(&path_text(&sharing.layout().replies()))? {
            name.parse().into_iter().for_each(|stretch| there.add(&stretch));
        }
        let logs = logs_of(&self.layout().replies())?;
        counter.expect(logs.len());
        each(&logs, |name| {
            let tail = Tail::of(&self.layout().reply_log(name), name, &there)?;
            let stretches = tail.stretches(&there);
            for stretch in &stretches {
                send_stretch(sharing, stretch, tail.records(stretch))?;
            }
            counter.done(stretches.iter().map(Stretch::bytes).sum());
            Ok(())
        })?;
        sharing.tally().replies_sent(None);
        Ok(())
    }

    /// Fetches all replies that are there and not here yet.
    pub(crate) fn pull_replies(&self) -> Result<()> {
        self.replies().map(drop)
    }
}

/// The end of one log, in memory.
struct Tail {
    log: String,
    /// Where in the log `bytes` begin.
    from: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn read(path: &Path, log: &str, from: u64) -> Result<Self> {
        Self::read_at(path, log, from, from)
    }

    /// What `path` holds from `offset` on is the log from `from` on.
    fn read_at(path: &Path, log: &str, from: u64, offset: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut file = File::open(path).at("read", path)?;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut bytes)).at("read", path)?;
        Ok(Self { log: log.to_owned(), from, bytes })
    }

    /// The log called `name` of a folder, or the stretch of another writer's log; not read if all of it is `there`.
    fn of(path: &Path, name: &str, there: &Coverage) -> Result<Self> {
        let size = fs::metadata(path).at("read", path)?.len();
        let stretch = name.parse().unwrap_or(Stretch { log: name.to_owned(), from: HEADER_BYTES, to: size });
        match there.covers(&stretch) {
            true => Ok(Self { log: stretch.log, from: stretch.from, bytes: Vec::new() }),
            false => Self::read_at(path, &stretch.log, stretch.from, HEADER_BYTES),
        }
    }

    /// Its whole records that are not covered, cut into objects. Damage between them is in none.
    fn stretches(&self, covered: &Coverage) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for entry in scan(&self.bytes, self.from).entries {
            let (from, to) = (entry.offset, entry.offset + u64::from(entry.bytes));
            let record = Stretch { log: self.log.clone(), from, to };
            if covered.covers(&record) {
                continue;
            }
            match stretches.last_mut().filter(|last| last.to == from && to - last.from <= STRETCH_BYTES) {
                Some(last) => last.to = to,
                None => stretches.push(record),
            }
        }
        stretches
    }

    fn records(&self, stretch: &Stretch) -> &[u8] {
        &self.bytes[(stretch.from - self.from) as usize..(stretch.to - self.from) as usize]
    }
}

fn borrow(folder: &Path, stretch: &Stretch, records: &[u8]) -> Result<PathBuf> {
    let path = folder.join(format!("{stretch}.log"));
    fs::write(&path, [&SEGMENT_HEADER[..], records].concat()).at("write", &path)?;
    Ok(path)
}

fn send_stretch(sharing: &Sharing, stretch: &Stretch, records: &[u8]) -> Result<()> {
    sharing.mark()?;
    let bytes = seal(stretch, records, &sharing.options().trust.signer()?);
    sharing.bucket().put(&object_path(sharing, stretch), &bytes, Put::Replace)?;
    let replies = scan(records, stretch.from).entries.len() as u64;
    sharing.tally().sent(Moved { replies, bytes: bytes.len() as u64, ..Moved::default() });
    Ok(())
}

fn object_path(sharing: &Sharing, stretch: &Stretch) -> String {
    format!("{}/{stretch}", path_text(&sharing.layout().replies()))
}

fn log_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names of all logs in a folder of replies.
fn logs_of(folder: &Path) -> Result<Vec<String>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name().to_string_lossy().into_owned();
        logs.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    Ok(logs)
}

/// Which parts of which logs lie in a folder of replies.
fn coverage_of(folder: &Path) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    for name in logs_of(folder)? {
        match name.parse() {
            Ok(stretch) => coverage.add(&stretch),
            Err(()) => coverage.add_whole(&name),
        }
    }
    Ok(coverage)
}

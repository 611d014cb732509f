//! Replies on their way between this store and a shared one: what is new in our own log goes out, what is new there comes in.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::report::Moved;
use super::stretch::{Coverage, Stretch, open};
use super::tail::{HEADER_BYTES, Tail, coverage_of, log_name, logs_of};
use super::transfer::{each, into_inner, push_to};
use super::{Push, Sharing};
use crate::error::{AtPath, Error, Result};
use crate::layout::Layout;
use crate::memo::{SEGMENT_HEADER, Shared, is_finished, scan};
use crate::trust::Standing;
use crate::write::{persist, write_aside};

/// So many objects of one log are worth replacing by few large ones, if they are small.
const MANY_STRETCHES: usize = 4;
const SMALL_BYTES: u64 = 1 << 20;

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
    /// What earlier processes left unsent is sent.
    has_looked_back: bool,
    /// The last attempt to send failed.
    is_failing: bool,
}

impl Post {
    pub fn new(sharing: Sharing, replies: Arc<Shared>, layout: Arc<Layout>, is_looking: bool) -> Self {
        let (sent, settled) = (HashMap::new(), HashSet::new());
        Self {
            sharing,
            replies,
            layout,
            is_looking,
            sent,
            settled,
            borrowed: None,
            has_looked_back: false,
            is_failing: false,
        }
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
        let mut new = self.sharing.stretches()?;
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
        let path = self.sharing.stretch_path(stretch);
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
        if !std::mem::replace(&mut self.has_looked_back, true)
            && let Err(error) = self.send_leftovers()
        {
            self.has_looked_back = false;
            return Err(error);
        }
        for path in self.replies.own_logs() {
            let log = log_name(&path);
            let from = self.sent.get(&log).and_then(|sent| sent.last()).map_or(HEADER_BYTES, |last| last.to);
            let tail = Tail::read(&path, &log, from)?;
            for stretch in tail.stretches(&Coverage::default()) {
                self.sharing.send_stretch(&stretch, tail.records(&stretch))?;
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
            let bytes: u64 = sent.iter().map(Stretch::bytes).sum();
            if sent.len() >= MANY_STRETCHES && bytes / (sent.len() as u64) < SMALL_BYTES {
                // If it fails there are small objects, or large ones beside them: untidy, and all there.
                let _ = self.put_together(&log, &sent);
            }
        }
        Ok(())
    }

    /// Sends the rest of earlier processes' logs that they began to send there and did not end: they were killed, or the store
    /// was out of reach. Logs that were never meant for this store stay here.
    fn send_leftovers(&self) -> Result<()> {
        let there = self.sharing.stretches()?;
        let mut covered = Coverage::default();
        there.iter().for_each(|stretch| covered.add(stretch));
        for log in logs_of(&self.layout.replies())?.iter().filter(|log| !self.replies.is_own_log(log)) {
            let of_log: Vec<_> = there.iter().filter(|stretch| stretch.log == *log).collect();
            if of_log.is_empty() {
                continue;
            }
            let path = self.layout.reply_log(log);
            let tail = Tail::of(&path, log, &covered)?;
            let lacking = tail.stretches(&covered);
            if !lacking.is_empty() && is_finished(&path) && self.is_ours(&of_log)? {
                for stretch in &lacking {
                    self.sharing.send_stretch(stretch, tail.records(stretch))?;
                }
            }
        }
        Ok(())
    }

    /// Whether we have signed one of them: a stranger's must not draw out our log.
    fn is_ours(&self, stretches: &[&Stretch]) -> Result<bool> {
        for stretch in stretches {
            let bytes = self.sharing.bucket().get(&self.sharing.stretch_path(stretch))?.unwrap_or_default();
            let signer = open(stretch, &bytes).ok().and_then(|(_, signer)| signer);
            if self.sharing.options().trust.standing(signer.as_ref()) == Standing::Own {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn put_together(&self, log: &str, sent: &[Stretch]) -> Result<()> {
        let tail = Tail::read(&self.layout.reply_log(log), log, HEADER_BYTES)?;
        let large = tail.stretches(&Coverage::default());
        let mut covered = Coverage::default();
        for stretch in &large {
            self.sharing.send_stretch(stretch, tail.records(stretch))?;
            covered.add(stretch);
        }
        for small in sent.iter().filter(|small| covered.covers(small) && !large.contains(small)) {
            self.sharing.bucket().remove(&self.sharing.stretch_path(small))?;
        }
        Ok(())
    }
}

fn borrow(folder: &Path, stretch: &Stretch, records: &[u8]) -> Result<PathBuf> {
    let path = folder.join(format!("{stretch}.log"));
    fs::write(&path, [&SEGMENT_HEADER[..], records].concat()).at("write", &path)?;
    Ok(path)
}

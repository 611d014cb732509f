//! Replies of single model calls, kept as they came: append-only logs, one a process, shared by all who open the folder.
//!
//! What holds: a reply is there for every later process as soon as [`Replies::put`] returns, whatever happens to this process; a
//! power cut costs at most the last [`GROUP_MS`] of replies. A torn or damaged record is a miss. Readers never change a log.

mod ahead;
pub(crate) mod check;
mod claim;
pub mod merge;
mod origins;
mod record;
mod segment;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ahead::Ahead;
pub(crate) use check::count;
use claim::Claims;
pub use claim::{Claim, Claimed};
pub use merge::Merged;
pub use origins::Origins;
use record::Entry;
pub(crate) use record::{SEGMENT_HEADER, scan};
use segment::Segment;
pub(crate) use segment::is_finished;
pub use writer::GROUP_MS;
use writer::{Writer, Written};

use crate::error::{AtPath, Result};
use crate::hash::ReplyAddress;
use crate::layout::Layout;
use crate::remote::{Courier, Post, Sharing};
use crate::survey::name_of;

/// A folder changed within this time before it was listed may have changed again without a new time stamp.
const LISTING_TICK: Duration = Duration::from_millis(50);

/// A handle on a folder of replies; clones share one index and one log.
#[derive(Clone)]
pub struct Replies(Arc<Shared>, Option<Arc<Courier>>);

pub(crate) struct Shared {
    folder: PathBuf,
    /// The folder held open: its time stamp is asked for at every call, and a path would be walked each time.
    listing: OnceLock<fs::File>,
    /// What the names of our own logs begin with: they are not read back.
    own: String,
    state: RwLock<State>,
    writer: Mutex<Writer>,
    ahead: Mutex<Ahead>,
    claims: Claims,
    /// Nothing is written: no folder, no merged log, no index, also not in place of a wrong one.
    looking: bool,
    damaged: AtomicU64,
    lost_bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    index: HashMap<ReplyAddress, Place, BuildHasherDefault<AddressHasher>>,
    segments: Vec<Arc<Segment>>,
    /// Segments of living writers, other than ours: number and where to read on.
    live: Vec<(u32, u64)>,
    /// Paths of `segments` and of our own logs.
    known: HashMap<PathBuf, u32>,
    /// The folder's time stamp when it was listed, if it can be relied on.
    listed: Option<SystemTime>,
}

#[derive(Clone, Copy, PartialEq)]
struct Place {
    segment: u32,
    bytes: u32,
    offset: u64,
}

/// What was found damaged since the folder was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Replies that were read and failed their checksum: misses.
    pub replies: u64,
    /// Bytes in logs that belong to no intact reply, such as the torn tail of a killed process.
    pub bytes: u64,
}

impl Replies {
    /// Opens the replies in `folder`; `claims` is where calls in flight are marked. Both are made if need be.
    pub fn open(folder: &Path, claims: &Path) -> Result<Self> {
        for path in [folder, claims] {
            fs::create_dir_all(path).at("create", path)?;
        }
        // What cannot be tidied is read as it is.
        let _ = merge::tidy(folder, claims);
        let shared = Shared::new(folder, claims, false);
        shared.refresh()?;
        Ok(Self(Arc::new(shared), None))
    }

    /// The replies in `folder`, if there are any, for someone who only looks: nothing is written, not even to make it faster.
    pub fn look(folder: &Path, claims: &Path) -> Result<Self> {
        let shared = Shared::new(folder, claims, true);
        if folder.is_dir() {
            shared.refresh()?;
        }
        Ok(Self(Arc::new(shared), None))
    }

    /// Opens the replies of `layout` with those of a shared store: all that is there now, and as long as this is open what others
    /// add; what is put here goes there. With `is_looking` nothing goes there, and nothing of what is there is kept.
    ///
    /// # Errors
    /// If the shared store does not answer now. Later it is missed, and [`Sharing::report`] tells.
    pub(crate) fn open_shared(layout: &Arc<Layout>, sharing: &Sharing, is_looking: bool) -> Result<Self> {
        let open = if is_looking { Self::look } else { Self::open };
        let Self(shared, _) = open(&layout.replies(), &layout.claims())?;
        let courier =
            Courier::start(Post::new(sharing.clone(), shared.clone(), layout.clone(), is_looking), is_looking)?;
        Ok(Self(shared, Some(Arc::new(courier))))
    }

    /// The reply as it was put; `None` if there is none or it is damaged.
    pub fn get(&self, address: &ReplyAddress) -> Option<Vec<u8>> {
        let (place, segment) = {
            let state = self.0.read();
            let place = *state.index.get(address)?;
            (place, state.segments[place.segment as usize].clone())
        };
        let entry = Entry { address: *address, offset: place.offset, bytes: place.bytes };
        let reply = self.0.read_reply(place.segment, &segment, &entry);
        if reply.is_some() || segment.exists() {
            if reply.is_none() {
                self.0.forget(address, place, &segment);
            }
            return reply;
        }
        // Its log was merged into another since.
        self.0.forget_vanished();
        self.refresh().ok()?;
        self.get(address)
    }

    /// Whether there is a reply, without reading it.
    pub fn contains(&self, address: &ReplyAddress) -> bool {
        self.0.read().index.contains_key(address)
    }

    pub fn len(&self) -> usize {
        self.0.read().index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps a reply. When this returns, no crash of this process can lose it. Replaces an earlier reply to the same request.
    pub fn put(&self, address: &ReplyAddress, reply: &[u8]) -> Result<()> {
        self.keep(self.hand_in(address, reply)?)
    }

    /// Takes a reply in, to be kept by [`Replies::keep`] together with all that are handed in before that is called: one write
    /// serves many. Nobody finds it until then. The number of the group in which it will be written.
    pub fn hand_in(&self, address: &ReplyAddress, reply: &[u8]) -> Result<u64> {
        self.0.writer().take(*address, reply, |written| self.0.note(written))
    }

    /// When this returns, no crash of this process can lose what was handed in under this number.
    pub fn keep(&self, group: u64) -> Result<()> {
        self.0.writer().write(group, |written| self.0.note(written))
    }

    /// Waits until everything put so far would survive a power cut, and is in the shared store unless that does not answer.
    pub fn flush(&self) -> Result<()> {
        self.0.writer().sync(|written| self.0.note(written))?;
        self.1.iter().for_each(|courier| courier.hurry());
        Ok(())
    }

    /// Takes in what other processes have put since. Cheap when there is nothing new.
    pub fn refresh(&self) -> Result<()> {
        self.0.refresh()
    }

    /// Asks to be the one that makes the call at `address`.
    ///
    /// Within a process, and between processes on a file system with locks, only one holds the claim at a time, and who gets it
    /// after another sees that one's reply; so each call is made once. Two addresses share a lock now and then: `Elsewhere`
    /// may then mean another call, and only costs waiting.
    pub fn claim(&self, address: &ReplyAddress) -> Result<Claim> {
        if let Some(reply) = self.get(address) {
            return Ok(Claim::Answered(reply));
        }
        let claimed = self.0.claims.take(address)?;
        // Who had it before us has put its reply; and who has it now may be making another call under the same lock.
        self.refresh()?;
        Ok(match (self.get(address), claimed) {
            (Some(reply), _) => Claim::Answered(reply),
            (None, Some(claimed)) => Claim::Ours(claimed),
            (None, None) => Claim::Elsewhere,
        })
    }

    pub fn damage(&self) -> Damage {
        Damage { replies: self.0.damaged.load(Ordering::Relaxed), bytes: self.0.lost_bytes.load(Ordering::Relaxed) }
    }
}

impl Shared {
    fn new(folder: &Path, claims: &Path, looking: bool) -> Self {
        let writer = Writer::new(folder);
        Self {
            folder: folder.to_owned(),
            listing: OnceLock::new(),
            own: writer.name().to_owned(),
            state: RwLock::default(),
            writer: Mutex::new(writer),
            ahead: Mutex::default(),
            claims: Claims::new(claims),
            looking,
            damaged: AtomicU64::new(0),
            lost_bytes: AtomicU64::new(0),
        }
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_reply(&self, number: u32, segment: &Segment, entry: &Entry) -> Option<Vec<u8>> {
        let ahead = self.ahead.try_lock().ok().and_then(|mut ahead| ahead.read(number, segment, entry));
        ahead.or_else(|| segment.read(entry))
    }

    /// From now on these replies are found.
    fn note(&self, Written { log, entries }: Written) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let segment = state.number_of(log);
        for Entry { address, offset, bytes } in entries {
            state.index.insert(*address, Place { segment, bytes: *bytes, offset: *offset });
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_own_log(&self, name: &str) -> bool {
        is_own(name, &self.own)
    }

    /// Logs that this process writes, or has written.
    pub(crate) fn own_logs(&self) -> Vec<PathBuf> {
        let is_own = |path: &&PathBuf| path.file_name().is_some_and(|name| self.is_own_log(&name.to_string_lossy()));
        let mut logs: Vec<_> = self.read().known.keys().filter(is_own).cloned().collect();
        logs.sort();
        logs
    }

    /// Reads a log that lies elsewhere, as long as this process lives.
    pub(crate) fn take_in(&self, path: PathBuf) -> Result<()> {
        let contents = Segment::new(path.clone()).load(!self.looking)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let number = state.add(path);
        state.insert(number, &contents.entries);
        Ok(())
    }

    pub(crate) fn refresh(&self) -> Result<()> {
        let changed = self.folder_changed()?;
        if changed.is_none() && self.read().live.is_empty() {
            return Ok(());
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut lost_bytes = state.read_live()?;
        if let Some(stamp) = changed {
            lost_bytes += state.load_new(&self.folder, &self.own, !self.looking)?;
            state.listed = stamp.elapsed().is_ok_and(|age| age > LISTING_TICK).then_some(stamp);
        }
        self.lost_bytes.fetch_add(lost_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The folder's time stamp if it is not the one it was listed at.
    fn folder_changed(&self) -> Result<Option<SystemTime>> {
        let listing = match self.listing.get() {
            Some(listing) => listing,
            None => {
                let opened = fs::File::open(&self.folder).at("list", &self.folder)?;
                self.listing.get_or_init(|| opened)
            }
        };
        let stamp = listing.metadata().and_then(|metadata| metadata.modified()).at("list", &self.folder)?;
        Ok((self.read().listed != Some(stamp)).then_some(stamp))
    }

    fn forget_vanished(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).forget_vanished(&self.own);
    }

    fn forget(&self, address: &ReplyAddress, place: Place, segment: &Segment) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.index.get(address) == Some(&place) {
            state.index.remove(address);
            if !self.looking {
                segment.drop_index();
            }
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl State {
    /// Drops all that lies in logs which are gone. The others are read again: what they answer too was passed over before.
    fn forget_vanished(&mut self, own: &str) {
        let gone: Vec<bool> = self.segments.iter().map(|segment| !segment.exists()).collect();
        self.index.retain(|_, place| !gone[place.segment as usize]);
        self.known.retain(|path, number| !gone[*number as usize] && is_own(name_of(path), own));
        self.live.clear();
        self.listed = None;
    }

    /// The number of one of our own logs.
    fn number_of(&mut self, path: &Path) -> u32 {
        if let Some(number) = self.known.get(path) {
            return *number;
        }
        self.add(path.to_owned())
    }

    fn add(&mut self, path: PathBuf) -> u32 {
        let number = self.segments.len() as u32;
        self.segments.push(Arc::new(Segment::new(path.clone())));
        self.known.insert(path, number);
        number
    }

    /// `may_index`: logs without an index get one.
    fn load_new(&mut self, folder: &Path, own: &str, may_index: bool) -> Result<u64> {
        let mut lost_bytes = 0;
        let unknown = |path: &PathBuf| !self.known.contains_key(path);
        let mut new: Vec<PathBuf> = logs_in(folder, Some(own))?.into_iter().filter(unknown).collect();
        new.reverse();
        while let Some(path) = new.pop() {
            let Some(contents) = Segment::new(path.clone()).load_unless_gone(may_index)? else {
                // Merged into another since the listing.
                lost_bytes += self.load_new(folder, own, may_index)?;
                break;
            };
            let number = self.add(path);
            self.live.extend(contents.live_from.map(|offset| (number, offset)));
            self.insert(number, &contents.entries);
            lost_bytes += contents.lost_bytes;
        }
        Ok(lost_bytes)
    }

    fn read_live(&mut self) -> Result<u64> {
        let mut live = std::mem::take(&mut self.live);
        let mut lost_bytes = 0;
        for (number, offset) in &mut live {
            let segment = self.segments[*number as usize].clone();
            if segment.size().is_some_and(|size| size > *offset) {
                let found = match segment.read_from(*offset) {
                    Err(_) if !segment.exists() => continue,
                    found => found?,
                };
                *offset = found.end;
                lost_bytes += found.damaged_bytes;
                self.insert(*number, &found.entries);
            }
        }
        self.live = live;
        Ok(lost_bytes)
    }

    /// An address that is known already keeps its answer, so that within one process an answer once given stays; within one
    /// segment the later record replaces the earlier.
    fn insert(&mut self, segment: u32, entries: &[Entry]) {
        self.index.reserve(entries.len());
        for entry in entries {
            let place = Place { segment, bytes: entry.bytes, offset: entry.offset };
            let kept = self.index.entry(entry.address).or_insert(place);
            if kept.segment == segment {
                *kept = place;
            }
        }
    }
}

/// Logs of all writers but `own`, newest first: of two replies to one request, everyone who opens the folder finds the one whose writer
/// began later.
fn logs_in(folder: &Path, own: Option<&str>) -> Result<Vec<PathBuf>> {
    // A listing made while logs are merged could miss the old ones and the new one: so it is not made meanwhile. Where folders cannot
    // be locked, nothing is merged.
    let merging = fs::File::open(folder).at("list", folder)?;
    let _ = merging.lock_shared();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name().into_string().unwrap_or_default();
        if name.ends_with(".log") && !own.is_some_and(|own| is_own(&name, own)) {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a log is one that the writer `own` appends to, or has. What another process has merged from it is not.
fn is_own(name: &str, own: &str) -> bool {
    name.starts_with(own) && !origins::is_merged(name.strip_suffix(".log").unwrap_or(name))
}

/// Addresses are hashes already: their first eight bytes will do.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The beginning of one, which has to fill all bits.
    fn write_u32(&mut self, first: u32) {
        self.0 = u64::from(first).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The length that an array's `Hash` announces before its bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

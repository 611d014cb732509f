//! Who makes a call: marks on addresses in flight, within the process and between processes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::hash::ReplyAddress;
use crate::lock::FileLock;

/// What a process may have open where the system does not say.
const USUAL_OPEN_FILES: usize = 1024;

/// The answer to a claim.
pub enum Claim {
    /// No need to call: here is the reply.
    Answered(Vec<u8>),
    /// Make the call, put the reply, then drop this.
    Ours(Claimed),
    /// Someone is making this call, here or in another process: do something else for a while and claim again.
    Elsewhere,
}

/// Marks in one folder of lock files. A lock covers all addresses that begin with the same three digits, so that there are at
/// most 4,096 files, each made once; in a process that holds one, further addresses under it only count.
pub struct Claims {
    folder: PathBuf,
    held: Arc<Mutex<Held>>,
    /// Each lock keeps a file open; calls beyond them wait until another is over.
    locks_max: usize,
}

#[derive(Default)]
struct Held {
    addresses: HashSet<ReplyAddress>,
    /// By the address's first three digits: the lock and how many addresses it serves.
    locks: HashMap<u16, (FileLock, usize)>,
}

/// An address that is ours until this is dropped.
pub struct Claimed {
    address: ReplyAddress,
    held: Arc<Mutex<Held>>,
}

impl Claims {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), held: Arc::default(), locks_max: locks_max() }
    }

    /// `None` if someone else holds the address, or another one under the same lock, or this process has as many locks as it may.
    pub fn take(&self, address: &ReplyAddress) -> Result<Option<Claimed>> {
        let mut held = lock(&self.held);
        if held.addresses.contains(address) {
            return Ok(None);
        }
        let shelf = shelf_of(address);
        let has_all = held.locks.len() >= self.locks_max;
        match held.locks.get_mut(&shelf) {
            Some((_, count)) => *count += 1,
            None if has_all => return Ok(None),
            None => match FileLock::try_acquire(&self.folder.join(format!("{shelf:03x}")))? {
                Some(file) => drop(held.locks.insert(shelf, (file, 1))),
                None => return Ok(None),
            },
        }
        held.addresses.insert(*address);
        Ok(Some(Claimed { address: *address, held: self.held.clone() }))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.addresses.remove(&self.address);
        let shelf = shelf_of(&self.address);
        let (_, count) = held.locks.get_mut(&shelf).expect("a claim holds its lock");
        *count -= 1;
        if *count == 0 {
            held.locks.remove(&shelf);
        }
    }
}

/// A quarter of the files that this process may have open: connections, logs and tables need the others.
fn locks_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft_limit = |line: &str| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok();
    limits.lines().find_map(soft_limit).unwrap_or(USUAL_OPEN_FILES).div_ceil(4)
}

fn shelf_of(address: &ReplyAddress) -> u16 {
    let [first, second, ..] = *address.as_bytes();
    u16::from_be_bytes([first, second]) >> 4
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

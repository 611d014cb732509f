//! Who makes a call: marks on addresses in flight, within the process and between processes.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::AddressHasher;
use crate::error::Result;
use crate::hash::ReplyAddress;
use crate::lock::ByteLocks;

/// The answer to a claim.
pub enum Claim {
    /// No need to call: here is the reply.
    Answered(Vec<u8>),
    /// Make the call, put the reply, then drop this.
    Ours(Claimed),
    /// Someone is making this call, here or in another process: do something else for a while and claim again.
    Elsewhere,
}

/// Marks in one file: an address is a byte of it, by its first eight digits. In a process that holds one, further addresses on
/// the same byte only count.
pub struct Claims {
    path: PathBuf,
    /// Opened with the first claim: a run that only reads leaves nothing behind.
    marks: Arc<OnceLock<ByteLocks>>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    addresses: HashSet<ReplyAddress, BuildHasherDefault<AddressHasher>>,
    /// How many addresses each byte serves.
    bytes: HashMap<u32, usize, BuildHasherDefault<AddressHasher>>,
}

/// An address that is ours until this is dropped.
pub struct Claimed {
    address: ReplyAddress,
    marks: Arc<OnceLock<ByteLocks>>,
    held: Arc<Mutex<Held>>,
}

impl Claims {
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("calls"), marks: Arc::default(), held: Arc::default() }
    }

    /// `None` if someone else holds the address, or another one on the same byte.
    pub fn take(&self, address: &ReplyAddress) -> Result<Option<Claimed>> {
        let mut held = lock(&self.held);
        if held.addresses.contains(address) {
            return Ok(None);
        }
        let byte = byte_of(address);
        if !held.bytes.contains_key(&byte) && !self.marks()?.try_lock(byte.into())? {
            return Ok(None);
        }
        *held.bytes.entry(byte).or_default() += 1;
        held.addresses.insert(*address);
        Ok(Some(Claimed { address: *address, marks: self.marks.clone(), held: self.held.clone() }))
    }

    fn marks(&self) -> Result<&ByteLocks> {
        if let Some(marks) = self.marks.get() {
            return Ok(marks);
        }
        let opened = ByteLocks::open(&self.path)?;
        Ok(self.marks.get_or_init(|| opened))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.addresses.remove(&self.address);
        let byte = byte_of(&self.address);
        let count = held.bytes.get_mut(&byte).expect("a claim holds its byte");
        *count -= 1;
        if *count == 0 {
            held.bytes.remove(&byte);
            self.marks.get().expect("it was locked").unlock(byte.into());
        }
    }
}

fn byte_of(address: &ReplyAddress) -> u32 {
    let first = address.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u32::from_be_bytes(*first)
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What `stat` says about a file, by git's rule: equal stamps of a file that has rested mean equal bytes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A file changed this shortly before it was read could change again within one tick of its file system's clock and look the
/// same: it is not remembered. 2 s is the coarsest tick in use (FAT).
pub const RACY_NS: i128 = 2_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    inode: u64,
    device: u64,
}

impl Stamp {
    /// Bytes of [`Stamp::to_bytes`].
    pub const BYTES: usize = 40;

    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            changed_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Whether the last change lies clearly before `now_ns`; a time in the future never does.
    pub fn rested(&self, now_ns: i128) -> bool {
        self.modified_ns.max(self.changed_ns) + RACY_NS < now_ns
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        // Nanoseconds fit into 64 bits until the year 2262, and what wraps then still differs.
        let times = [self.modified_ns, self.changed_ns].map(|ns| ns as u64);
        let numbers = [times[0], times[1], self.size, self.inode, self.device];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Nanoseconds since 1970; 0 on a clock before that.
pub fn now_ns() -> i128 {
    nanoseconds(SystemTime::now())
}

pub fn nanoseconds(time: SystemTime) -> i128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as i128)
}

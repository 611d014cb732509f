//! What a shared store must be able to do: few blocking requests on named bytes. Folders, object stores and tests implement it.

use std::fs::File;
use std::io::Write;
use std::ops::RangeInclusive;

use crate::error::Result;

/// What happens to bytes that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Replace,
    /// They stay. A wish only: some stores let several writers win, so whoever cares reads back.
    IfAbsent,
}

/// Bytes under relative paths with `/` in them. What is read is what one writer has written as a whole, if perhaps not the latest.
///
/// # Errors
/// Each method fails with [`crate::Error::Remote`] once asking again has not helped. What the output of
/// [`Bucket::get_into`] runs into must be kept by the output itself.
pub trait Bucket: Send + Sync {
    /// How people call it; never holds a secret.
    fn name(&self) -> &str;

    /// Whether it can be used at all, as far as that can be told without a request.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// How many milliseconds pass between two looks for others' replies: while there are some, and when there are none for long.
    fn round_ms(&self) -> RangeInclusive<u64>;

    /// Something small.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// Something that may be large; `false` if it is not there.
    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool>;

    /// Whether it was written; on `false` something else is there.
    fn put(&self, path: &str, bytes: &[u8], how: Put) -> Result<bool>;

    /// All of `file`, which is rewound and `bytes` long; replaces what is there.
    fn put_file(&self, path: &str, file: &mut File, bytes: u64) -> Result<()>;

    fn size(&self, path: &str) -> Result<Option<u64>>;

    /// Names directly in `folder`, with sizes, in no particular order; none if there is no such folder.
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>>;

    /// Fine if it is gone already.
    fn remove(&self, path: &str) -> Result<()>;
}

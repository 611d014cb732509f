//! What a caller is told when the store cannot answer: not an error, but worth a line to the user.

use std::fmt;

use crate::hash::{ActionKey, BlobHash};

/// The answer to a question to the store.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Found<T> {
    Intact(T),
    Missing,
    /// It was there, but not what it should be; it has been evicted and can be made again.
    Damaged(Notice),
}

impl<T> Found<T> {
    pub fn intact(self) -> Option<T> {
        match self {
            Self::Intact(value) => Some(value),
            Self::Missing | Self::Damaged(_) => None,
        }
    }

    pub fn notice(self) -> Option<Notice> {
        match self {
            Self::Damaged(notice) => Some(notice),
            Self::Intact(_) | Self::Missing => None,
        }
    }
}

/// Something in the store was damaged or had vanished, and has been evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Manifest {
        key: ActionKey,
        reason: &'static str,
    },
    /// `key` names the action that needed the blob, where known.
    Blob {
        blob: BlobHash,
        key: Option<ActionKey>,
    },
}

impl Notice {
    pub(crate) fn manifest(key: ActionKey, reason: &'static str) -> Self {
        Self::Manifest { key, reason }
    }

    pub(crate) fn blob(blob: BlobHash, key: Option<ActionKey>) -> Self {
        Self::Blob { blob, key }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest { key, reason } => {
                write!(f, "the stored record of `{key}` was dropped: {reason}; it will be made again")
            }
            Self::Blob { blob, .. } => {
                write!(f, "the stored file `{blob}` is missing or damaged and was dropped; it will be made again")
            }
        }
    }
}

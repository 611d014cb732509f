//! What decides how much memory operations take beside the views that they are given.

use crate::{Architecture, Precision};

/// The side of a [`crate::Device`] that a plan of memory has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Each thread keeps scratch of its own.
    Cpu { threads: usize },
    /// One workspace serves all operations.
    Accelerator {
        precision: Precision,
        architecture: Architecture,
        /// What the vendor's library of products keeps.
        library_bytes: usize,
    },
}

impl Profile {
    /// How many tasks run side by side.
    pub fn threads(self) -> usize {
        match self {
            Profile::Cpu { threads } => threads,
            Profile::Accelerator { .. } => 1,
        }
    }

    /// The same with products in another precision.
    pub fn in_precision(self, precision: Precision) -> Profile {
        match self {
            Profile::Cpu { .. } => self,
            Profile::Accelerator { architecture, library_bytes, .. } => {
                Profile::Accelerator { precision, architecture, library_bytes }
            }
        }
    }

    pub fn is_accelerator(self) -> bool {
        matches!(self, Profile::Accelerator { .. })
    }

    /// Bytes that an accelerator takes for all operations together; none on the CPU.
    pub fn library_bytes(self) -> usize {
        match self {
            Profile::Cpu { .. } => 0,
            Profile::Accelerator { library_bytes, .. } => library_bytes,
        }
    }

    /// What an operation takes of an accelerator's workspace, as its `cuda.rs` says; nothing on the CPU.
    pub(crate) fn workspace_bytes(self, of: impl FnOnce(Precision, Architecture) -> usize) -> usize {
        match self {
            Profile::Cpu { .. } => 0,
            Profile::Accelerator { precision, architecture, .. } => of(precision, architecture),
        }
    }
}

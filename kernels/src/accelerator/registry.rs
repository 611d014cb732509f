//! Every `.cu` file of this room: what `kernels.lock` is about.

use super::Source;

/// In the order of names; one line a file.
pub(crate) static SOURCES: &[&Source] = &[&crate::elementwise::cuda::SOURCE];

//! Scores of the whole vocabulary for a few rows: what sampling needs, and training avoids.

use crate::{Layout, Stream, View, ViewMut, Write, matmul};

/// out`[B, V]` = hidden`[B, d]` · weight`[V, d]`ᵀ. On the CPU bits equal those that [`crate::logprob`]
/// works with; on an accelerator the two agree within rounding.
pub fn forward(
    stream: &Stream,
    rows: usize,
    vocabulary: usize,
    width: usize,
    hidden: View<'_, f32>,
    weight: View<'_, f32>,
    out: ViewMut<'_, f32>,
) {
    matmul(stream, Layout::Nt, rows, vocabulary, width, hidden, weight, Write::Overwrite, out);
}

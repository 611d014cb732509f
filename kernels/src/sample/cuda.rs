//! Sampling on an accelerator: the log-sum of each row, the key from which on its filters keep tokens, the draw.

use super::Sampling;
use crate::accelerator::{Grid, Kernel, Source, arguments, narrow};
use crate::{Buffer, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("sample", include_str!("sample.cu"))
    .including(&[crate::accelerator::PHILOX, ("shares.cuh", include_str!("shares.cuh"))]);
static MEASURE: Kernel = Kernel::new(&SOURCE, "sample_measure");
static LIMIT: Kernel = Kernel::new(&SOURCE, "sample_limit");
static DRAW: Kernel = Kernel::new(&SOURCE, "sample_draw");

/// Threads that share a row.
const THREADS: u32 = 1024;
/// Tokens that add up to one partial sum, `PIECE` in the kernels.
const PIECE: usize = 1024;

pub(super) fn forward(
    stream: &Stream,
    vocabulary: usize,
    sampling: &Sampling,
    logits: View<'_, f32>,
    (seeds, counters): (View<'_, u64>, View<'_, u64>),
    mut tokens: ViewMut<'_, u32>,
    mut logp: ViewMut<'_, f32>,
) {
    let (rows, pieces) = (tokens.len(), vocabulary.div_ceil(PIECE));
    let grid = Grid::blocks(rows, THREADS).shared(pieces * size_of::<f64>());
    let greedy = sampling.temperature == 0.0;
    let (scale, size) = (if greedy { 1.0 } else { 1.0 / sampling.temperature }, narrow(vocabulary));
    let mut sums = stream.workspace::<f32>(rows);
    let outputs = (tokens.reborrow(), logp.reborrow());
    MEASURE.launch(stream, grid, arguments![logits, sums.view_mut(), outputs.0, outputs.1, size, scale, greedy]);
    if greedy {
        return;
    }
    let index_bits = usize::BITS - (vocabulary - 1).leading_zeros();
    let limits = limits(stream, sampling, logits, sums.view(), rows, scale, index_bits);
    let (limits, min_p) = (limits.as_ref().map(|limits| limits.view()), sampling.min_p);
    let arguments =
        arguments![logits, sums.view(), limits, seeds, counters, tokens, logp, size, scale, min_p, index_bits];
    DRAW.launch(stream, grid, arguments);
}

/// `[B]` the lowest keys that top-k and top-p keep, where they drop any.
fn limits(
    stream: &Stream,
    sampling: &Sampling,
    logits: View<'_, f32>,
    sums: View<'_, f32>,
    rows: usize,
    scale: f32,
    index_bits: u32,
) -> Option<Buffer<u64>> {
    let vocabulary = logits.len().checked_div(rows)?;
    let top_k = if sampling.top_k < vocabulary { sampling.top_k } else { 0 };
    if top_k == 0 && sampling.top_p >= 1.0 {
        return None;
    }
    let (mut shares, mut limits) = (stream.workspace::<f32>(logits.len()), stream.workspace(rows));
    let outputs = (shares.view_mut(), limits.view_mut());
    let sizes = (narrow(vocabulary), narrow(top_k));
    let arguments = arguments![logits, sums, outputs.0, outputs.1, sizes.0, scale, sizes.1, sampling.top_p, index_bits];
    LIMIT.launch(stream, Grid::blocks(rows, THREADS), arguments);
    Some(limits)
}

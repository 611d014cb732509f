//! RMSNorm of heads on an accelerator.

use crate::accelerator::{Grid, Pack, PackedKernel, Source, arguments, narrow};
use crate::reduce::cuda::StripSums;
use crate::{Heads, Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("head_norm", include_str!("head_norm.cu")).including(&[crate::accelerator::PACKS]);
static FORWARD: PackedKernel = PackedKernel::new(&SOURCE, "head_norm_forward_4", "head_norm_forward_1");
static BACKWARD: PackedKernel = PackedKernel::new(&SOURCE, "head_norm_backward_4", "head_norm_backward_1");

const THREADS: u32 = 256;
/// Heads that a block works on at once.
const WARPS: usize = 8;

/// Query heads, normed heads, all heads, and their width.
fn sizes(heads: Heads) -> [u32; 4] {
    let normed = heads.query + heads.key_value;
    [heads.query, normed, normed + heads.key_value, heads.width].map(narrow)
}

pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    epsilon: f32,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    out: ViewMut<'_, f32>,
    rstd: ViewMut<'_, f32>,
) {
    let rows = x.len() / heads.packed_width();
    let [query, normed, all, width] = sizes(heads);
    let pack = Pack::of(&[heads.width], &[x.address(), weight.address(), out.view().address()]);
    let grid = Grid::blocks((rows * all as usize).div_ceil(WARPS), THREADS);
    let arguments = arguments![x, weight, out, rstd, rows, query, normed, all, width, epsilon];
    FORWARD.of(pack).launch(stream, grid, arguments);
}

pub(super) fn backward(
    stream: &Stream,
    heads: Heads,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    rstd: View<'_, f32>,
    dqkv: ViewMut<'_, f32>,
    dweight: ViewMut<'_, f32>,
) {
    let rows = x.len() / heads.packed_width();
    let [query, normed, all, width] = sizes(heads);
    let mut sums = StripSums::new(stream, rows, dweight.len());
    let pack = Pack::of(&[heads.width], &[x.address(), weight.address(), dqkv.view().address()]);
    let grid = Grid::blocks(sums.strips, THREADS).shared(WARPS * dweight.len() * size_of::<f32>());
    let (strip_rows, partial) = (narrow(sums.strip_rows), sums.partial.view_mut());
    let arguments = arguments![x, weight, rstd, dqkv, partial, rows, query, normed, all, width, strip_rows];
    BACKWARD.of(pack).launch(stream, grid, arguments);
    sums.add_to(stream, dweight);
}

//! RMSNorm on an accelerator.

use super::Write;
use crate::accelerator::{Grid, Pack, PackedKernel, Source, arguments, narrow};
use crate::reduce::cuda::StripSums;
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("norm", include_str!("norm.cu")).including(&[crate::accelerator::PACKS]);
static FORWARD: PackedKernel = PackedKernel::new(&SOURCE, "norm_forward_warp_4", "norm_forward_warp_1");
static FORWARD_WIDE: PackedKernel = PackedKernel::new(&SOURCE, "norm_forward_block_4", "norm_forward_block_1");
static BACKWARD: PackedKernel = PackedKernel::new(&SOURCE, "norm_backward_warp_4", "norm_backward_warp_1");
static BACKWARD_WIDE: PackedKernel = PackedKernel::new(&SOURCE, "norm_backward_block_4", "norm_backward_block_1");

const THREADS: u32 = 256;
/// Wider rows are shared by all warps of a block.
const WARP_WIDTH_MAX: usize = 1024;

/// Rows that a block works on at once.
fn rows_at_once(width: usize) -> usize {
    if width <= WARP_WIDTH_MAX { THREADS as usize / 32 } else { 1 }
}

pub(super) fn forward(
    stream: &Stream,
    width: usize,
    epsilon: f32,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    out: ViewMut<'_, f32>,
    rstd: ViewMut<'_, f32>,
) {
    let (rows, at_once) = (rstd.len(), rows_at_once(width));
    let kernel = if at_once > 1 { &FORWARD } else { &FORWARD_WIDE };
    let pack = Pack::of(&[width], &[x.address(), weight.address(), out.view().address()]);
    let grid = Grid::blocks(rows.div_ceil(at_once), THREADS);
    kernel.of(pack).launch(stream, grid, arguments![x, weight, out, rstd, rows, narrow(width), epsilon]);
}

pub(super) fn backward(
    stream: &Stream,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    rstd: View<'_, f32>,
    dout: View<'_, f32>,
    write: Write,
    dx: ViewMut<'_, f32>,
    dweight: ViewMut<'_, f32>,
) {
    let (rows, width) = (rstd.len(), weight.len());
    let at_once = rows_at_once(width);
    let kernel = if at_once > 1 { &BACKWARD } else { &BACKWARD_WIDE };
    let mut sums = StripSums::new(stream, rows, width);
    let pack = Pack::of(&[width], &[x.address(), weight.address(), dout.address(), dx.view().address()]);
    let grid = Grid::blocks(sums.strips, THREADS).shared(at_once * width * size_of::<f32>());
    let (strip_rows, accumulate) = (narrow(sums.strip_rows), write == Write::Accumulate);
    let partial = sums.partial.view_mut();
    let arguments = arguments![x, weight, rstd, dout, dx, partial, rows, narrow(width), strip_rows, accumulate];
    kernel.of(pack).launch(stream, grid, arguments);
    sums.add_to(stream, dweight);
}

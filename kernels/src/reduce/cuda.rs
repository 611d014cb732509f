//! Sums on an accelerator: partial sums of chunks, added up by the host in their order; and the sums of strips of rows that
//! the weights' gradients are made of.

use crate::accelerator::{Grid, Kernel, Pack, PackedKernel, Source, arguments, narrow};
use crate::{Buffer, Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("reduce", include_str!("reduce.cu")).including(&[crate::accelerator::PACKS]);
static SUM: PackedKernel = PackedKernel::new(&SOURCE, "reduce_sum_4", "reduce_sum_1");
static SQUARES: PackedKernel = PackedKernel::new(&SOURCE, "reduce_squares_4", "reduce_squares_1");
static STRIPS: Kernel = Kernel::new(&SOURCE, "reduce_strips");

/// Numbers of a block, `CHUNK` in the kernel.
const CHUNK: usize = 32_768;
/// Strips that a column sum is cut into where there are rows enough: some more than a device runs blocks at once.
const STRIPS_WANTED: usize = 512;
/// Rows of a strip: fewer are not worth a block; of more, the f32 sum would lose digits.
const STRIP_ROWS: std::ops::RangeInclusive<usize> = 8..=64;

pub(super) fn sum(stream: &Stream, values: View<'_, f32>) -> f64 {
    chunks(stream, &SUM, values)
}

pub(super) fn sum_squares(stream: &Stream, values: View<'_, f32>) -> f64 {
    chunks(stream, &SQUARES, values)
}

fn chunks(stream: &Stream, kernel: &'static PackedKernel, values: View<'_, f32>) -> f64 {
    let (len, blocks) = (values.len(), values.len().div_ceil(CHUNK));
    let mut partial = stream.workspace::<f64>(blocks);
    let kernel = kernel.of(Pack::of(&[], &[values.address()]));
    kernel.launch(stream, Grid::blocks(blocks, 256), arguments![values, partial.view_mut(), len]);
    stream.download(partial.view()).iter().sum()
}

/// A sum over rows of vectors of `width`: each block of a kernel leaves the f32 sum of one strip of rows.
pub(crate) struct StripSums {
    pub strip_rows: usize,
    pub strips: usize,
    pub width: usize,
    /// `[strips, width]`
    pub partial: Buffer<f32>,
}

/// Rows of a strip, and strips.
fn strips(rows: usize) -> (usize, usize) {
    let strip_rows = rows.div_ceil(STRIPS_WANTED).clamp(*STRIP_ROWS.start(), *STRIP_ROWS.end());
    (strip_rows, rows.div_ceil(strip_rows))
}

/// Bytes of the workspace of [`StripSums`].
pub(super) fn strips_bytes(rows: usize, width: usize) -> usize {
    size_of::<f32>() * strips(rows).1 * width
}

impl StripSums {
    /// How rows are cut depends on their number alone.
    pub(crate) fn new(stream: &Stream, rows: usize, width: usize) -> StripSums {
        let (strip_rows, strips) = strips(rows);
        StripSums { strip_rows, strips, width, partial: stream.workspace(strips * width) }
    }

    /// target`[width]` += Σ over strips, in f64.
    pub(crate) fn add_to(&self, stream: &Stream, target: ViewMut<'_, f32>) {
        let blocks = if self.strips > 0 { self.width.div_ceil(32) } else { 0 };
        let arguments = arguments![self.partial.view(), target, self.strips, narrow(self.width)];
        STRIPS.launch(stream, Grid::blocks(blocks, 512), arguments);
    }
}

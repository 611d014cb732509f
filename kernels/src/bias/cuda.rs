//! Row sums and broadcasts on an accelerator.

use crate::accelerator::{Pack, PackedKernel, Source, arguments, narrow};
use crate::reduce::cuda::StripSums;
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("bias", include_str!("bias.cu")).including(&[crate::accelerator::PACKS]);
static ADD: PackedKernel = PackedKernel::new(&SOURCE, "bias_add_4", "bias_add_1");
static SUM: PackedKernel = PackedKernel::new(&SOURCE, "bias_sum_4", "bias_sum_1");

pub(super) fn add(stream: &Stream, rows: usize, bias: View<'_, f32>, target: ViewMut<'_, f32>) {
    let width = bias.len();
    let pack = Pack::of(&[width], &[bias.address(), target.view().address()]);
    ADD.of(pack).launch(stream, pack.over_rows(rows, width), arguments![bias, target, narrow(width)]);
}

pub(super) fn backward(stream: &Stream, rows: usize, dout: View<'_, f32>, dbias: ViewMut<'_, f32>) {
    let width = dbias.len();
    let mut sums = StripSums::new(stream, rows, width);
    let pack = Pack::of(&[width], &[dout.address()]);
    let grid = pack.over_rows(sums.strips, width);
    let arguments = arguments![dout, sums.partial.view_mut(), rows, narrow(width), narrow(sums.strip_rows)];
    SUM.of(pack).launch(stream, grid, arguments);
    sums.add_to(stream, dbias);
}

//! SwiGLU on an accelerator.

use crate::accelerator::{Pack, PackedKernel, Source, arguments, narrow};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("swiglu", include_str!("swiglu.cu")).including(&[crate::accelerator::PACKS]);
static FORWARD: PackedKernel = PackedKernel::new(&SOURCE, "swiglu_forward_4", "swiglu_forward_1");
static BACKWARD: PackedKernel = PackedKernel::new(&SOURCE, "swiglu_backward_4", "swiglu_backward_1");

pub(super) fn forward(stream: &Stream, rows: usize, width: usize, gate_up: View<'_, f32>, out: ViewMut<'_, f32>) {
    let pack = Pack::of(&[width], &[gate_up.address(), out.view().address()]);
    FORWARD.of(pack).launch(stream, pack.over_rows(rows, width), arguments![gate_up, out, narrow(width)]);
}

pub(super) fn backward(
    stream: &Stream,
    rows: usize,
    width: usize,
    gate_up: View<'_, f32>,
    dout: View<'_, f32>,
    dgate_up: ViewMut<'_, f32>,
) {
    let pack = Pack::of(&[width], &[gate_up.address(), dout.address(), dgate_up.view().address()]);
    let arguments = arguments![gate_up, dout, dgate_up, narrow(width)];
    BACKWARD.of(pack).launch(stream, pack.over_rows(rows, width), arguments);
}

//! Adds one row to every row, and sums rows for its gradient.

mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut};

/// target`[T, n]` += bias`[n]` in every row.
pub fn add(stream: &Stream, rows: usize, width: usize, bias: View<'_, f32>, target: ViewMut<'_, f32>) {
    assert_eq!(bias.len(), width, "bias: not {width} values");
    assert_eq!(target.len(), rows * width, "bias: target is not {rows} × {width}");
    if stream.is_accelerated() {
        return cuda::add(stream, rows, bias, target);
    }
    cpu::add(stream, bias.host(), target.host());
}

/// dbias`[n]` += the column sums of dout`[T, n]`.
pub fn backward(stream: &Stream, rows: usize, width: usize, dout: View<'_, f32>, dbias: ViewMut<'_, f32>) {
    assert_eq!(dbias.len(), width, "bias: gradient is not {width} values");
    assert_eq!(dout.len(), rows * width, "bias: dout is not {rows} × {width}");
    if stream.is_accelerated() {
        return cuda::backward(stream, rows, dout, dbias);
    }
    cpu::backward(stream, dout.host(), dbias.host());
}

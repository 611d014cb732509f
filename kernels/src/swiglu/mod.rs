//! SwiGLU: silu(gate) ∘ up. Shazeer, "GLU variants improve transformer", 2020.

mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut};

/// out`[T, F]` = silu(gate) ∘ up from rows gate`[F]` | up`[F]` of gate_up`[T, 2F]`.
pub fn forward(stream: &Stream, rows: usize, width: usize, gate_up: View<'_, f32>, out: ViewMut<'_, f32>) {
    assert_eq!(gate_up.len(), 2 * rows * width, "swiglu: input is not {rows} × 2·{width}");
    assert_eq!(out.len(), rows * width, "swiglu: output is not {rows} × {width}");
    if stream.is_accelerated() {
        return cuda::forward(stream, rows, width, gate_up, out);
    }
    cpu::forward(stream, width, gate_up.host(), out.host());
}

/// dgate_up`[T, 2F]` from dout`[T, F]` and forward's input.
pub fn backward(
    stream: &Stream,
    rows: usize,
    width: usize,
    gate_up: View<'_, f32>,
    dout: View<'_, f32>,
    dgate_up: ViewMut<'_, f32>,
) {
    assert_eq!((gate_up.len(), dgate_up.len()), (2 * rows * width, 2 * rows * width), "swiglu: not {rows} × 2·{width}");
    assert_eq!(dout.len(), rows * width, "swiglu: dout is not {rows} × {width}");
    if stream.is_accelerated() {
        return cuda::backward(stream, rows, width, gate_up, dout, dgate_up);
    }
    cpu::backward(stream, width, gate_up.host(), dout.host(), dgate_up.host());
}

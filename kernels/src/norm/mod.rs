//! RMSNorm: y = w ∘ x / √(mean(x²) + ε), row by row.
//!
//! Zhang and Sennrich, "Root mean square layer normalization", 2019.

mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut, Write};

/// out`[T, d]` and rstd`[T]` = 1 / √(mean(x²) + ε), which backward wants, from x`[T, d]` and weight`[d]`.
pub fn forward(
    stream: &Stream,
    rows: usize,
    width: usize,
    epsilon: f32,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    out: ViewMut<'_, f32>,
    rstd: ViewMut<'_, f32>,
) {
    assert_eq!(x.len(), rows * width, "norm: x is not {rows} × {width}");
    assert_eq!(weight.len(), width, "norm: weight is not {width}");
    assert_eq!((out.len(), rstd.len()), (x.len(), rows), "norm: outputs do not fit {rows} × {width}");
    if stream.is_accelerated() {
        return cuda::forward(stream, width, epsilon, x, weight, out, rstd);
    }
    cpu::forward(stream, width, epsilon, x.host(), weight.host(), out.host(), rstd.host());
}

/// dx`[T, d]` (= | +=) and dweight`[d]` += from dout`[T, d]` and what forward saw and saved.
///
/// With x̂ = x·rstd: dx = rstd·(w∘dout − x̂·mean(w∘dout∘x̂)), dweight = Σ dout∘x̂.
pub fn backward(
    stream: &Stream,
    rows: usize,
    width: usize,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    rstd: View<'_, f32>,
    dout: View<'_, f32>,
    write: Write,
    dx: ViewMut<'_, f32>,
    dweight: ViewMut<'_, f32>,
) {
    assert_eq!(x.len(), rows * width, "norm: x is not {rows} × {width}");
    assert_eq!((weight.len(), dweight.len()), (width, width), "norm: weight is not {width}");
    assert_eq!((dout.len(), dx.len(), rstd.len()), (x.len(), x.len(), rows), "norm: gradients do not fit");
    if stream.is_accelerated() {
        return cuda::backward(stream, x, weight, rstd, dout, write, dx, dweight);
    }
    let saved = cpu::Saved { x: x.host(), weight: weight.host(), rstd: rstd.host() };
    cpu::backward(stream, saved, dout.host(), write, dx.host(), dweight.host());
}

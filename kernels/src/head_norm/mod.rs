//! RMSNorm of every query and key head by itself, before they are turned: y = w ∘ x / √(mean(x²) + ε) over a head's D channels.
//!
//! Henry et al., "Query-key normalization for transformers", 2020, in the form of Qwen3: one weight for all query heads, one
//! for all key heads.

mod cpu;
pub(crate) mod cuda;

use crate::{Heads, Stream, View, ViewMut};

/// out`[T, (H+2K)·D]` and rstd`[T, H+K]`, which backward wants, from x`[T, (H+2K)·D]` and weight`[2, D]`: the queries' row,
/// then the keys'. Values pass as they are.
pub fn forward(
    stream: &Stream,
    heads: Heads,
    epsilon: f32,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    out: ViewMut<'_, f32>,
    rstd: ViewMut<'_, f32>,
) {
    check(heads, x.len(), weight.len(), rstd.len());
    assert_eq!(out.len(), x.len(), "head norm: out is not as long as x");
    if stream.is_accelerated() {
        return cuda::forward(stream, heads, epsilon, x, weight, out, rstd);
    }
    cpu::forward(stream, heads, epsilon, x.host(), weight.host(), out.host(), rstd.host());
}

/// Turns dqkv`[T, (H+2K)·D]`, the gradient of what forward wrote, into that of what it saw, in place; dweight`[2, D]` +=.
///
/// As in [`crate::norm::backward`], head by head.
pub fn backward(
    stream: &Stream,
    heads: Heads,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    rstd: View<'_, f32>,
    dqkv: ViewMut<'_, f32>,
    dweight: ViewMut<'_, f32>,
) {
    check(heads, x.len(), weight.len(), rstd.len());
    assert_eq!((dqkv.len(), dweight.len()), (x.len(), weight.len()), "head norm: gradients do not fit");
    if stream.is_accelerated() {
        return cuda::backward(stream, heads, x, weight, rstd, dqkv, dweight);
    }
    let saved = cpu::Saved { x: x.host(), weight: weight.host(), rstd: rstd.host() };
    cpu::backward(stream, heads, saved, dqkv.host(), dweight.host());
}

fn check(heads: Heads, x: usize, weight: usize, rstd: usize) {
    assert_eq!(weight, 2 * heads.width, "head norm: weight is not two rows for {heads:?}");
    assert_eq!(
        x * (heads.query + heads.key_value),
        rstd * heads.packed_width(),
        "head norm: rows do not fit {heads:?}"
    );
}

//! Attention from and to rows stored in bf16; sums are f32.
//!
//! The training nodes store f32 and use the contracts of [`super`]; these read half the bytes and need no packing. Heads
//! are a multiple of 8 wide, and 128 at most. On the CPU, rows are widened, which is what the accelerators' are held against.

use half::bf16;

use super::{cpu, half_cuda};
use crate::{Heads, Segments, Stream, View, ViewMut};

/// As [`super::forward`], with qkv`[T, (H+2K)·D]` and out`[T, H·D]` in bf16.
pub fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, bf16>,
    out: ViewMut<'_, bf16>,
    lse: ViewMut<'_, f32>,
) {
    check(heads, segments, (qkv.len(), out.len(), lse.len()));
    if stream.is_accelerated() {
        return half_cuda::forward(stream, heads, segments, qkv, out, lse);
    }
    let mut wide = vec![0.0; out.len()];
    cpu::forward(stream, heads, segments, &widened(qkv), &mut wide, lse.host());
    round(&wide, out);
}

/// As [`super::backward`], with qkv and dqkv`[T, (H+2K)·D]`, out and dout`[T, H·D]` in bf16.
pub fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, bf16>,
    out: View<'_, bf16>,
    lse: View<'_, f32>,
    dout: View<'_, bf16>,
    dqkv: ViewMut<'_, bf16>,
) {
    check(heads, segments, (qkv.len(), out.len(), lse.len()));
    check(heads, segments, (dqkv.len(), dout.len(), lse.len()));
    if stream.is_accelerated() {
        return half_cuda::backward(stream, heads, segments, (qkv, out, lse, dout), dqkv);
    }
    let (qkv, out, mut wide) = (widened(qkv), widened(out), vec![0.0; dqkv.len()]);
    let saved = cpu::Saved { qkv: &qkv, out: &out, lse: lse.host() };
    cpu::backward(stream, heads, segments, saved, &widened(dout), &mut wide);
    round(&wide, dqkv);
}

fn check(heads: Heads, segments: &Segments, (qkv, out, lse): (usize, usize, usize)) {
    let tokens = segments.tokens();
    assert!(heads.width.is_multiple_of(8) && half_cuda::fits(heads), "attention: no bf16 tile for {heads:?}");
    assert_eq!(qkv, tokens * heads.packed_width(), "attention: qkv does not fit {tokens} rows of {heads:?}");
    assert_eq!(out, tokens * heads.query_width(), "attention: out does not fit {tokens} rows of {heads:?}");
    assert_eq!(lse, tokens * heads.query, "attention: lse does not fit {tokens} rows of {heads:?}");
}

fn widened(values: View<'_, bf16>) -> Vec<f32> {
    values.host().iter().map(|value| value.to_f32()).collect()
}

fn round(wide: &[f32], target: ViewMut<'_, bf16>) {
    target.host().iter_mut().zip(wide).for_each(|(target, &value)| *target = bf16::from_f32(value));
}

//! Rotary position embedding: pairs (i, i + D/2) of a head turn by position · θ^(-2i/D), as Hugging Face pairs them.
//!
//! Su et al., "RoFormer: Enhanced transformer with rotary position embedding", 2021.

mod cpu;
pub(crate) mod cuda;

use crate::{Buffer, Heads, Stream, View, ViewMut};

/// `[D/2]` turns of each pair a position, θ^(-2i/D), in radians.
pub fn frequencies(width: usize, theta: f64) -> Vec<f64> {
    assert!(width.is_multiple_of(2), "rope: head width {width} is odd");
    (0..width / 2).map(|pair| theta.powf(-2.0 * pair as f64 / width as f64)).collect()
}

/// `[positions, D]`: each row holds D/2 cosines, then D/2 sines of position · frequency, computed in f64.
pub fn tables(stream: &Stream, positions: usize, frequencies: &[f64]) -> Buffer<f32> {
    let mut values = Vec::with_capacity(2 * positions * frequencies.len());
    for position in 0..positions {
        let angles = || frequencies.iter().map(|frequency| position as f64 * frequency);
        values.extend(angles().map(|angle| angle.cos() as f32));
        values.extend(angles().map(|angle| angle.sin() as f32));
    }
    stream.upload(&values)
}

/// Turns the first H + K heads of each packed row qkv`[T, (H+2K)·D]` in place. A position past the tables panics.
pub fn forward(stream: &Stream, heads: Heads, positions: View<'_, u32>, tables: View<'_, f32>, qkv: ViewMut<'_, f32>) {
    assert_eq!(qkv.len(), positions.len() * heads.packed_width(), "rope: rows do not fit {heads:?}");
    if stream.is_accelerated() {
        return cuda::rotate(stream, heads, positions, tables, 1.0, qkv);
    }
    cpu::rotate(stream, heads, positions.host(), tables.host(), 1.0, qkv.host());
}

/// Turns gradients back, in place: the transpose of forward.
pub fn backward(
    stream: &Stream,
    heads: Heads,
    positions: View<'_, u32>,
    tables: View<'_, f32>,
    dqkv: ViewMut<'_, f32>,
) {
    assert_eq!(dqkv.len(), positions.len() * heads.packed_width(), "rope: rows do not fit {heads:?}");
    if stream.is_accelerated() {
        return cuda::rotate(stream, heads, positions, tables, -1.0, dqkv);
    }
    cpu::rotate(stream, heads, positions.host(), tables.host(), -1.0, dqkv.host());
}

//! Causal grouped-query attention over packed documents, and one step of it against a cache.
//!
//! Scores are scaled by 1/√D and live only as one tile of rows at a time (Dao et al., "FlashAttention", 2022, which
//! also is why backward needs no more than the log-sum-exp of each row).

mod cache;
mod cpu;
pub(crate) mod cuda;
pub mod half;
pub(crate) mod half_cuda;
pub(crate) mod hopper_cuda;
mod paged;
pub(crate) mod paged_cuda;

pub use cache::{Cache, append, decode};

use crate::{Heads, Profile, Segments, Stream, View, ViewMut};

/// Bytes of an accelerator's workspace that [`forward`] takes for so many tokens, or [`backward`].
pub fn workspace_bytes(profile: Profile, heads: Heads, tokens: usize, is_backward: bool) -> usize {
    profile.workspace_bytes(|precision, architecture| {
        cuda::workspace_bytes((precision, architecture), heads, tokens, is_backward)
    })
}

/// Bytes of an accelerator's workspace that [`decode`] takes for so many sequences with room for so many rows each.
pub fn decode_workspace_bytes(profile: Profile, heads: Heads, sequences: usize, rows: usize) -> usize {
    profile.workspace_bytes(|_, _| paged_cuda::workspace_bytes(heads, sequences, rows))
}

/// out`[T, H·D]` and lse`[T, H]` (log Σ exp of scaled scores) from packed rows qkv`[T, (H+2K)·D]`.
/// A row attends to the rows of its own document up to itself.
///
/// An accelerator whose products take bf16 rounds queries, keys, values and shares to bf16 where heads are at most 128
/// wide, and dout and the scores' gradients in [`backward`]; the CPU, and an accelerator with wider heads, stay in f32.
pub fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, f32>,
    out: ViewMut<'_, f32>,
    lse: ViewMut<'_, f32>,
) {
    let tokens = segments.tokens();
    assert_eq!(qkv.len(), tokens * heads.packed_width(), "attention: qkv does not fit {tokens} rows of {heads:?}");
    assert_eq!(out.len(), tokens * heads.query_width(), "attention: out does not fit {tokens} rows of {heads:?}");
    assert_eq!(lse.len(), tokens * heads.query, "attention: lse does not fit {tokens} rows of {heads:?}");
    if stream.is_accelerated() {
        return cuda::forward(stream, heads, segments, qkv, out, lse);
    }
    cpu::forward(stream, heads, segments, qkv.host(), out.host(), lse.host());
}

/// dqkv`[T, (H+2K)·D]` from dout`[T, H·D]` and what forward saw and wrote.
pub fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, f32>,
    out: View<'_, f32>,
    lse: View<'_, f32>,
    dout: View<'_, f32>,
    dqkv: ViewMut<'_, f32>,
) {
    let tokens = segments.tokens();
    let (packed, width) = (tokens * heads.packed_width(), tokens * heads.query_width());
    assert_eq!((qkv.len(), dqkv.len()), (packed, packed), "attention: qkv does not fit {tokens} rows of {heads:?}");
    assert_eq!((out.len(), dout.len()), (width, width), "attention: out does not fit {tokens} rows of {heads:?}");
    assert_eq!(lse.len(), tokens * heads.query, "attention: lse does not fit {tokens} rows of {heads:?}");
    if stream.is_accelerated() {
        return cuda::backward(stream, heads, segments, (qkv, out, lse, dout), dqkv);
    }
    let saved = cpu::Saved { qkv: qkv.host(), out: out.host(), lse: lse.host() };
    cpu::backward(stream, heads, segments, saved, dout.host(), dqkv.host());
}

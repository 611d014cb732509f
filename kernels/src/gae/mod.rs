//! Generalised advantage estimation over ragged rows.
//!
//! Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2016, equation 16.

mod cpu;
pub(crate) mod cuda;

use crate::{Segments, Stream, View, ViewMut};

/// Discounts of rewards (γ) and of the estimator's look-ahead (λ).
#[derive(Clone, Copy, Debug)]
pub struct Discounts {
    pub gamma: f32,
    pub lambda: f32,
}

/// advantages`[T]` and returns`[T]` = advantages + values, from rewards`[T]` and values`[T]`, segment by segment:
/// δ(t) = r(t) + γ·V(t+1) − V(t), A(t) = δ(t) + γλ·A(t+1); past the end of a segment V and A are 0.
pub fn forward(
    stream: &Stream,
    discounts: Discounts,
    segments: &Segments,
    rewards: View<'_, f32>,
    values: View<'_, f32>,
    advantages: ViewMut<'_, f32>,
    returns: ViewMut<'_, f32>,
) {
    let tokens = segments.tokens();
    assert_eq!((rewards.len(), values.len()), (tokens, tokens), "gae: inputs are not {tokens} long");
    assert_eq!((advantages.len(), returns.len()), (tokens, tokens), "gae: outputs are not {tokens} long");
    if stream.is_accelerated() {
        return cuda::forward(stream, discounts, segments, rewards, values, advantages, returns);
    }
    cpu::forward(stream, discounts, segments, rewards.host(), values.host(), advantages.host(), returns.host());
}

//! The loss of direct preference optimisation over pairs of answers, with its gradient.
//!
//! Rafailov et al., "Direct preference optimization", 2023, equation 7; labels smoothed as in Mitchell, "A note on DPO with
//! noisy preferences", 2023.

mod cpu;
pub(crate) mod cuda;

use crate::{Segments, Stream, View, ViewMut};

/// β, the strength of the hold on the reference, and the share ε of pairs that are thought to be the wrong way round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    pub beta: f32,
    /// Below ½.
    pub smoothing: f32,
}

/// Sums over pairs; divide by their number for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DpoLoss {
    /// Σ −(1 − ε) log σ(h) − ε log σ(−h), h the margin.
    pub loss: f64,
    /// Σ β (log π − log π_ref) of the chosen answers: their implicit reward.
    pub chosen: f64,
    /// The same of the rejected ones.
    pub rejected: f64,
    /// How many pairs have a positive margin.
    pub right: f64,
}

/// dlogp`[N]` = weight · ∂loss/∂logp. Segments are answers, each chosen one followed by its rejected one; logp`[N]` belongs to
/// their tokens, as does reference`[N]`, log π_ref.
pub fn loss(
    stream: &Stream,
    preference: Preference,
    answers: &Segments,
    logp: View<'_, f32>,
    reference: View<'_, f32>,
    weight: f32,
    dlogp: ViewMut<'_, f32>,
) -> DpoLoss {
    assert!(answers.len().is_multiple_of(2), "dpo: {} answers make no pairs", answers.len());
    assert_eq!((logp.len(), dlogp.len()), (answers.tokens(), answers.tokens()), "dpo: tokens do not fit the answers");
    assert_eq!(reference.len(), answers.tokens(), "dpo: a reference for each token");
    if stream.is_accelerated() {
        return cuda::loss(stream, preference, answers, [logp, reference], weight, dlogp);
    }
    cpu::loss(stream, preference, answers, (logp.host(), reference.host()), weight, dlogp.host())
}

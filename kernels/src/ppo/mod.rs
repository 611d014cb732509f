//! Elementwise losses of proximal policy optimisation, with their gradients.
//!
//! Schulman et al., "Proximal policy optimization algorithms", 2017, equation 7; the value clip is that of its code.

mod cpu;

use crate::{Stream, View, ViewMut};

/// Weighted sums over the tokens of a minibatch; divide by `weight` for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicyLoss {
    /// Σ w · max(−A·r, −A·clip(r, 1−ε, 1+ε)).
    pub loss: f64,
    /// Σ w where r lies outside the clip range.
    pub clipped: f64,
    /// Σ w · (r − 1 − log r): Schulman's low-variance estimate of KL(old ‖ new).
    pub kl: f64,
    /// Σ w.
    pub weight: f64,
    /// The largest ratio of a token that counts; exactly 1 before the first step, 0 where none counts.
    pub ratio_max: f64,
}

/// dlogp`[N]` = ∂loss/∂logp of the clipped objective with r = exp(logp − old_logp); all inputs `[N]`.
/// A weight of 0 takes a token out; weights of 1/N give the mean loss's gradient.
pub fn policy_loss(
    stream: &Stream,
    clip: f32,
    logp: View<'_, f32>,
    old_logp: View<'_, f32>,
    advantages: View<'_, f32>,
    weights: View<'_, f32>,
    dlogp: ViewMut<'_, f32>,
) -> PolicyLoss {
    let len = logp.len();
    assert_eq!((old_logp.len(), advantages.len()), (len, len), "ppo: inputs are not {len}");
    assert_eq!((weights.len(), dlogp.len()), (len, len), "ppo: weights or gradient are not {len}");
    let inputs = (logp.host(), old_logp.host(), advantages.host(), weights.host());
    cpu::policy_loss(stream, clip, inputs, dlogp.host())
}

/// Weighted sums over the tokens of a minibatch; divide by `weight` for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ValueLoss {
    /// Σ w · ½ · max((v − R)², (clip(v) − R)²).
    pub loss: f64,
    /// Σ w where the clipped value makes the loss.
    pub clipped: f64,
    /// Σ w.
    pub weight: f64,
}

/// dvalues`[N]` = ∂loss/∂v; clip(v) keeps v within `clip` of the old value (`None`: no clip); all inputs `[N]`.
pub fn value_loss(
    stream: &Stream,
    clip: Option<f32>,
    values: View<'_, f32>,
    old_values: View<'_, f32>,
    returns: View<'_, f32>,
    weights: View<'_, f32>,
    dvalues: ViewMut<'_, f32>,
) -> ValueLoss {
    let len = values.len();
    assert_eq!((old_values.len(), returns.len()), (len, len), "ppo: inputs are not {len}");
    assert_eq!((weights.len(), dvalues.len()), (len, len), "ppo: weights or gradient are not {len}");
    let inputs = (values.host(), old_values.host(), returns.host(), weights.host());
    cpu::value_loss(stream, clip.unwrap_or(f32::INFINITY), inputs, dvalues.host())
}

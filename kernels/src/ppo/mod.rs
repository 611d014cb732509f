//! Losses of policy-gradient learning from whole answers, with their gradients.
//!
//! Schulman et al., "Proximal policy optimization algorithms", 2017, equation 7; the value clip is that of its code.
//! One ratio for a whole answer: Ahmadian et al., "Back to basics", 2024, where an answer is one action.
//! The KL divergence as a loss: Shao et al., "DeepSeekMath", 2024, equation 4, after Schulman's k3 (2020).

mod cpu;
pub(crate) mod cuda;

use crate::{Segments, Stream, View, ViewMut};

/// How far a ratio may leave 1 before its gain no longer counts: 1 − low to 1 + high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    pub low: f32,
    pub high: f32,
}

impl Clip {
    /// The same ε on both sides.
    pub fn even(clip: f32) -> Clip {
        Clip { low: clip, high: clip }
    }
}

/// Weighted sums over the tokens of a minibatch; divide by `weight` for means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicyLoss {
    /// Σ w · max(−A·r, −A·clip(r, 1 − low, 1 + high)).
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
    clip: Clip,
    logp: View<'_, f32>,
    old_logp: View<'_, f32>,
    advantages: View<'_, f32>,
    weights: View<'_, f32>,
    dlogp: ViewMut<'_, f32>,
) -> PolicyLoss {
    let len = logp.len();
    assert_eq!((old_logp.len(), advantages.len()), (len, len), "ppo: inputs are not {len}");
    assert_eq!((weights.len(), dlogp.len()), (len, len), "ppo: weights or gradient are not {len}");
    if stream.is_accelerated() {
        return cuda::policy_loss(stream, clip, [logp, old_logp, advantages, weights], dlogp);
    }
    let inputs = (logp.host(), old_logp.host(), advantages.host(), weights.host());
    cpu::policy_loss(stream, clip, inputs, dlogp.host())
}

/// The same with one ratio for each segment, r = exp(Σ logp − old_logp), one advantage`[S]` and one weight`[S]`; dlogp`[N]`.
pub fn answer_loss(
    stream: &Stream,
    clip: Clip,
    answers: &Segments,
    logp: View<'_, f32>,
    old_logp: View<'_, f32>,
    advantages: View<'_, f32>,
    weights: View<'_, f32>,
    dlogp: ViewMut<'_, f32>,
) -> PolicyLoss {
    let (len, count) = (answers.tokens(), answers.len());
    assert_eq!((logp.len(), old_logp.len(), dlogp.len()), (len, len, len), "ppo: tokens are not {len}");
    assert_eq!((advantages.len(), weights.len()), (count, count), "ppo: answers are not {count}");
    if stream.is_accelerated() {
        return cuda::answer_loss(stream, clip, answers, [logp, old_logp, advantages, weights], dlogp);
    }
    let inputs = (logp.host(), old_logp.host(), advantages.host(), weights.host());
    cpu::answer_loss(stream, clip, answers, inputs, dlogp.host())
}

/// dlogp`[N]` += β · ∂/∂logp of Σ w · k3 with k3 = exp(reference − logp) − (reference − logp) − 1; returns Σ w · k3.
pub fn kl_loss(
    stream: &Stream,
    beta: f32,
    logp: View<'_, f32>,
    reference: View<'_, f32>,
    weights: View<'_, f32>,
    dlogp: ViewMut<'_, f32>,
) -> f64 {
    let len = logp.len();
    assert_eq!((reference.len(), weights.len(), dlogp.len()), (len, len, len), "ppo: inputs are not {len}");
    if stream.is_accelerated() {
        return cuda::kl_loss(stream, beta, [logp, reference, weights], dlogp);
    }
    cpu::kl_loss(stream, beta, (logp.host(), reference.host(), weights.host()), dlogp.host())
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
    let clip = clip.unwrap_or(f32::INFINITY);
    if stream.is_accelerated() {
        return cuda::value_loss(stream, clip, [values, old_values, returns, weights], dvalues);
    }
    let inputs = (values.host(), old_values.host(), returns.host(), weights.host());
    cpu::value_loss(stream, clip, inputs, dvalues.host())
}

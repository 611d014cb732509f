//! PPO's losses on the CPU: a few thousand tokens, so plainly and in f64.

use super::{PolicyLoss, ValueLoss};
use crate::Stream;

pub(super) fn policy_loss(
    _stream: &Stream,
    clip: f32,
    (logp, old_logp, advantages, weights): (&[f32], &[f32], &[f32], &[f32]),
    dlogp: &mut [f32],
) -> PolicyLoss {
    let clip = f64::from(clip);
    let mut sums = PolicyLoss::default();
    for (n, dlogp) in dlogp.iter_mut().enumerate() {
        let (advantage, weight) = (f64::from(advantages[n]), f64::from(weights[n]));
        let log_ratio = f64::from(logp[n]) - f64::from(old_logp[n]);
        let ratio = log_ratio.exp();
        let (free, bounded) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip));
        // Where the bounded term is the larger one, the ratio no longer matters.
        *dlogp = if free >= bounded { (weight * free) as f32 } else { 0.0 };
        sums.loss += weight * free.max(bounded);
        sums.clipped += if (ratio - 1.0).abs() > clip { weight } else { 0.0 };
        sums.kl += weight * (ratio - 1.0 - log_ratio);
        sums.weight += weight;
        sums.ratio_max = if weight > 0.0 { sums.ratio_max.max(ratio) } else { sums.ratio_max };
    }
    sums
}

pub(super) fn value_loss(
    _stream: &Stream,
    clip: f32,
    (values, old_values, returns, weights): (&[f32], &[f32], &[f32], &[f32]),
    dvalues: &mut [f32],
) -> ValueLoss {
    let clip = f64::from(clip);
    let mut sums = ValueLoss::default();
    for (n, dvalue) in dvalues.iter_mut().enumerate() {
        let (value, old) = (f64::from(values[n]), f64::from(old_values[n]));
        let (target, weight) = (f64::from(returns[n]), f64::from(weights[n]));
        let step = (value - old).clamp(-clip, clip);
        let (free, bounded) = ((value - target).powi(2), (old + step - target).powi(2));
        let inside = step == value - old;
        *dvalue = if free >= bounded || inside { (weight * (value - target)) as f32 } else { 0.0 };
        sums.loss += 0.5 * weight * free.max(bounded);
        sums.clipped += if bounded > free && !inside { weight } else { 0.0 };
        sums.weight += weight;
    }
    sums
}

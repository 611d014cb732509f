//! PPO's losses on the CPU: a few thousand tokens, so plainly and in f64.

use super::{Clip, PolicyLoss, ValueLoss};
use crate::{Segments, Stream};

pub(super) fn policy_loss(
    _stream: &Stream,
    clip: Clip,
    (logp, old_logp, advantages, weights): (&[f32], &[f32], &[f32], &[f32]),
    dlogp: &mut [f32],
) -> PolicyLoss {
    let mut sums = PolicyLoss::default();
    for (n, dlogp) in dlogp.iter_mut().enumerate() {
        let log_ratio = f64::from(logp[n]) - f64::from(old_logp[n]);
        *dlogp = term(clip, log_ratio, advantages[n], weights[n], &mut sums);
    }
    sums
}

pub(super) fn answer_loss(
    _stream: &Stream,
    clip: Clip,
    answers: &Segments,
    (logp, old_logp, advantages, weights): (&[f32], &[f32], &[f32], &[f32]),
    dlogp: &mut [f32],
) -> PolicyLoss {
    let mut sums = PolicyLoss::default();
    for answer in 0..answers.len() {
        let range = answers.range(answer);
        let log_ratio = range.clone().map(|n| f64::from(logp[n]) - f64::from(old_logp[n])).sum();
        let gradient = term(clip, log_ratio, advantages[answer], weights[answer], &mut sums);
        dlogp[range].fill(gradient);
    }
    sums
}

/// Adds one ratio's part to the sums; its gradient with respect to log π.
fn term(clip: Clip, log_ratio: f64, advantage: f32, weight: f32, sums: &mut PolicyLoss) -> f32 {
    let (low, high) = (f64::from(clip.low), f64::from(clip.high));
    let (advantage, weight, ratio) = (f64::from(advantage), f64::from(weight), log_ratio.exp());
    let (free, bounded) = (-advantage * ratio, -advantage * ratio.clamp(1.0 - low, 1.0 + high));
    sums.loss += weight * free.max(bounded);
    sums.clipped += if ratio - 1.0 > high || 1.0 - ratio > low { weight } else { 0.0 };
    sums.kl += weight * (ratio - 1.0 - log_ratio);
    sums.weight += weight;
    sums.ratio_max = if weight > 0.0 { sums.ratio_max.max(ratio) } else { sums.ratio_max };
    // Where the bounded term is the larger one, the ratio no longer matters; what is no number must be seen.
    if bounded > free { 0.0 } else { (weight * free) as f32 }
}

pub(super) fn kl_loss(
    _stream: &Stream,
    beta: f32,
    (logp, reference, weights): (&[f32], &[f32], &[f32]),
    dlogp: &mut [f32],
) -> f64 {
    let mut sum = 0.0;
    for (n, dlogp) in dlogp.iter_mut().enumerate() {
        let (weight, away) = (f64::from(weights[n]), f64::from(reference[n]) - f64::from(logp[n]));
        sum += weight * (away.exp_m1() - away);
        *dlogp += (-f64::from(beta) * weight * away.exp_m1()) as f32;
    }
    sum
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

//! The preference loss on the CPU: sums of a few thousand tokens, so plainly and in f64.

use super::{DpoLoss, Preference};
use crate::{Segments, Stream};

pub(super) fn loss(
    _stream: &Stream,
    preference: Preference,
    answers: &Segments,
    (logp, reference): (&[f32], &[f32]),
    weight: f32,
    dlogp: &mut [f32],
) -> DpoLoss {
    let (beta, smoothing) = (f64::from(preference.beta), f64::from(preference.smoothing));
    let reward =
        |answer: usize| beta * answers.range(answer).map(|n| f64::from(logp[n]) - f64::from(reference[n])).sum::<f64>();
    let mut sums = DpoLoss::default();
    for chosen in (0..answers.len()).step_by(2) {
        let (better, worse) = (reward(chosen), reward(chosen + 1));
        let margin = better - worse;
        sums.loss -= (1.0 - smoothing) * log_sigmoid(margin) + smoothing * log_sigmoid(-margin);
        sums.chosen += better;
        sums.rejected += worse;
        sums.right += f64::from(margin > 0.0);
        let slope = smoothing * sigmoid(margin) - (1.0 - smoothing) * sigmoid(-margin);
        let gradient = (f64::from(weight) * beta * slope) as f32;
        dlogp[answers.range(chosen)].fill(gradient);
        dlogp[answers.range(chosen + 1)].fill(-gradient);
    }
    sums
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log σ(x) = −log(1 + exp(−x)), also where exp(−x) has no number.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

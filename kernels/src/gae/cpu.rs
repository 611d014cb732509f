//! The reverse scan on the CPU.

use super::Discounts;
use crate::{Segments, Stream};

pub(super) fn forward(
    _stream: &Stream,
    discounts: Discounts,
    segments: &Segments,
    rewards: &[f32],
    values: &[f32],
    advantages: &mut [f32],
    returns: &mut [f32],
) {
    let (gamma, lambda) = (f64::from(discounts.gamma), f64::from(discounts.lambda));
    for document in 0..segments.len() {
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for t in segments.range(document).rev() {
            let value = f64::from(values[t]);
            let delta = f64::from(rewards[t]) + gamma * next_value - value;
            next_advantage = delta + gamma * lambda * next_advantage;
            next_value = value;
            advantages[t] = next_advantage as f32;
            returns[t] = (next_advantage + value) as f32;
        }
    }
}

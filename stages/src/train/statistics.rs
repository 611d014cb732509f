//! Means, variances and gaps over an iteration's answers.

use super::rollouts::Rollout;

/// 0 of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// The mean squared distance from the mean.
pub fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let middle = mean(values.clone());
    mean(values.map(|value| (value - middle) * (value - middle)))
}

/// The advantages of all answers that count, to mean 0 and deviation 1.
pub fn whiten(rollouts: &mut [Rollout]) {
    let counting = rollouts.iter().filter(|rollout| rollout.counts);
    let values = counting.flat_map(|rollout| &rollout.advantages).map(|&advantage| advantage as f64);
    let (middle, deviation) = (mean(values.clone()), variance(values).sqrt());
    for advantage in rollouts.iter_mut().flat_map(|rollout| &mut rollout.advantages) {
        *advantage = ((*advantage as f64 - middle) / (deviation + 1e-6)) as f32;
    }
}

/// 1 − Var(R − V) / Var(R) over tokens.
pub fn explained_variance(rollouts: &[Rollout]) -> f64 {
    let returns = rollouts.iter().flat_map(|rollout| &rollout.returns).map(|&value| value as f64);
    let values = rollouts.iter().flat_map(|rollout| &rollout.values).map(|&value| value as f64);
    let left = returns.clone().zip(values).map(|(target, value)| target - value);
    1.0 - variance(left) / variance(returns).max(1e-12)
}

/// Largest difference between a token's log-probability when sampled and when rescored.
pub fn sampler_gap(rollouts: &[Rollout]) -> f64 {
    rollouts.iter().map(|rollout| largest_gap(&rollout.sampled_logp, &rollout.logp)).fold(0.0, f64::max)
}

pub fn largest_gap(some: &[f32], others: &[f32]) -> f64 {
    some.iter().zip(others).map(|(a, b)| (a - b).abs() as f64).fold(0.0, f64::max)
}

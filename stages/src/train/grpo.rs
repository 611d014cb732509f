//! Group relative policy optimization (Shao 2024, "DeepSeekMath"): the answers to one problem are each other's baseline.
//!
//! Symbols: `G` answers to a problem, their group · `r_i` reward of answer i · `Â_i` advantage, the same for all its tokens ·
//! `β` weight of the KL. Metrics: `practice/told.rs`, and `flat_groups`, the share of groups whose answers all earn the same,
//! so that nothing is learnt from them.

use super::host::{Host, Metrics};
use super::policy::{Over, Ratio};
use super::practice::{Practice, PracticeSettings, Task};
use super::rollouts::{Environment, Rollout};
use super::statistics::{mean, variance};
use crate::failure::Result;
use crate::model::Decoder;
use serde::{Deserialize, Serialize};

/// Keeps a group of nearly equal rewards from being blown up.
const EPSILON: f64 = 1e-4;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrpoSettings {
    pub practice: PracticeSettings,
    /// Advantages are divided by their group's deviation; without, hard and easy problems weigh alike (Liu 2025, "Dr. GRPO").
    pub deviation: bool,
    pub over: Over,
}

/// Trains the policy and returns it with the rows of metrics. Goes on from the host's last checkpoint of the same work, to the
/// same bits.
pub fn train(
    task: Task,
    settings: &GrpoSettings,
    world: &mut dyn Environment,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let mut practice = Practice::new("grpo", task, &settings.practice, settings, |policy| (policy, None))?;
    practice.resume(host);
    while practice.goes_on(host)? {
        let mut rollouts = practice.roll_out(world, host)?;
        let flat = compare(&mut rollouts, settings, practice.beta_in_reward());
        let objective = practice.objective(Ratio::Token, settings.over);
        let updates = practice.learn_policy(&rollouts, objective, host)?;
        practice.close(&rollouts, &updates, None, &[("flat_groups", flat)], host)?;
    }
    Ok(practice.finish())
}

/// Â_i = (r_i − mean(r)) / (std(r) + ε) within each group, the deviation with Bessel's correction; returns the share of flat groups.
/// Where the KL counts in the reward, r_i holds it.
fn compare(rollouts: &mut [Rollout], settings: &GrpoSettings, beta: f32) -> f64 {
    let group = settings.practice.group.max(1);
    let mut flat = Vec::new();
    for answers in rollouts.chunks_mut(group) {
        let rewards: Vec<f64> = answers.iter().map(|rollout| penalised_reward(rollout, beta)).collect();
        let (middle, spread) = (mean(rewards.iter().copied()), variance(rewards.iter().copied()));
        let deviation = (spread * group as f64 / (group as f64 - 1.0).max(1.0)).sqrt();
        let unit = if settings.deviation { deviation + EPSILON } else { 1.0 };
        for (rollout, reward) in answers.iter_mut().zip(&rewards) {
            rollout.give(((reward - middle) / unit) as f32);
        }
        flat.push(f64::from(u8::from(spread == 0.0)));
    }
    mean(flat)
}

/// r − β Σ_t (log π_old − log π_ref) of a whole answer.
pub(super) fn penalised_reward(rollout: &Rollout, beta: f32) -> f64 {
    let kl: f64 = if beta == 0.0 { 0.0 } else { rollout.log_ratios().map(f64::from).sum() };
    f64::from(rollout.judgement.reward) - f64::from(beta) * kl
}

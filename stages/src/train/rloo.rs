//! REINFORCE with a leave-one-out baseline (Kool 2019; Ahmadian 2024, "Back to basics"): a whole answer is one action.
//!
//! Symbols: `k` answers to a problem · `R_i` reward of answer i, KL taken off · `Â_i` advantage · `ρ_i = π(y_i) / π_old(y_i)`, which
//! is 1 in the first pass over the answers; further passes are held by the clip. Metrics: `practice/told.rs`.

use super::grpo::penalised_reward;
use super::host::{Host, Metrics};
use super::policy::{Over, Ratio};
use super::practice::{Practice, PracticeSettings, Task};
use super::rollouts::{Environment, Rollout};
use super::statistics::whiten;
use crate::failure::Result;
use crate::model::Decoder;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RlooSettings {
    pub practice: PracticeSettings,
    /// Whether an answer or each of its tokens has a ratio.
    pub ratio: Ratio,
    /// Advantages to mean 0 and deviation 1 over the iteration.
    pub whiten: bool,
}

/// Trains the policy and returns it with the rows of metrics. Goes on from the host's last checkpoint of the same work, to the
/// same bits.
pub fn train(
    task: Task,
    settings: &RlooSettings,
    world: &mut dyn Environment,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let mut practice = Practice::new("rloo", task, &settings.practice, settings, |policy| (policy, None))?;
    practice.resume(host);
    while practice.goes_on(host)? {
        let mut rollouts = practice.roll_out(world, host)?;
        leave_one_out(&mut rollouts, settings.practice.group, practice.beta_in_reward());
        if settings.whiten {
            whiten(&mut rollouts);
        }
        let objective = practice.objective(settings.ratio, Over::Tokens);
        let updates = practice.learn_policy(&rollouts, objective, host)?;
        practice.close(&rollouts, &updates, None, &[], host)?;
    }
    Ok(practice.finish())
}

/// Â_i = R_i − 1/(k−1) · Σ_{j≠i} R_j with R = r − β Σ_t (log π_old − log π_ref) (eq. 9).
fn leave_one_out(rollouts: &mut [Rollout], k: usize, beta: f32) {
    for answers in rollouts.chunks_mut(k.max(1)) {
        let rewards: Vec<f64> = answers.iter().map(|rollout| penalised_reward(rollout, beta)).collect();
        let total: f64 = rewards.iter().sum();
        for (rollout, reward) in answers.iter_mut().zip(&rewards) {
            let baseline = (total - reward) / (rewards.len() as f64 - 1.0).max(1.0);
            rollout.give((reward - baseline) as f32);
        }
    }
}

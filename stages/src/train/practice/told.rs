//! The rows of metrics that practice tells.
//!
//! | metric | is, as a mean over the iteration's answers unless it says otherwise |
//! |---|---|
//! | `reward` | what the judge gave, KL excluded |
//! | `accuracy`, `format` | share of answers judged right; share that keep the demanded format |
//! | `length` | tokens of an answer |
//! | `truncated` | share of answers that ran into the length limit |
//! | `kl` | Σ_t log π_old − log π_ref of an answer, in nats |
//! | `entropy` | of π_old, mean over tokens, in nats |
//! | `approx_kl` | mean over tokens and updates of ρ − 1 − log ρ with ρ = π / π_old (Schulman 2020, k3) |
//! | `clip_fraction` | share of tokens, over all updates, whose ratio left the clip range |
//! | `policy_loss`, `value_loss` | mean over updates |
//! | `explained_variance` | 1 − Var(R − V) / Var(R) over tokens, before the critic sees these answers |
//! | `first_ratio` | π / π_old farthest from 1 in the first minibatch; exactly 1, as old log-probabilities are rescored (0 while only the critic learns) |
//! | `sampler_gap` | largest difference between a token's log-probability when sampled and when rescored; 0 on the CPU |
//! | `grad_norm` | of the policy, before clipping, mean over updates |
//! | `learning_rate` | of the policy |
//! | `kl_loss` | mean k3 of π from π_ref over updates, where it is a loss |
//! | `beta` | β of this iteration, where it moves |
//! | `updates` | policy updates made, where an iteration may stop early |
//! | `masked` | share of answers kept out of the loss, where some may be |

use super::{KlAs, Practice, Update};
use crate::model::generate::Finish;
use crate::train::host::Metrics;
use crate::train::rollouts::Rollout;
use crate::train::statistics::{explained_variance, mean, sampler_gap};

/// Sums over the policy's updates of one iteration.
#[derive(Debug, Clone, Default)]
pub struct PolicyUpdates {
    pub count: u64,
    pub loss: f64,
    pub clipped: f64,
    pub approx_kl: f64,
    pub kl: f64,
    pub value: f64,
    pub grad_norm: f64,
    pub first_ratio: f64,
    pub rate: f64,
}

impl PolicyUpdates {
    pub fn add(&mut self, update: &Update) {
        if self.count == 0 {
            self.first_ratio = update.gap.exp();
        }
        self.count += 1;
        self.loss += update.policy.loss;
        self.clipped += update.policy.clipped;
        self.approx_kl += update.policy.kl;
        self.kl += update.kl;
        self.value += update.value;
        self.grad_norm += update.grad_norm;
    }

    pub fn mean(&self, sum: f64) -> f64 {
        sum / self.count.max(1) as f64
    }
}

/// The losses of the critic's updates of one iteration.
#[derive(Debug, Clone, Default)]
pub struct ValueUpdates {
    pub losses: Vec<f64>,
}

impl Practice<'_> {
    pub(super) fn metrics(
        &self,
        rollouts: &[Rollout],
        policy: &PolicyUpdates,
        value: Option<&ValueUpdates>,
        extra: &[(&str, f64)],
    ) -> Metrics {
        let mut values = of_answers(rollouts);
        values.extend([
            ("approx_kl", policy.mean(policy.approx_kl)),
            ("clip_fraction", policy.mean(policy.clipped)),
            ("policy_loss", policy.mean(policy.loss)),
        ]);
        if let Some(value) = value {
            values.push(("value_loss", mean(value.losses.iter().copied())));
            values.push(("explained_variance", explained_variance(rollouts)));
        }
        values.extend([
            ("first_ratio", policy.first_ratio),
            ("sampler_gap", sampler_gap(rollouts)),
            ("grad_norm", policy.mean(policy.grad_norm)),
            ("learning_rate", policy.rate),
        ]);
        values.extend(self.of_options(rollouts, policy));
        values.extend(extra);
        Metrics::new(self.state.iteration, values)
    }

    /// Only what a setting calls for, so that rows without it stay what they were.
    fn of_options(&self, rollouts: &[Rollout], policy: &PolicyUpdates) -> Vec<(&'static str, f64)> {
        let settings = self.settings;
        let masked = || mean(rollouts.iter().map(|rollout| f64::from(u8::from(!rollout.counts))));
        let options = [
            (settings.kl.place == KlAs::Loss, "kl_loss", policy.mean(policy.kl)),
            (settings.kl.adaptive.is_some(), "beta", f64::from(self.beta())),
            (settings.kl_stop.is_some(), "updates", policy.count as f64),
            (settings.truncated.masked, "masked", masked()),
        ];
        options.into_iter().filter(|(on, ..)| *on).map(|(_, name, value)| (name, value)).collect()
    }
}

fn of_answers(rollouts: &[Rollout]) -> Vec<(&'static str, f64)> {
    let of = |value: &dyn Fn(&Rollout) -> f64| mean(rollouts.iter().map(value));
    vec![
        ("reward", of(&|rollout| rollout.judgement.reward as f64)),
        ("accuracy", of(&|rollout| rollout.judgement.right as u8 as f64)),
        ("format", of(&|rollout| rollout.judgement.formatted as u8 as f64)),
        ("length", of(&|rollout| rollout.logp.len() as f64)),
        ("truncated", of(&|rollout| (rollout.finish == Finish::Length) as u8 as f64)),
        ("kl", of(&|rollout| rollout.log_ratios().map(f64::from).sum())),
        ("entropy", mean(rollouts.iter().flat_map(|rollout| &rollout.entropy).map(|&entropy| entropy as f64))),
    ]
}

//! Proximal policy optimization (Schulman 2017) on whole answers, with a KL penalty to the model it starts from (Stiennon 2020).
//!
//! Symbols: `π` policy · `π_old` policy that wrote the answers · `π_ref` the model before training · `V` critic ·
//! `r_t` reward of token t · `Â_t` advantage · `R_t` return · `β` weight of the KL. Metrics: `practice/told.rs`.

use super::host::{Host, Metrics};
use super::learner::Learner;
use super::optimizer::AdamW;
use super::policy::{Over, Ratio, ValueObjective};
use super::practice::{PolicyUpdates, Practice, PracticeSettings, Task, ValueUpdates};
use super::rollouts::{Environment, Rollout, revalue};
use super::statistics::whiten;
use crate::failure::Result;
use crate::model::Decoder;
use kernels::gae::{self, Discounts};
use kernels::{Segments, Stream};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PpoSettings {
    pub practice: PracticeSettings,
    pub critic: Critic,
    /// γ
    pub discount: f32,
    /// λ
    pub trace: f32,
    /// λ of the returns that the critic learns; as the advantages' when `None` (Yuan 2025 takes 1 here and less there).
    pub value_trace: Option<f32>,
    /// A new value may move so far from the old one before its loss goes flat; `None` does not limit it.
    pub value_clip: Option<f32>,
    /// Advantages to mean 0 and deviation 1.
    pub whiten: bool,
}

/// What says V.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Critic {
    /// A model of its own, which starts from the policy's weights and learns at its own pace.
    Separate {
        rate: f64,
        optimizer: AdamW,
        /// Passes over an iteration's answers.
        epochs: u64,
        /// Answers an update.
        minibatch: usize,
    },
    /// A second head on the policy: one model, one loss, its part weighed by `coefficient`.
    Shared { coefficient: f32 },
}

/// Trains the policy and returns it with the rows of metrics. Goes on from the host's last checkpoint of the same work, to the
/// same bits.
pub fn train(
    task: Task,
    settings: &PpoSettings,
    world: &mut dyn Environment,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let mut run =
        Ppo { practice: Practice::new("ppo", task, &settings.practice, settings, settings.models())?, settings };
    run.practice.resume(host);
    while run.practice.goes_on(host)? {
        let mut rollouts = run.practice.roll_out(world, host)?;
        revalue(&mut rollouts, run.critic());
        run.estimate_advantages(&mut rollouts);
        let (policy, value) = run.learn(&rollouts, host)?;
        run.practice.close(&rollouts, &policy, Some(&value), &[], host)?;
    }
    let (model, rows) = run.practice.finish();
    Ok((model.without_value_head(), rows))
}

struct Ppo<'a> {
    practice: Practice<'a>,
    settings: &'a PpoSettings,
}

impl PpoSettings {
    /// The model that learns the policy, and a critic beside it where they are two.
    fn models(&self) -> impl FnOnce(Decoder) -> (Decoder, Option<Learner>) {
        let (critic, checkpointing) = (self.critic, self.practice.checkpointing);
        move |policy| match critic {
            Critic::Separate { optimizer, .. } => {
                let critic = Learner::new(policy.with_value_head(), optimizer, checkpointing);
                (policy, Some(critic))
            }
            Critic::Shared { .. } => (policy.with_value_head(), None),
        }
    }
}

impl Ppo<'_> {
    /// The model that says V.
    fn critic(&self) -> &Decoder {
        self.practice.critic.as_ref().map_or(&self.practice.policy.decoder, |critic| &critic.decoder)
    }

    /// r_t = −β (log π_old − log π_ref), and the judge's reward on the last token; then Â and R by GAE(γ, λ).
    fn estimate_advantages(&self, rollouts: &mut [Rollout]) {
        let stream = self.practice.policy.decoder.device().stream();
        let (beta, mut rewards) = (self.practice.beta_in_reward(), Vec::new());
        for rollout in rollouts.iter() {
            rewards.extend(rollout.log_ratios().map(|log_ratio| -beta * log_ratio));
            *rewards.last_mut().expect("an answer has a token") += rollout.judgement.reward;
        }
        let PpoSettings { discount: gamma, trace: lambda, value_trace, whiten: whitened, .. } = *self.settings;
        let (advantages, returns) = discounted(&stream, rollouts, &rewards, Discounts { gamma, lambda });
        let returns = match value_trace {
            Some(lambda) => discounted(&stream, rollouts, &rewards, Discounts { gamma, lambda }).1,
            None => returns,
        };
        for ((rollout, advantages), returns) in rollouts.iter_mut().zip(advantages).zip(returns) {
            (rollout.advantages, rollout.returns) = (advantages, returns);
        }
        if whitened {
            whiten(rollouts);
        }
    }

    fn learn(&mut self, rollouts: &[Rollout], host: &mut dyn Host) -> Result<(PolicyUpdates, ValueUpdates)> {
        match self.settings.critic {
            Critic::Separate { rate, epochs, minibatch, .. } => {
                let value = self.learn_values(rollouts, (epochs, minibatch, rate), host)?;
                let idle = self.practice.is_idle();
                Ok((if idle { PolicyUpdates::default() } else { self.learn_policy(rollouts, None, host)? }, value))
            }
            Critic::Shared { coefficient } => {
                let updates = self.learn_policy(rollouts, Some(coefficient), host)?;
                let value = ValueUpdates { losses: vec![updates.mean(updates.value)] };
                Ok((if self.practice.is_idle() { PolicyUpdates::default() } else { updates }, value))
            }
        }
    }

    /// Maximizes E[min(ρ Â, clip(ρ, 1 ± ε) Â)] with ρ = π / π_old (eq. 7); with a shared critic c_V of its loss is taken off (eq. 9).
    fn learn_policy(
        &mut self,
        rollouts: &[Rollout],
        shared: Option<f32>,
        host: &mut dyn Host,
    ) -> Result<PolicyUpdates> {
        let (clip, alone) = (self.settings.value_clip, self.practice.is_idle());
        let mut objective = self.practice.objective(Ratio::Token, Over::Tokens);
        objective.value = shared.map(|coefficient| ValueObjective { coefficient, clip, alone });
        self.practice.learn_policy(rollouts, objective, host)
    }

    /// Minimizes ½ E[(V − R)²].
    fn learn_values(
        &mut self,
        rollouts: &[Rollout],
        pace: (u64, usize, f64),
        host: &mut dyn Host,
    ) -> Result<ValueUpdates> {
        let value = ValueObjective { coefficient: 1.0, clip: self.settings.value_clip, alone: true };
        self.practice.learn_values(rollouts, value, pace, host)
    }
}

/// Advantages and returns of every answer.
fn discounted(
    stream: &Stream,
    rollouts: &[Rollout],
    rewards: &[f32],
    discounts: Discounts,
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let lengths: Vec<usize> = rollouts.iter().map(Rollout::length).collect();
    let segments = Segments::new(stream, &lengths);
    let values: Vec<f32> = rollouts.iter().flat_map(|rollout| rollout.values.iter().copied()).collect();
    let (rewards, values) = (stream.upload(rewards), stream.upload(&values));
    let (mut advantages, mut returns) = (stream.uninit(rewards.len()), stream.uninit(rewards.len()));
    let outputs = (advantages.view_mut(), returns.view_mut());
    gae::forward(stream, discounts, &segments, rewards.view(), values.view(), outputs.0, outputs.1);
    let cut = |all: Vec<f32>| (0..segments.len()).map(|answer| all[segments.range(answer)].to_vec()).collect();
    (cut(stream.download(advantages.view())), cut(stream.download(returns.view())))
}

//! One update of a policy from a minibatch of its answers: what is minimised, over which tokens, and what is told of it.
//!
//! Symbols: `ρ = π / π_old` ratio · `Â` advantage · `ε` clip · `β` weight of the divergence from `π_ref` · `V`, `R` value, return.

use super::learner::Learner;
use super::rollouts::{Rollout, batch_of, column};
use super::shards::Lane;
use super::statistics::largest_gap;
use crate::model::batch::Batch;
use crate::model::losses::Against;
use crate::model::workspace::Workspace;
use crate::model::{Decoder, heads};
use kernels::Segments;
use kernels::Write::{Accumulate, Overwrite};
use kernels::ppo::{Clip, PolicyLoss};
use serde::{Deserialize, Serialize};

/// What is one action, so has one ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    Token,
    /// The whole answer (Ahmadian 2024).
    Answer,
}

/// How a minibatch's tokens make one loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// The mean over all tokens.
    Tokens,
    /// The mean over answers of the mean over their tokens (Shao 2024).
    Answers,
    /// The sum over tokens divided by answers · the longest answer allowed, so that no length is favoured (Liu 2025).
    Budget(usize),
}

/// What an update minimises: −min(ρ Â, clip(ρ) Â) + β · k3 − c_H · H, and c_V · ½ (V − R)² where the model has a value head.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    pub temperature: f32,
    pub clip: Clip,
    pub ratio: Ratio,
    pub over: Over,
    /// β of the divergence as a loss; 0 leaves it out.
    pub kl: f32,
    /// c_H, the weight of the entropy; 0 leaves it out.
    pub entropy: f32,
    pub value: Option<ValueObjective>,
}

/// The value's part in the loss of a model that is policy and critic in one.
#[derive(Debug, Clone, Copy)]
pub struct ValueObjective {
    /// c_V
    pub coefficient: f32,
    pub clip: Option<f32>,
    /// The policy waits: only the value head learns.
    pub alone: bool,
}

/// What one update was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Update {
    pub policy: PolicyLoss,
    /// Mean k3 of π from π_ref; 0 where it is no loss.
    pub kl: f64,
    pub value: f64,
    /// The largest |log ρ| of a token.
    pub gap: f64,
    pub grad_norm: f64,
}

impl Update {
    fn add(mut self, other: &Update) -> Update {
        self.policy.loss += other.policy.loss;
        self.policy.clipped += other.policy.clipped;
        self.policy.kl += other.policy.kl;
        self.policy.weight += other.policy.weight;
        self.kl += other.kl;
        self.value += other.value;
        self.gap = self.gap.max(other.gap);
        self
    }

    /// Weights of a budget do not sum to 1: what is told as a share or a mean is divided by their sum.
    fn told(mut self, over: Over) -> Update {
        if matches!(over, Over::Budget(_)) && self.policy.weight > 0.0 {
            self.policy.clipped /= self.policy.weight;
            self.policy.kl /= self.policy.weight;
            self.kl /= self.policy.weight;
        }
        self
    }

    pub fn is_finite(&self) -> bool {
        [self.policy.loss, self.kl, self.value, self.grad_norm].into_iter().all(f64::is_finite)
    }
}

/// What each token of each answer weighs in a minibatch's loss, and each answer as one action.
struct Weights {
    tokens: usize,
    answers: usize,
    objective: Objective,
}

impl Weights {
    fn new(rollouts: &[Rollout], minibatch: &[usize], objective: Objective) -> Weights {
        let counting = || minibatch.iter().filter(|&&index| rollouts[index].counts);
        let tokens = counting().map(|&index| rollouts[index].length()).sum();
        Weights { tokens, answers: counting().count(), objective }
    }

    fn token(&self, rollout: &Rollout) -> f32 {
        let Objective { ratio, over, .. } = self.objective;
        match (rollout.counts, ratio, over) {
            (false, ..) => 0.0,
            (_, Ratio::Answer, _) => 1.0 / self.answers as f32,
            (_, _, Over::Tokens) => 1.0 / self.tokens as f32,
            (_, _, Over::Answers) => 1.0 / (self.answers * rollout.length()) as f32,
            (_, _, Over::Budget(longest)) => 1.0 / (self.answers * longest) as f32,
        }
    }

    /// The value's loss is always a mean over tokens.
    fn value(&self, rollout: &Rollout) -> f32 {
        if rollout.counts { 1.0 / self.tokens as f32 } else { 0.0 }
    }
}

/// One number for each token of a chunk's answers.
fn each(rollouts: &[Rollout], chunk: &[usize], of: impl Fn(&Rollout) -> f32) -> Vec<f32> {
    chunk.iter().flat_map(|&index| std::iter::repeat_n(of(&rollouts[index]), rollouts[index].length())).collect()
}

/// One step on a minibatch; `None` where no answer of it counts.
pub fn update(
    policy: &mut Learner,
    rollouts: &[Rollout],
    minibatch: &[usize],
    objective: Objective,
    rate: f64,
) -> Option<Update> {
    let weights = Weights::new(rollouts, minibatch, objective);
    if weights.answers == 0 {
        return None;
    }
    policy.decoder.share();
    let Learner { decoder, lanes, .. } = policy;
    let pass = |chunk: &[usize], lane: &mut Lane| match objective.value {
        Some(value) if value.alone => value_head_pass(decoder, rollouts, chunk, &weights, value, lane),
        _ => policy_pass(decoder, rollouts, chunk, &weights, lane),
    };
    let passes = lanes.run(minibatch, |index| rollouts[index].example.tokens.len(), pass);
    let update = passes.iter().fold(Update::default(), Update::add);
    Some(Update { grad_norm: policy.step(rate), ..update.told(objective.over) })
}

/// Forward, losses, backward; leaves the gradients in the lane.
fn policy_pass(policy: &Decoder, rollouts: &[Rollout], chunk: &[usize], weights: &Weights, lane: &mut Lane) -> Update {
    let Lane { workspace, gradients } = lane;
    let (batch, objective) = (batch_of(rollouts, chunk, workspace), weights.objective);
    policy.forward(&batch, workspace);
    heads::log_probabilities(policy, &batch, objective.temperature, workspace);
    let old = column(rollouts, chunk, |rollout| &rollout.logp);
    let gap = largest_gap(&workspace.download_logp(&batch), &old);
    let each_token = each(rollouts, chunk, |rollout| weights.token(rollout));
    let stats = clipped_loss(rollouts, chunk, &old, &each_token, (&batch, objective), workspace);
    let kl = divergence(rollouts, chunk, &each_token, (&batch, objective), workspace);
    let bonus: Vec<f32> = each_token.iter().map(|weight| -objective.entropy * weight).collect();
    let bonus = (objective.entropy != 0.0).then(|| workspace.stream.upload(&bonus));
    let bonus = bonus.as_ref().map(|bonus| bonus.view());
    heads::log_probabilities_to_hidden(policy, &batch, objective.temperature, bonus, workspace, gradients);
    let value = objective.value.map_or(0.0, |value| {
        let loss = value_loss(policy, rollouts, chunk, weights, value, (&batch, workspace));
        heads::values_to_hidden(policy, &batch, Accumulate, workspace, gradients);
        loss
    });
    heads::hidden_to_stack(policy, &batch, workspace);
    policy.backward(&batch, workspace, gradients);
    Update { policy: stats, kl, value, gap, grad_norm: 0.0 }
}

/// −min(ρ Â, clip(ρ) Â) with one ratio a token or an answer.
fn clipped_loss(
    rollouts: &[Rollout],
    chunk: &[usize],
    old: &[f32],
    weights: &[f32],
    (batch, objective): (&Batch, Objective),
    workspace: &mut Workspace,
) -> PolicyLoss {
    let old = workspace.stream.upload(old);
    match objective.ratio {
        Ratio::Token => {
            let advantages = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.advantages));
            let weights = workspace.stream.upload(weights);
            let against = Against { old: old.view(), advantages: advantages.view(), weights: weights.view() };
            workspace.policy_loss(batch, objective.clip, against)
        }
        Ratio::Answer => {
            let lengths: Vec<usize> = chunk.iter().map(|&index| rollouts[index].length()).collect();
            let answers = Segments::new(&workspace.stream, &lengths);
            let firsts = (0..answers.len()).map(|answer| weights[answers.range(answer).start]).collect::<Vec<_>>();
            let advantages: Vec<f32> = chunk.iter().map(|&index| rollouts[index].advantages[0]).collect();
            let (advantages, weights) = (workspace.stream.upload(&advantages), workspace.stream.upload(&firsts));
            let against = Against { old: old.view(), advantages: advantages.view(), weights: weights.view() };
            workspace.answer_loss(batch, objective.clip, &answers, against)
        }
    }
}

/// β · k3 of the policy from the reference, where it is a loss.
fn divergence(
    rollouts: &[Rollout],
    chunk: &[usize],
    weights: &[f32],
    (batch, objective): (&Batch, Objective),
    workspace: &mut Workspace,
) -> f64 {
    if objective.kl == 0.0 {
        return 0.0;
    }
    let reference = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.reference_logp));
    let weights = workspace.stream.upload(weights);
    workspace.kl_loss(batch, objective.kl, reference.view(), weights.view())
}

/// ½ (V − R)², whose gradient is weighed by c_V; returns it without.
fn value_loss(
    model: &Decoder,
    rollouts: &[Rollout],
    chunk: &[usize],
    weights: &Weights,
    value: ValueObjective,
    (batch, workspace): (&Batch, &mut Workspace),
) -> f64 {
    heads::values(model, batch, workspace);
    let weights = each(rollouts, chunk, |rollout| value.coefficient * weights.value(rollout));
    let old = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.values));
    let returns = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.returns));
    let weights = workspace.stream.upload(&weights);
    let loss = workspace.value_loss(batch, old.view(), returns.view(), weights.view(), value.clip);
    loss / f64::from(value.coefficient)
}

/// The value head alone learns: nothing flows back into the stack that the policy stands on.
fn value_head_pass(
    model: &Decoder,
    rollouts: &[Rollout],
    chunk: &[usize],
    weights: &Weights,
    value: ValueObjective,
    lane: &mut Lane,
) -> Update {
    let Lane { workspace, gradients } = lane;
    let batch = batch_of(rollouts, chunk, workspace);
    model.forward(&batch, workspace);
    let loss = value_loss(model, rollouts, chunk, weights, value, (&batch, workspace));
    heads::values_to_hidden(model, &batch, Overwrite, workspace, gradients);
    Update { value: loss, ..Update::default() }
}

/// One step of a critic of its own; returns the loss, which is no number where the gradient is none.
pub fn update_critic(
    critic: &mut Learner,
    rollouts: &[Rollout],
    minibatch: &[usize],
    objective: Objective,
    value: ValueObjective,
    rate: f64,
) -> Option<Update> {
    let weights = Weights::new(rollouts, minibatch, objective);
    if weights.answers == 0 {
        return None;
    }
    critic.decoder.share();
    let Learner { decoder, lanes, .. } = critic;
    let pass = |chunk: &[usize], lane: &mut Lane| {
        let Lane { workspace, gradients } = lane;
        let batch = batch_of(rollouts, chunk, workspace);
        decoder.forward(&batch, workspace);
        let loss = value_loss(decoder, rollouts, chunk, &weights, value, (&batch, workspace));
        heads::values_backward(decoder, &batch, workspace, gradients);
        decoder.backward(&batch, workspace, gradients);
        loss
    };
    let losses = lanes.run(minibatch, |index| rollouts[index].example.tokens.len(), pass);
    let grad_norm = critic.step(rate);
    Some(Update { value: losses.into_iter().sum(), grad_norm, ..Update::default() })
}

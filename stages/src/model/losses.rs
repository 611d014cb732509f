//! Losses over a batch's chosen rows. Each leaves its gradient where the head's backward pass finds it.

use super::batch::Batch;
use super::workspace::Workspace;
use kernels::dpo::{self, DpoLoss, Preference};
use kernels::ppo::{self, Clip, PolicyLoss};
use kernels::{Segments, View};

/// What a policy's log-probabilities are held against.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// `[N]` log π_old
    pub old: View<'a, f32>,
    /// Â, for each token, or for each answer where one ratio stands for a whole answer.
    pub advantages: View<'a, f32>,
    /// How much each counts, as many as advantages.
    pub weights: View<'a, f32>,
}

impl Workspace {
    /// Σ w · −min(ρ Â, clip(ρ) Â) over tokens, and its companions.
    pub fn policy_loss(&mut self, batch: &Batch, clip: Clip, against: Against<'_>) -> PolicyLoss {
        let (n, stream, heads) = (batch.chosen(), &self.stream, &mut self.heads);
        let Against { old, advantages, weights } = against;
        ppo::policy_loss(stream, clip, heads.logp.slice(0..n), old, advantages, weights, heads.gradient.slice_mut(0..n))
    }

    /// The same with one ratio for each of `answers`.
    pub fn answer_loss(&mut self, batch: &Batch, clip: Clip, answers: &Segments, against: Against<'_>) -> PolicyLoss {
        let (n, stream, heads) = (batch.chosen(), &self.stream, &mut self.heads);
        let (Against { old, advantages, weights }, logp) = (against, heads.logp.slice(0..n));
        ppo::answer_loss(stream, clip, answers, logp, old, advantages, weights, heads.gradient.slice_mut(0..n))
    }

    /// Adds β · Σ w · k3(π_ref, π) to the loss whose gradient is there; returns the sum without β.
    pub fn kl_loss(&mut self, batch: &Batch, beta: f32, reference: View<'_, f32>, weights: View<'_, f32>) -> f64 {
        let (n, stream, heads) = (batch.chosen(), &self.stream, &mut self.heads);
        ppo::kl_loss(stream, beta, heads.logp.slice(0..n), reference, weights, heads.gradient.slice_mut(0..n))
    }

    /// Σ w · ½ max((V − R)², (clip(V, V_old ± ε) − R)²) over tokens.
    pub fn value_loss(
        &mut self,
        batch: &Batch,
        old: View<'_, f32>,
        returns: View<'_, f32>,
        weights: View<'_, f32>,
        clip: Option<f32>,
    ) -> f64 {
        let (n, stream, heads) = (batch.chosen(), &self.stream, &mut self.heads);
        ppo::value_loss(stream, clip, heads.values.slice(0..n), old, returns, weights, heads.gradient.slice_mut(0..n))
            .loss
    }

    /// The preference loss over pairs of `answers`, each pair weighing `weight` in the gradient; `reference`
    /// is `[N]` log π_ref.
    pub fn preference_loss(
        &mut self,
        batch: &Batch,
        preference: Preference,
        answers: &Segments,
        reference: View<'_, f32>,
        weight: f32,
    ) -> DpoLoss {
        let (n, stream, heads) = (batch.chosen(), &self.stream, &mut self.heads);
        dpo::loss(
            stream,
            preference,
            answers,
            heads.logp.slice(0..n),
            reference,
            weight,
            heads.gradient.slice_mut(0..n),
        )
    }
}

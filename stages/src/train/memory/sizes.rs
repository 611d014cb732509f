//! What each kind of training is made of, as far as it takes memory, and the plan that follows.

use super::{Lengths, MemoryPlan, ModelSizes, Use, lane_sizes, longest};
use crate::model::workspace::Purpose;

const PREPARED: &str = "weights prepared for generation";
const SHARED: &str = "weights prepared for lanes";
const ANGLES: &str = "angles of positions";
const WORKSPACES: &str = "workspaces of kernels";

/// What a supervised training is made of.
pub struct SftSizes<'a> {
    pub model: &'a ModelSizes,
    pub is_checkpointing: bool,
    pub micro_batch_tokens: Option<usize>,
    pub batches: &'a [Vec<usize>],
    pub lengths: &'a [Lengths],
    pub held_out: &'a [Lengths],
    /// Whether the best weights are kept.
    pub keeps_best: bool,
    /// Whether checkpoints are written.
    pub keeps_checkpoints: bool,
}

impl SftSizes<'_> {
    pub fn plan(&self) -> MemoryPlan {
        let (model, &ModelSizes { parameters, learnt, .. }) = (self.model, self.model);
        let cut = model.cut().within(self.micro_batch_tokens);
        let lanes = lane_sizes(cut, self.batches.iter().map(Vec::as_slice), self.lengths);
        let all: Vec<usize> = (0..self.held_out.len()).collect();
        let reading = if all.is_empty() { Vec::new() } else { lane_sizes(cut, [&all[..]], self.held_out) };
        let best = usize::from(self.keeps_best) * learnt;
        let kept = usize::from(self.keeps_checkpoints) * (3 * learnt + best);
        let workspaces = model.workspaces(&lanes, true).max(model.workspaces(&reading, false));
        MemoryPlan::default()
            .lasting(Use::Parameters, "parameters", parameters)
            .lasting(Use::Parameters, ANGLES, model.angles())
            .lasting(Use::Parameters, "adapters", if learnt == parameters { 0 } else { learnt })
            .lasting(Use::Parameters, SHARED, model.shared())
            .lasting(Use::Gradients, "gradients", lanes.len() * learnt)
            .lasting(Use::Optimizer, "moments", 2 * learnt)
            .lasting(Use::Activations, "training", model.work(&lanes, Purpose::training(self.is_checkpointing)))
            .lasting(Use::Activations, "evaluation", model.work(&reading, Purpose::Inference))
            .lasting(Use::Other, "best weights", model.on_host(best))
            .lasting(Use::Other, "scratch of threads", model.scratch(longest(&lanes)))
            .lasting(Use::Other, WORKSPACES, workspaces)
            .passing([(Use::Activations, "a piece of logits in the LM head", model.head(&lanes))])
            .passing([(Use::Other, "a checkpoint while it is written", model.on_host(kept))])
    }
}

/// A critic beside or on a policy, as far as it takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CriticSizes {
    /// None, or a second head on the policy.
    Nothing,
    /// A model of its own, and its answers an update.
    Model { minibatch: usize },
}

/// What a reinforcement learning is made of; answers as long as they may be.
pub struct PracticeSizes<'a> {
    pub model: &'a ModelSizes,
    /// Answers an iteration, and an update.
    pub rollouts: usize,
    pub minibatch: usize,
    pub critic: CriticSizes,
    pub is_checkpointing: bool,
    /// Tokens of the longest problem and of the longest answer.
    pub prompt_tokens: usize,
    pub answer_tokens: usize,
    pub keeps_checkpoints: bool,
}

impl PracticeSizes<'_> {
    pub fn plan(&self) -> MemoryPlan {
        let (model, &ModelSizes { parameters, learnt, .. }) = (self.model, self.model);
        let is_adapted = learnt != parameters;
        let purpose = Purpose::training(self.is_checkpointing);
        let policy = self.lanes(self.minibatch);
        let critic = match self.critic {
            CriticSizes::Nothing => Vec::new(),
            CriticSizes::Model { minibatch } => self.lanes(minibatch),
        };
        let critics = usize::from(self.critic != CriticSizes::Nothing);
        // Seven columns a token (log-probabilities three times, entropies, values, advantages, returns), and the tokens.
        let answers = self.rollouts * (8 * self.answer_tokens + self.prompt_tokens);
        let lengths = (self.prompt_tokens, self.answer_tokens);
        let (cache, rows) = model.answers(self.rollouts, lengths);
        let all = self.lanes(self.rollouts);
        let scored = model.work(&all, Purpose::Inference);
        let workspaces = [&policy, &critic].map(|lanes| model.workspaces(lanes, true)).into_iter();
        let beside = [model.workspaces(&all, false), model.workspaces_of_generation(self.rollouts, lengths)];
        let workspaces = workspaces.chain(beside).max().unwrap_or(0);
        let kept = usize::from(self.keeps_checkpoints) * 3 * (1 + critics) * learnt;
        // Frozen weights are shared by all models and stay prepared.
        let (copies, beside) = if is_adapted { (0, learnt) } else { (1, 0) };
        let (lasting, passing) = if is_adapted { (model.prepared(), 0) } else { (0, model.prepared()) };
        let prepared = (Use::Parameters, PREPARED, passing);
        MemoryPlan::default()
            .lasting(Use::Parameters, "the policy", parameters)
            .lasting(Use::Parameters, ANGLES, model.angles())
            .lasting(Use::Parameters, "adapters", (1 + critics) * beside)
            .lasting(Use::Parameters, "the model to stay near", copies * parameters)
            .lasting(Use::Parameters, "the critic", copies * critics * parameters)
            .lasting(Use::Parameters, PREPARED, lasting)
            .lasting(Use::Parameters, SHARED, (1 + critics) * model.shared())
            .lasting(Use::Gradients, "gradients", (policy.len() + critic.len()) * learnt)
            .lasting(Use::Optimizer, "moments", 2 * (1 + critics) * learnt)
            .lasting(Use::Activations, "the policy's updates", model.work(&policy, purpose))
            .lasting(Use::Activations, "the critic's updates", model.work(&critic, purpose))
            .lasting(Use::Other, "answers", model.on_host(answers))
            .lasting(Use::Other, "scratch of threads", model.scratch(longest(&policy)))
            .lasting(Use::Other, WORKSPACES, workspaces)
            .passing([(Use::KvCache, "keys and values", cache), (Use::Activations, "sampling", rows), prepared])
            // Until the first update changes the weights.
            .passing([(Use::Activations, "scoring of answers", scored), prepared])
            .passing([(Use::Activations, "a piece of logits in the LM head", model.head(&policy)), prepared])
            .passing([(Use::Other, "a checkpoint while it is written", model.on_host(kept))])
    }

    /// Of updates from so many answers.
    fn lanes(&self, answers: usize) -> Vec<(usize, usize)> {
        let lengths = vec![(self.prompt_tokens + self.answer_tokens, self.answer_tokens); self.rollouts];
        let batch: Vec<usize> = (0..answers.min(self.rollouts)).collect();
        lane_sizes(self.model.cut(), [&batch[..]], &lengths)
    }
}

/// What learning from pairs is made of.
pub struct DpoSizes<'a> {
    pub model: &'a ModelSizes,
    /// The pairs of each step.
    pub steps: &'a [Vec<usize>],
    pub is_checkpointing: bool,
    /// The better and the worse answer of each pair.
    pub pairs: &'a [[Lengths; 2]],
    pub keeps_checkpoints: bool,
}

impl DpoSizes<'_> {
    pub fn plan(&self) -> MemoryPlan {
        let (model, &ModelSizes { parameters, learnt, .. }) = (self.model, self.model);
        let both = |pair: &[Lengths; 2]| (pair[0].0 + pair[1].0, pair[0].1 + pair[1].1);
        let together: Vec<Lengths> = self.pairs.iter().map(both).collect();
        let lanes = lane_sizes(model.cut(), self.steps.iter().map(Vec::as_slice), &together);
        let answers: Vec<Lengths> = self.pairs.iter().flatten().copied().collect();
        let all: Vec<usize> = (0..answers.len()).collect();
        let reading = lane_sizes(model.cut(), [&all[..]], &answers);
        let scored = model.work(&reading, Purpose::Inference);
        let workspaces = model.workspaces(&lanes, true).max(model.workspaces(&reading, false));
        let texts: usize = answers.iter().map(|(tokens, targets)| tokens + targets).sum();
        let kept = usize::from(self.keeps_checkpoints) * 3 * learnt;
        let activations = model.work(&lanes, Purpose::training(self.is_checkpointing));
        let learning = lanes.len() * learnt + 2 * learnt + model.shared() + activations;
        MemoryPlan::default()
            .lasting(Use::Parameters, "parameters", parameters)
            .lasting(Use::Parameters, ANGLES, model.angles())
            .lasting(Use::Parameters, "adapters", if learnt == parameters { 0 } else { learnt })
            .lasting(Use::Parameters, SHARED, model.shared())
            .lasting(Use::Gradients, "gradients", lanes.len() * learnt)
            .lasting(Use::Optimizer, "moments", 2 * learnt)
            .lasting(Use::Activations, "training", activations)
            .lasting(Use::Other, "pairs", model.on_host(texts))
            .lasting(Use::Other, "scratch of threads", model.scratch(longest(&lanes)))
            .lasting(Use::Other, WORKSPACES, workspaces)
            // Before the first step, when nothing of the learning is there yet.
            .passing([(Use::Activations, "scoring of answers", scored.saturating_sub(learning))])
            .passing([(Use::Activations, "a piece of logits in the LM head", model.head(&lanes))])
            .passing([(Use::Other, "a checkpoint while it is written", model.on_host(kept))])
    }
}

/// A model that answers so many prompts; tokens of the longest of them, and of an answer.
pub fn generation(model: &ModelSizes, requests: usize, (prompt, answer): (usize, usize)) -> MemoryPlan {
    let (cache, rows) = model.answers(requests, (prompt, answer));
    let scratch = model.scratch_of_generation(prompt);
    MemoryPlan::default()
        .lasting(Use::Parameters, "parameters", model.parameters)
        .lasting(Use::Parameters, ANGLES, model.angles())
        .lasting(Use::Parameters, PREPARED, model.prepared())
        .lasting(Use::KvCache, "keys and values", cache)
        .lasting(Use::Activations, "sampling", rows)
        .lasting(Use::Other, "answers", model.on_host(requests * 2 * answer))
        .lasting(Use::Other, "scratch of threads", scratch)
        .lasting(Use::Other, WORKSPACES, model.workspaces_of_generation(requests, (prompt, answer)))
}

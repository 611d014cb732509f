//! Answers to learn from: who writes and judges them, what is known of each, and their scores by a model.

use super::batches::Example;
use super::shards::{Lane, Lanes};
use crate::failure::Result;
use crate::model::Decoder;
use crate::model::batch::Batch;
use crate::model::generate::{Finish, Generation, Request, Sampling, generate};
use crate::model::heads;
use crate::model::workspace::{Purpose, Workspace};

/// What a judge says of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    pub reward: f32,
    pub right: bool,
    pub formatted: bool,
}

/// One answer to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Index among the problems of the task.
    pub problem: usize,
    /// The answer's tokens, the ending one included.
    pub tokens: &'a [u32],
    pub finish: Finish,
}

/// What a policy acts in: it answers, and hears what its answers are worth. A judge alone is one, as answers are then sampled
/// from the policy; whoever has answers already hands them out in [`Environment::answers`].
pub trait Environment {
    /// Judges answers, in their order.
    ///
    /// # Errors
    /// As the judge has.
    fn judge(&mut self, answers: &[Answer]) -> Result<Vec<Judgement>>;

    /// Answers in the order of the requests, drawn from the policy.
    ///
    /// # Errors
    /// If a prompt is none that the model can go on from.
    fn answers(&mut self, policy: &Decoder, requests: &[Request], sampling: &Sampling) -> Result<Vec<Generation>> {
        generate(policy, requests, sampling)
    }
}

impl<Judge: FnMut(&[Answer]) -> Result<Vec<Judgement>>> Environment for Judge {
    fn judge(&mut self, answers: &[Answer]) -> Result<Vec<Judgement>> {
        self(answers)
    }
}

/// All that is known of one answer; vectors have an entry for each of its tokens.
pub struct Rollout {
    pub problem: usize,
    pub example: Example,
    pub finish: Finish,
    /// False keeps it out of every loss.
    pub counts: bool,
    pub judgement: Judgement,
    pub sampled_logp: Vec<f32>,
    /// log π_old
    pub logp: Vec<f32>,
    pub entropy: Vec<f32>,
    /// log π_ref
    pub reference_logp: Vec<f32>,
    /// V
    pub values: Vec<f32>,
    /// Â
    pub advantages: Vec<f32>,
    /// R
    pub returns: Vec<f32>,
}

impl Rollout {
    pub fn new(problem: usize, prompt: &[u32], generation: Generation) -> Rollout {
        let Generation { tokens, logprobs, finish } = generation;
        let none = Vec::new;
        Rollout {
            problem,
            example: Example::new(prompt, &tokens),
            finish,
            counts: true,
            judgement: Judgement { reward: 0.0, right: false, formatted: false },
            sampled_logp: logprobs,
            logp: none(),
            entropy: none(),
            reference_logp: none(),
            values: none(),
            advantages: none(),
            returns: none(),
        }
    }

    pub fn answer(&self) -> Answer<'_> {
        Answer { problem: self.problem, tokens: &self.example.tokens[self.example.prompt..], finish: self.finish }
    }

    /// How many tokens the answer has.
    pub fn length(&self) -> usize {
        self.example.targets()
    }

    /// log π_old − log π_ref of each token.
    pub fn log_ratios(&self) -> impl Iterator<Item = f32> {
        self.logp.iter().zip(&self.reference_logp).map(|(old, reference)| old - reference)
    }

    /// One advantage for all its tokens.
    pub fn give(&mut self, advantage: f32) {
        self.advantages = vec![advantage; self.length()];
    }
}

/// Fills in log π_old, its entropy and log π_ref by the training pass, so that ratios start at exactly 1.
pub fn rescore(rollouts: &mut [Rollout], policy: &Decoder, reference: &Decoder, temperature: f32) {
    let examples: Vec<&Example> = rollouts.iter().map(|rollout| &rollout.example).collect();
    let old = score(policy, &examples, |decoder, batch, workspace| {
        heads::log_probabilities(decoder, batch, temperature, workspace);
        vec![workspace.download_logp(batch), workspace.download_entropy(batch)]
    });
    let reference = log_probabilities(reference, &examples, temperature);
    for ((rollout, old), reference) in rollouts.iter_mut().zip(old).zip(reference) {
        [rollout.logp, rollout.entropy] = old.try_into().expect("two scores");
        rollout.reference_logp = reference;
    }
}

/// log p of every target of every example.
pub fn log_probabilities(decoder: &Decoder, examples: &[&Example], temperature: f32) -> Vec<Vec<f32>> {
    let scored = score(decoder, examples, |decoder, batch, workspace| {
        heads::log_probabilities(decoder, batch, temperature, workspace);
        vec![workspace.download_logp(batch)]
    });
    scored.into_iter().flatten().collect()
}

/// V of every token of every answer.
pub fn revalue(rollouts: &mut [Rollout], critic: &Decoder) {
    let examples: Vec<&Example> = rollouts.iter().map(|rollout| &rollout.example).collect();
    let values = score(critic, &examples, |decoder, batch, workspace| {
        heads::values(decoder, batch, workspace);
        vec![workspace.download_values(batch)]
    });
    for (rollout, values) in rollouts.iter_mut().zip(values) {
        [rollout.values] = values.try_into().expect("one score");
    }
}

/// Scores of every example by `decoder`, in their order: what `head` downloads, cut into examples.
fn score(
    decoder: &Decoder,
    examples: &[&Example],
    head: impl Fn(&Decoder, &Batch, &mut Workspace) -> Vec<Vec<f32>> + Sync,
) -> Vec<Vec<Vec<f32>>> {
    let all: Vec<usize> = (0..examples.len()).collect();
    let pass = |chunk: &[usize], lane: &mut Lane| {
        let workspace = &mut lane.workspace;
        let batch = Batch::of_examples(&workspace.stream, chunk.iter().map(|&index| examples[index]));
        decoder.forward(&batch, workspace);
        cut(chunk, examples, &head(decoder, &batch, workspace))
    };
    let lanes = &mut Lanes::new(decoder, Purpose::Inference);
    let mut scored = lanes.run(&all, |index| examples[index].tokens.len(), pass).concat();
    scored.sort_by_key(|(index, _)| *index);
    scored.into_iter().map(|(_, scores)| scores).collect()
}

/// Columns over a chunk's tokens, cut into its examples.
fn cut(chunk: &[usize], examples: &[&Example], columns: &[Vec<f32>]) -> Vec<(usize, Vec<Vec<f32>>)> {
    let mut end = 0;
    let answer = |&index: &usize| {
        let range = end..end + examples[index].targets();
        end = range.end;
        (index, columns.iter().map(|column| column[range.clone()].to_vec()).collect())
    };
    chunk.iter().map(answer).collect()
}

/// The answers of a chunk as one batch.
pub fn batch_of(rollouts: &[Rollout], chunk: &[usize], workspace: &Workspace) -> Batch {
    Batch::of_examples(&workspace.stream, chunk.iter().map(|&index| &rollouts[index].example))
}

/// One number a token over a chunk's answers.
pub fn column(rollouts: &[Rollout], chunk: &[usize], of: impl Fn(&Rollout) -> &Vec<f32>) -> Vec<f32> {
    chunk.iter().flat_map(|&index| of(&rollouts[index]).iter().copied()).collect()
}

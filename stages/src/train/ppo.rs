//! Proximal policy optimization (Schulman 2017) on whole answers, with a KL penalty to the model it starts from (Stiennon 2020).
//!
//! Symbols: `π` policy · `π_old` policy that wrote the answers · `π_ref` the model before training · `V` critic ·
//! `r_t` reward of token t · `Â_t` advantage · `R_t` return.
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
//! | `clip_fraction` | share of tokens, over all updates, whose ratio left 1 ± clip |
//! | `policy_loss`, `value_loss` | mean over updates |
//! | `explained_variance` | 1 − Var(R − V) / Var(R) over tokens, before the critic sees these answers |
//! | `first_ratio` | π / π_old farthest from 1 in the first minibatch; exactly 1, as old log-probabilities are rescored (0 while only the critic learns) |
//! | `sampler_gap` | largest difference between a token's log-probability when sampled and when rescored; 0 on the CPU |
//! | `grad_norm` | of the policy, before clipping, mean over updates |
//! | `learning_rate` | of the policy |

mod statistics;

use super::batches::{Example, epoch_order};
use super::checkpoint::{self, Checkpoint};
use super::host::{Host, Metrics};
use super::optimizer::{AdamW, Optimizer};
use super::schedule::Schedule;
use super::sft::{diverged, task_name};
use super::shards::{Lane, Lanes};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::batch::Batch;
use crate::model::generate::{Finish, Generation, Request, Sampling, generate};
use crate::model::workspace::Purpose;
use crate::model::{Decoder, heads};
use kernels::Segments;
use kernels::gae::{self, Discounts};
use kernels::ppo::PolicyLoss;
use serde::{Deserialize, Serialize};
use statistics::{explained_variance, largest_gap, mean, sampler_gap, whiten};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PpoSettings {
    pub iterations: u64,
    /// Answers written an iteration, each to another problem until all have had one.
    pub rollouts: usize,
    pub temperature: f32,
    pub answer_tokens_max: usize,
    /// Answers an update.
    pub minibatch: usize,
    /// Passes over an iteration's answers.
    pub epochs: u64,
    /// The same for the critic, which may learn longer from them.
    pub value_epochs: u64,
    /// First iterations in which only the critic learns.
    pub value_warmup: u64,
    pub policy_schedule: Schedule,
    pub value_rate: f64,
    pub policy_optimizer: AdamW,
    pub value_optimizer: AdamW,
    /// γ
    pub discount: f32,
    /// λ
    pub trace: f32,
    /// ε of the ratio.
    pub clip: f32,
    /// A new value may move so far from the old one before its loss goes flat; `None` does not limit it.
    pub value_clip: Option<f32>,
    /// β of the KL penalty.
    pub kl: f32,
    /// Advantages to mean 0 and deviation 1.
    pub whiten: bool,
    /// What an answer that ran into the length limit is given in place of the judge's reward; `None` leaves it to the judge.
    pub truncated_reward: Option<f32>,
}

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
    /// Index among the problems handed to [`train`].
    pub problem: usize,
    /// The answer's tokens, the ending one included.
    pub tokens: &'a [u32],
    pub finish: Finish,
}

/// Judges an iteration's answers, in their order.
pub type Judge<'a> = dyn FnMut(&[Answer]) -> Result<Vec<Judgement>> + 'a;

/// What is trained: the policy, judged on answers to `prompts`.
pub struct PpoTask<'a> {
    pub policy: Decoder,
    /// Prompts as tokens.
    pub prompts: &'a [Vec<u32>],
    pub settings: &'a PpoSettings,
    pub draw: &'a Draw,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    iteration: u64,
    policy_updates: u64,
    value_updates: u64,
    rows: Vec<Metrics>,
}

/// Trains the policy and returns it with the rows of metrics. The critic starts from the policy's weights with a head of its own.
/// Goes on from the host's last checkpoint of the same work, to the same bits: an iteration that was cut short is done again.
pub fn train(task: PpoTask, judge: &mut Judge, host: &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)> {
    if task.prompts.is_empty() {
        return Err(Failure::recipe("there is nothing to train on: no problems"));
    }
    let mut run = Run::new(task);
    run.resume(host);
    while run.state.iteration < run.settings.iterations {
        if host.cancelled() {
            run.save(host)?;
            return Err(Failure::Cancelled);
        }
        run.iterate(judge, host)?;
        if run.state.iteration.is_multiple_of(host.checkpoint_every()) {
            run.save(host)?;
        }
    }
    Ok((run.policy.decoder, run.state.rows))
}

/// A model that learns.
struct Learner {
    decoder: Decoder,
    optimizer: Optimizer,
    lanes: Lanes,
}

impl Learner {
    fn new(decoder: Decoder, settings: AdamW) -> Learner {
        let (optimizer, lanes) = (Optimizer::new(&decoder, settings), Lanes::new(&decoder, Purpose::Training));
        Learner { decoder, optimizer, lanes }
    }
}

struct Run<'a> {
    policy: Learner,
    critic: Learner,
    reference: Decoder,
    prompts: &'a [Vec<u32>],
    settings: &'a PpoSettings,
    draw: &'a Draw,
    /// Names this very work.
    task: String,
    state: State,
}

/// All that is known of one answer; vectors have an entry for each of its tokens.
struct Rollout {
    problem: usize,
    example: Example,
    finish: Finish,
    sampled_logp: Vec<f32>,
    /// log π_old
    logp: Vec<f32>,
    entropy: Vec<f32>,
    /// log π_ref
    reference_logp: Vec<f32>,
    /// V
    values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(task: PpoTask<'a>) -> Run<'a> {
        let PpoTask { policy, prompts, settings, draw } = task;
        let name = task_name("ppo", settings, &[&policy], draw, &prompts);
        let (reference, critic) = (policy.copy(), policy.with_value_head());
        let policy = Learner::new(policy, settings.policy_optimizer);
        let critic = Learner::new(critic, settings.value_optimizer);
        Run { policy, critic, reference, prompts, settings, draw, task: name, state: State::default() }
    }

    /// Write answers, judge them, learn from them.
    fn iterate(&mut self, judge: &mut Judge, host: &mut dyn Host) -> Result<()> {
        let mut rollouts = self.write_answers()?;
        let judgements = self.judge(&rollouts, judge)?;
        self.rescore(&mut rollouts);
        self.estimate_advantages(&mut rollouts, &judgements);
        let value_loss = self.learn_values(&rollouts);
        let warm = self.state.iteration < self.settings.value_warmup;
        let policy = if warm { PolicyUpdates::default() } else { self.learn_policy(&rollouts) };
        self.check_finite(value_loss, &policy, host)?;
        self.state.iteration += 1;
        let row = self.metrics(&rollouts, &judgements, value_loss, &policy);
        host.report(&row, self.settings.iterations);
        self.state.rows.push(row);
        Ok(())
    }

    /// y ~ π_old(· | x) for the iteration's problems.
    fn write_answers(&self) -> Result<Vec<Rollout>> {
        let first = self.state.iteration * self.settings.rollouts as u64;
        let seeds = self.draw.of("sample");
        let problems = self.problems(first);
        let requests: Vec<Request> = problems
            .iter()
            .enumerate()
            .map(|(place, &problem)| Request {
                prompt: &self.prompts[problem],
                seed: seeds.at(first + place as u64).bits(),
            })
            .collect();
        let sampling = Sampling {
            temperature: self.settings.temperature,
            tokens_max: self.settings.answer_tokens_max,
            ..Sampling::default()
        };
        let generations = generate(&self.policy.decoder, &requests, &sampling)?;
        let rollout = |(&problem, generation)| Rollout::new(problem, &self.prompts[problem], generation);
        Ok(problems.iter().zip(generations).map(rollout).collect())
    }

    /// The problems at places `first..first + rollouts` of an endless sequence of shuffled epochs.
    fn problems(&self, first: u64) -> Vec<usize> {
        let count = self.prompts.len() as u64;
        let mut order = (u64::MAX, Vec::new());
        (first..first + self.settings.rollouts as u64)
            .map(|place| {
                if order.0 != place / count {
                    order = (place / count, epoch_order(count as usize, &self.draw.of("problems"), place / count));
                }
                order.1[(place % count) as usize]
            })
            .collect()
    }

    fn judge(&self, rollouts: &[Rollout], judge: &mut Judge) -> Result<Vec<Judgement>> {
        let answers: Vec<Answer> = rollouts.iter().map(Rollout::answer).collect();
        let mut judgements = judge(&answers)?;
        assert_eq!(judgements.len(), answers.len(), "a judgement for each answer");
        for (judgement, answer) in judgements.iter_mut().zip(&answers) {
            match self.settings.truncated_reward {
                Some(reward) if answer.finish == Finish::Length => judgement.reward = reward,
                _ => {}
            }
        }
        Ok(judgements)
    }

    /// log π_old, its entropy, log π_ref and V by the training pass, so that ratios start at exactly 1.
    fn rescore(&mut self, rollouts: &mut [Rollout]) {
        let temperature = self.settings.temperature;
        let policy = score(&self.policy.decoder, rollouts, |decoder, batch, lane| {
            heads::log_probabilities(decoder, batch, temperature, &mut lane.workspace);
            vec![lane.workspace.download_logp(batch), lane.workspace.download_entropy(batch)]
        });
        let reference = score(&self.reference, rollouts, |decoder, batch, lane| {
            heads::log_probabilities(decoder, batch, temperature, &mut lane.workspace);
            vec![lane.workspace.download_logp(batch)]
        });
        let critic = score(&self.critic.decoder, rollouts, |decoder, batch, lane| {
            heads::values(decoder, batch, &mut lane.workspace);
            vec![lane.workspace.download_values(batch)]
        });
        for (((rollout, policy), reference), critic) in rollouts.iter_mut().zip(policy).zip(reference).zip(critic) {
            [rollout.logp, rollout.entropy] = policy.try_into().expect("two scores");
            [rollout.reference_logp] = reference.try_into().expect("one score");
            [rollout.values] = critic.try_into().expect("one score");
        }
    }

    /// r_t = −β (log π_old − log π_ref), and the judge's reward on the last token; then Â and R by GAE(γ, λ).
    fn estimate_advantages(&self, rollouts: &mut [Rollout], judgements: &[Judgement]) {
        let stream = self.policy.decoder.device().stream();
        let lengths: Vec<usize> = rollouts.iter().map(|rollout| rollout.logp.len()).collect();
        let segments = Segments::new(&stream, &lengths);
        let mut rewards = Vec::with_capacity(segments.tokens());
        for (rollout, judgement) in rollouts.iter().zip(judgements) {
            rewards.extend(rollout.log_ratios().map(|log_ratio| -self.settings.kl * log_ratio));
            *rewards.last_mut().expect("an answer has a token") += judgement.reward;
        }
        let rewards = stream.upload(&rewards);
        let values =
            stream.upload(&rollouts.iter().flat_map(|rollout| rollout.values.iter().copied()).collect::<Vec<_>>());
        let (mut advantages, mut returns) = (stream.uninit(rewards.len()), stream.uninit(rewards.len()));
        let discounts = Discounts { gamma: self.settings.discount, lambda: self.settings.trace };
        gae::forward(
            &stream,
            discounts,
            &segments,
            rewards.view(),
            values.view(),
            advantages.view_mut(),
            returns.view_mut(),
        );
        let mut advantages = stream.download(advantages.view());
        let returns = stream.download(returns.view());
        if self.settings.whiten {
            whiten(&mut advantages);
        }
        for (document, rollout) in rollouts.iter_mut().enumerate() {
            let range = segments.range(document);
            (rollout.advantages, rollout.returns) = (advantages[range.clone()].to_vec(), returns[range].to_vec());
        }
    }

    /// Maximizes E[min(ρ Â, clip(ρ, 1 ± ε) Â)] with ρ = π / π_old (eq. 7).
    fn learn_policy(&mut self, rollouts: &[Rollout]) -> PolicyUpdates {
        let mut updates = PolicyUpdates { rate: self.policy_rate(), ..PolicyUpdates::default() };
        for epoch in 0..self.settings.epochs {
            for minibatch in self.minibatches("policy", epoch) {
                let (decoder, settings, n) = (&self.policy.decoder, self.settings, tokens(rollouts, &minibatch));
                let pass = |chunk: &[usize], lane: &mut Lane| policy_pass(decoder, rollouts, chunk, n, settings, lane);
                let stats = self.policy.lanes.run(&minibatch, |index| rollouts[index].example.tokens.len(), pass);
                let gradients = self.policy.lanes.gradients();
                let grad_norm = self.policy.optimizer.step(&mut self.policy.decoder, gradients, updates.rate);
                updates.add(&stats, grad_norm);
            }
        }
        updates
    }

    /// Minimizes ½ E[(V − R)²]; returns its mean over the updates.
    fn learn_values(&mut self, rollouts: &[Rollout]) -> f64 {
        let mut losses = Vec::new();
        for epoch in 0..self.settings.value_epochs {
            for minibatch in self.minibatches("value", epoch) {
                let (decoder, settings, n) = (&self.critic.decoder, self.settings, tokens(rollouts, &minibatch));
                let pass = |chunk: &[usize], lane: &mut Lane| value_pass(decoder, rollouts, chunk, n, settings, lane);
                let loss = self.critic.lanes.run(&minibatch, |index| rollouts[index].example.tokens.len(), pass);
                let gradients = self.critic.lanes.gradients();
                let grad_norm =
                    self.critic.optimizer.step(&mut self.critic.decoder, gradients, self.settings.value_rate);
                losses.push(if grad_norm.is_finite() { loss.into_iter().sum() } else { f64::NAN });
            }
        }
        mean(losses)
    }

    fn minibatches(&self, of: &str, epoch: u64) -> Vec<Vec<usize>> {
        let draw = self.draw.of("minibatches").of(of).at(self.state.iteration);
        let order = epoch_order(self.settings.rollouts, &draw, epoch);
        order.chunks(self.settings.minibatch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// The schedule runs over the iterations in which the policy learns.
    fn policy_rate(&self) -> f64 {
        let warm = self.settings.value_warmup;
        let (done, total) =
            (self.state.iteration.saturating_sub(warm) + 1, self.settings.iterations.saturating_sub(warm));
        self.settings.policy_schedule.rate(done as f64 / (total + 1) as f64)
    }

    fn metrics(
        &self,
        rollouts: &[Rollout],
        judgements: &[Judgement],
        value_loss: f64,
        policy: &PolicyUpdates,
    ) -> Metrics {
        let share = |said: &dyn Fn(&Judgement) -> f64| mean(judgements.iter().map(said));
        let of = |value: &dyn Fn(&Rollout) -> f64| mean(rollouts.iter().map(value));
        let values = [
            ("reward", share(&|judgement| judgement.reward as f64)),
            ("accuracy", share(&|judgement| judgement.right as u8 as f64)),
            ("format", share(&|judgement| judgement.formatted as u8 as f64)),
            ("length", of(&|rollout| rollout.logp.len() as f64)),
            ("truncated", of(&|rollout| (rollout.finish == Finish::Length) as u8 as f64)),
            ("kl", of(&|rollout| rollout.log_ratios().map(f64::from).sum())),
            ("entropy", mean(rollouts.iter().flat_map(|rollout| &rollout.entropy).map(|&entropy| entropy as f64))),
            ("approx_kl", policy.mean(policy.approx_kl)),
            ("clip_fraction", policy.mean(policy.clipped)),
            ("policy_loss", policy.mean(policy.loss)),
            ("value_loss", value_loss),
            ("explained_variance", explained_variance(rollouts)),
            ("first_ratio", policy.first_ratio),
            ("sampler_gap", sampler_gap(rollouts)),
            ("grad_norm", policy.mean(policy.grad_norm)),
            ("learning_rate", policy.rate),
        ];
        Metrics::new(self.state.iteration, values)
    }

    fn check_finite(&self, value_loss: f64, policy: &PolicyUpdates, host: &dyn Host) -> Result<()> {
        if value_loss.is_finite() && policy.loss.is_finite() && policy.grad_norm.is_finite() {
            return Ok(());
        }
        let what =
            format!("value loss `{value_loss}`, policy loss `{}`, gradient norm `{}`", policy.loss, policy.grad_norm);
        Err(diverged("iteration", self.state.iteration + 1, &what, host))
    }

    fn save(&self, host: &dyn Host) -> Result<()> {
        let Some(folder) = host.checkpoint_folder() else { return Ok(()) };
        let mut state = self.state.clone();
        state.policy_updates = self.policy.optimizer.updates();
        state.value_updates = self.critic.optimizer.updates();
        let task = self.task.clone();
        let mut checkpoint = Checkpoint { step: self.state.iteration, task, state, arrays: BTreeMap::new() };
        self.policy.optimizer.save("policy", &self.policy.decoder, &mut checkpoint);
        self.critic.optimizer.save("critic", &self.critic.decoder, &mut checkpoint);
        checkpoint::save(folder, &checkpoint)
    }

    fn resume(&mut self, host: &dyn Host) {
        let found = host.checkpoint_folder().and_then(|folder| checkpoint::load::<State>(folder, &self.task));
        let Some(checkpoint) = found else { return };
        let Learner { decoder, optimizer, .. } = &mut self.policy;
        let policy = optimizer.restore("policy", decoder, &checkpoint, checkpoint.state.policy_updates);
        let Learner { decoder, optimizer, .. } = &mut self.critic;
        let critic = optimizer.restore("critic", decoder, &checkpoint, checkpoint.state.value_updates);
        assert!(policy && critic, "a checkpoint of this very task holds its arrays");
        self.state = checkpoint.state;
    }
}

impl Rollout {
    fn new(problem: usize, prompt: &[u32], generation: Generation) -> Rollout {
        let Generation { tokens, logprobs, finish } = generation;
        let example = Example::new(prompt, &tokens);
        let none = Vec::new;
        Rollout {
            problem,
            example,
            finish,
            sampled_logp: logprobs,
            logp: none(),
            entropy: none(),
            reference_logp: none(),
            values: none(),
            advantages: none(),
            returns: none(),
        }
    }

    fn answer(&self) -> Answer<'_> {
        Answer { problem: self.problem, tokens: &self.example.tokens[self.example.prompt..], finish: self.finish }
    }

    /// log π_old − log π_ref of each token.
    fn log_ratios(&self) -> impl Iterator<Item = f32> {
        self.logp.iter().zip(&self.reference_logp).map(|(old, reference)| old - reference)
    }
}

/// Sums over the updates of one iteration.
#[derive(Debug, Clone, Default)]
struct PolicyUpdates {
    count: u64,
    loss: f64,
    clipped: f64,
    approx_kl: f64,
    grad_norm: f64,
    first_ratio: f64,
    rate: f64,
}

impl PolicyUpdates {
    fn add(&mut self, chunks: &[(PolicyLoss, f64)], grad_norm: f64) {
        if self.count == 0 {
            self.first_ratio = chunks.iter().map(|(_, gap)| gap.exp()).fold(1.0, f64::max);
        }
        self.count += 1;
        self.loss += chunks.iter().map(|(stats, _)| stats.loss).sum::<f64>();
        self.clipped += chunks.iter().map(|(stats, _)| stats.clipped).sum::<f64>();
        self.approx_kl += chunks.iter().map(|(stats, _)| stats.kl).sum::<f64>();
        self.grad_norm += grad_norm;
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.count.max(1) as f64
    }
}

/// Scores of every answer by `decoder`, in the answers' order: what `head` downloads, cut into answers.
fn score(
    decoder: &Decoder,
    rollouts: &[Rollout],
    head: impl Fn(&Decoder, &Batch, &mut Lane) -> Vec<Vec<f32>> + Sync,
) -> Vec<Vec<Vec<f32>>> {
    let all: Vec<usize> = (0..rollouts.len()).collect();
    let mut lanes = Lanes::new(decoder, Purpose::Inference);
    let mut scored = lanes
        .run(
            &all,
            |index| rollouts[index].example.tokens.len(),
            |chunk, lane| {
                let batch =
                    Batch::of_examples(&lane.workspace.stream, chunk.iter().map(|&index| &rollouts[index].example));
                decoder.forward(&batch, &mut lane.workspace);
                let columns = head(decoder, &batch, lane);
                cut(chunk, rollouts, &columns)
            },
        )
        .concat();
    scored.sort_by_key(|(index, _)| *index);
    scored.into_iter().map(|(_, scores)| scores).collect()
}

/// Columns over a chunk's tokens, cut into its answers.
fn cut(chunk: &[usize], rollouts: &[Rollout], columns: &[Vec<f32>]) -> Vec<(usize, Vec<Vec<f32>>)> {
    let mut end = 0;
    let answer = |&index: &usize| {
        let range = end..end + rollouts[index].example.targets();
        end = range.end;
        (index, columns.iter().map(|column| column[range.clone()].to_vec()).collect())
    };
    chunk.iter().map(answer).collect()
}

fn policy_pass(
    decoder: &Decoder,
    rollouts: &[Rollout],
    chunk: &[usize],
    n: usize,
    settings: &PpoSettings,
    lane: &mut Lane,
) -> (PolicyLoss, f64) {
    let Lane { workspace, gradients } = lane;
    let batch = batch_of(rollouts, chunk, workspace);
    decoder.forward(&batch, workspace);
    heads::log_probabilities(decoder, &batch, settings.temperature, workspace);
    let old = column(rollouts, chunk, |rollout| &rollout.logp);
    let gap = largest_gap(&workspace.download_logp(&batch), &old);
    let old = workspace.stream.upload(&old);
    let advantages = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.advantages));
    let stats = workspace.policy_loss(&batch, old.view(), advantages.view(), settings.clip, 1.0 / n as f32);
    heads::log_probabilities_backward(decoder, &batch, settings.temperature, workspace, gradients);
    decoder.backward(&batch, workspace, gradients);
    (stats, gap)
}

fn value_pass(
    decoder: &Decoder,
    rollouts: &[Rollout],
    chunk: &[usize],
    n: usize,
    settings: &PpoSettings,
    lane: &mut Lane,
) -> f64 {
    let Lane { workspace, gradients } = lane;
    let batch = batch_of(rollouts, chunk, workspace);
    decoder.forward(&batch, workspace);
    heads::values(decoder, &batch, workspace);
    let old = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.values));
    let returns = workspace.stream.upload(&column(rollouts, chunk, |rollout| &rollout.returns));
    let loss = workspace.value_loss(&batch, old.view(), returns.view(), settings.value_clip, 1.0 / n as f32);
    heads::values_backward(decoder, &batch, workspace, gradients);
    decoder.backward(&batch, workspace, gradients);
    loss
}

fn batch_of(rollouts: &[Rollout], chunk: &[usize], workspace: &crate::model::workspace::Workspace) -> Batch {
    Batch::of_examples(&workspace.stream, chunk.iter().map(|&index| &rollouts[index].example))
}

fn column(rollouts: &[Rollout], chunk: &[usize], of: impl Fn(&Rollout) -> &Vec<f32>) -> Vec<f32> {
    chunk.iter().flat_map(|&index| of(&rollouts[index]).iter().copied()).collect()
}

fn tokens(rollouts: &[Rollout], minibatch: &[usize]) -> usize {
    minibatch.iter().map(|&index| rollouts[index].logp.len()).sum()
}

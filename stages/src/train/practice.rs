//! What learning from one's own answers has in common, whatever the algorithm: answers, rewards, scores, minibatches, updates,
//! metrics, checkpoints and guards. The algorithms (`ppo`, `grpo`, `rloo`) say how advantages come about, in their own files.
//!
//! Symbols: `π` policy · `π_old` policy that wrote the answers · `π_ref` the model before training · `β` weight of the divergence.

mod told;

use super::batches::epoch_order;
use super::checkpoint::{self, Checkpoint};
use super::guard::Diverged;
use super::host::{Host, Metrics};
use super::learner::Learner;
use super::optimizer::AdamW;
use super::policy::{self, Objective, Over, Ratio, Update, ValueObjective};
use super::rollouts::{Environment, Rollout, rescore};
use super::schedule::Schedule;
use super::sft::task_name;
use super::statistics::mean;
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::Decoder;
use crate::model::generate::{Finish, Generation, Request, Sampling};
use kernels::ppo::Clip;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use told::{PolicyUpdates, ValueUpdates};

/// How a policy practises; what is the algorithm's own stands in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PracticeSettings {
    pub iterations: u64,
    /// Answers written an iteration, a multiple of `group`.
    pub rollouts: usize,
    /// Answers to one problem in an iteration; each group gets another problem until all have had one.
    pub group: usize,
    pub temperature: f32,
    pub answer_tokens_max: usize,
    /// Answers an update.
    pub minibatch: usize,
    /// Passes over an iteration's answers.
    pub epochs: u64,
    /// First iterations in which the policy does not learn.
    pub idle: u64,
    pub schedule: Schedule,
    pub optimizer: AdamW,
    /// ε below and above a ratio of 1.
    pub clip: (f32, f32),
    pub kl: Divergence,
    /// An iteration's further passes are left out once the mean k3 of π from π_old over a pass is above this.
    pub kl_stop: Option<f64>,
    /// The run stops as diverged once the mean Σ log π_old − log π_ref of an iteration's answers is above this. Changes no result.
    #[serde(skip)]
    pub kl_limit: Option<f64>,
    /// c_H, the weight of the entropy in the loss.
    pub entropy: f32,
    pub truncated: Truncated,
    /// Activations inside the layers are computed again on the way back, not kept. The same bits in less memory and more time.
    #[serde(skip)]
    pub checkpointing: bool,
}

/// What holds the policy near the model that it started from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// β, or where it starts.
    pub beta: f32,
    pub place: KlAs,
    pub adaptive: Option<Adaptive>,
}

/// Where the divergence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlAs {
    /// −β k1 in the reward of each token, k1 = log π_old − log π_ref (Stiennon 2020).
    Reward,
    /// +β k3 in the loss, k3 = π_ref / π − log(π_ref / π) − 1 (Shao 2024).
    Loss,
}

/// β that follows the divergence (Ziegler 2019, section 2.2): β ← β (1 + n/h · clip(KL/target − 1, ±0.2)), n answers later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adaptive {
    /// Nats an answer.
    pub target: f64,
    /// h, in answers.
    pub horizon: f64,
}

/// What becomes of an answer that ran into the length limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Truncated {
    /// What it is given in place of the judge's reward; `None` leaves it to the judge.
    pub reward: Option<f32>,
    /// It is kept out of every loss (Yu 2025, overlong filtering).
    pub masked: bool,
}

/// What is trained: the policy, judged on answers to `prompts`.
pub struct Task<'a> {
    pub policy: Decoder,
    /// Prompts as tokens.
    pub prompts: &'a [Vec<u32>],
    /// What failures call the problems, as many as prompts; their numbers where there are none.
    pub ids: &'a [String],
    pub draw: &'a Draw,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub iteration: u64,
    policy_updates: u64,
    value_updates: u64,
    /// β, where it moves.
    beta: Option<f64>,
    rows: Vec<Metrics>,
}

pub(super) struct Practice<'a> {
    pub policy: Learner,
    /// A critic beside the policy, where an algorithm has one.
    pub critic: Option<Learner>,
    reference: Decoder,
    prompts: &'a [Vec<u32>],
    ids: &'a [String],
    pub settings: &'a PracticeSettings,
    draw: &'a Draw,
    /// Names this very work.
    task: String,
    pub state: State,
}

impl<'a> Practice<'a> {
    /// `whole` is everything that the algorithm's result depends on besides the task. `make` gives the model that learns from the
    /// task's, and a critic beside it.
    pub fn new(
        kind: &str,
        task: Task<'a>,
        settings: &'a PracticeSettings,
        whole: &impl Serialize,
        make: impl FnOnce(Decoder) -> (Decoder, Option<Learner>),
    ) -> Result<Practice<'a>> {
        let Task { policy, prompts, ids, draw } = task;
        if prompts.is_empty() {
            return Err(Failure::recipe("there is nothing to train on: no problems"));
        }
        assert!(settings.rollouts.is_multiple_of(settings.group.max(1)), "an iteration is made of whole groups");
        let task = task_name(kind, whole, &[&policy], draw, &prompts);
        let reference = policy.at_rest();
        let (policy, critic) = make(policy);
        let policy = Learner::new(policy, settings.optimizer, settings.checkpointing);
        Ok(Practice { policy, critic, reference, prompts, ids, settings, draw, task, state: State::default() })
    }

    /// Whether another iteration is to be done; a stop keeps what there is.
    pub fn goes_on(&self, host: &mut dyn Host) -> Result<bool> {
        let more = self.state.iteration < self.settings.iterations;
        if more && host.cancelled() {
            self.save(host)?;
            return Err(Failure::Cancelled);
        }
        Ok(more)
    }

    /// y ~ π_old(· | x) for the iteration's problems, judged, with log π_old and log π_ref by the training pass.
    pub fn roll_out(&mut self, world: &mut dyn Environment, host: &dyn Host) -> Result<Vec<Rollout>> {
        let mut rollouts = self.write_answers(world)?;
        self.judge(&mut rollouts, world)?;
        rescore(&mut rollouts, &self.policy.decoder, &self.reference, self.settings.temperature);
        self.check_answers(&rollouts, host)?;
        Ok(rollouts)
    }

    fn write_answers(&self, world: &mut dyn Environment) -> Result<Vec<Rollout>> {
        let first = self.state.iteration * self.settings.rollouts as u64;
        let seeds = self.draw.of("sample");
        let problems = self.problems(first);
        let places = problems.iter().zip(first..);
        let request =
            |(&problem, place): (&usize, u64)| Request { prompt: &self.prompts[problem], seed: seeds.at(place).bits() };
        let requests: Vec<Request> = places.map(request).collect();
        let sampling = Sampling {
            temperature: self.settings.temperature,
            tokens_max: self.settings.answer_tokens_max,
            ..Sampling::default()
        };
        let generations = world.answers(&self.policy.decoder, &requests, &sampling)?;
        assert_eq!(generations.len(), problems.len(), "an answer for each request");
        let rollout =
            |(&problem, generation): (&usize, Generation)| Rollout::new(problem, &self.prompts[problem], generation);
        Ok(problems.iter().zip(generations).map(rollout).collect())
    }

    /// The problems at places `first..first + rollouts` of an endless sequence of shuffled epochs, each `group` times.
    fn problems(&self, first: u64) -> Vec<usize> {
        let (count, group) = (self.prompts.len() as u64, self.settings.group.max(1) as u64);
        let mut order = (u64::MAX, Vec::new());
        (first..first + self.settings.rollouts as u64)
            .map(|place| {
                let (epoch, place) = (place / group / count, place / group % count);
                if order.0 != epoch {
                    order = (epoch, epoch_order(count as usize, &self.draw.of("problems"), epoch));
                }
                order.1[place as usize]
            })
            .collect()
    }

    fn judge(&self, rollouts: &mut [Rollout], world: &mut dyn Environment) -> Result<()> {
        let answers: Vec<_> = rollouts.iter().map(Rollout::answer).collect();
        let judgements = world.judge(&answers)?;
        assert_eq!(judgements.len(), rollouts.len(), "a judgement for each answer");
        let Truncated { reward, masked } = self.settings.truncated;
        for (rollout, judgement) in rollouts.iter_mut().zip(judgements) {
            let cut_short = rollout.finish == Finish::Length;
            rollout.judgement = judgement;
            rollout.counts = !(masked && cut_short);
            if let (true, Some(reward)) = (cut_short, reward) {
                rollout.judgement.reward = reward;
            }
        }
        Ok(())
    }

    /// A reward or a log-probability that is no number would be learnt from without a sound.
    fn check_answers(&self, rollouts: &[Rollout], host: &dyn Host) -> Result<()> {
        let is_sound = |rollout: &Rollout| {
            let scores = rollout.logp.iter().chain(&rollout.reference_logp).chain(&rollout.values);
            rollout.judgement.reward.is_finite() && scores.copied().all(f32::is_finite)
        };
        let unsound: Vec<usize> = (0..rollouts.len()).filter(|&index| !is_sound(&rollouts[index])).collect();
        let Some(&first) = unsound.first() else { return self.check_divergence(rollouts, host) };
        let what = format!(
            "`{}` of {} answers have a reward or a log-probability that is no number (the first: reward `{}`)",
            unsound.len(),
            rollouts.len(),
            rollouts[first].judgement.reward
        );
        Err(self.diverged(what, rollouts, &unsound, host))
    }

    fn check_divergence(&self, rollouts: &[Rollout], host: &dyn Host) -> Result<()> {
        let kl = mean(rollouts.iter().map(|rollout| rollout.log_ratios().map(f64::from).sum()));
        match self.settings.kl_limit {
            Some(most) if kl > most => {
                let what =
                    format!("answers are `{kl:.3}` nats from the starting model, more than `kl_limit`, `{most}`");
                let all: Vec<usize> = (0..rollouts.len()).collect();
                Err(self.diverged(what, rollouts, &all, host))
            }
            _ => Ok(()),
        }
    }

    /// β now.
    pub fn beta(&self) -> f32 {
        self.state.beta.map_or(self.settings.kl.beta, |beta| beta as f32)
    }

    /// β where the divergence counts in the reward, else 0.
    pub fn beta_in_reward(&self) -> f32 {
        if self.settings.kl.place == KlAs::Reward { self.beta() } else { 0.0 }
    }

    pub fn objective(&self, ratio: Ratio, over: Over) -> Objective {
        let (low, high) = self.settings.clip;
        Objective {
            temperature: self.settings.temperature,
            clip: Clip { low, high },
            ratio,
            over,
            kl: if self.settings.kl.place == KlAs::Loss { self.beta() } else { 0.0 },
            entropy: self.settings.entropy,
            value: None,
        }
    }

    /// Whether the policy does not learn yet.
    pub fn is_idle(&self) -> bool {
        self.state.iteration < self.settings.idle
    }

    /// Updates the policy from the answers, some passes over them in minibatches.
    pub fn learn_policy(
        &mut self,
        rollouts: &[Rollout],
        objective: Objective,
        host: &mut dyn Host,
    ) -> Result<PolicyUpdates> {
        let mut updates = PolicyUpdates { rate: self.policy_rate(), ..PolicyUpdates::default() };
        for epoch in 0..self.settings.epochs {
            let mut pass = PolicyUpdates::default();
            for minibatch in self.minibatches("policy", self.settings.minibatch, epoch) {
                let done = policy::update(&mut self.policy, rollouts, &minibatch, objective, updates.rate);
                let Some(update) = done else { continue };
                self.check_update("policy loss", update.policy.loss, &update, (rollouts, &minibatch), host)?;
                host.updated("policy", update.policy.loss);
                if objective.value.is_some() {
                    host.updated("value", update.value);
                }
                updates.add(&update);
                pass.add(&update);
            }
            if self.settings.kl_stop.is_some_and(|most| pass.mean(pass.approx_kl) > most) {
                break;
            }
        }
        Ok(updates)
    }

    /// Updates the critic from the answers, in minibatches of its own.
    pub fn learn_values(
        &mut self,
        rollouts: &[Rollout],
        value: ValueObjective,
        (epochs, minibatch, rate): (u64, usize, f64),
        host: &mut dyn Host,
    ) -> Result<ValueUpdates> {
        let objective = self.objective(Ratio::Token, Over::Tokens);
        let mut updates = ValueUpdates::default();
        for epoch in 0..epochs {
            for minibatch in self.minibatches("value", minibatch, epoch) {
                let critic = self.critic.as_mut().expect("a critic beside the policy");
                let done = policy::update_critic(critic, rollouts, &minibatch, objective, value, rate);
                let Some(update) = done else { continue };
                self.check_update("value loss", update.value, &update, (rollouts, &minibatch), host)?;
                host.updated("value", update.value);
                updates.losses.push(update.value);
            }
        }
        Ok(updates)
    }

    fn minibatches(&self, of: &str, size: usize, epoch: u64) -> Vec<Vec<usize>> {
        let order = epoch_order(self.settings.rollouts, &minibatch_draw(self.draw, of, self.state.iteration), epoch);
        order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// The schedule runs over the iterations in which the policy learns.
    fn policy_rate(&self) -> f64 {
        let idle = self.settings.idle;
        let (done, total) =
            (self.state.iteration.saturating_sub(idle) + 1, self.settings.iterations.saturating_sub(idle));
        self.settings.schedule.rate(done as f64 / (total + 1) as f64)
    }

    fn check_update(
        &self,
        of: &str,
        loss: f64,
        update: &Update,
        (rollouts, minibatch): (&[Rollout], &[usize]),
        host: &dyn Host,
    ) -> Result<()> {
        if update.is_finite() {
            return Ok(());
        }
        let what = format!("{of} `{loss}`, gradient norm `{}`", update.grad_norm);
        Err(self.diverged(what, rollouts, minibatch, host))
    }

    fn diverged(&self, what: String, rollouts: &[Rollout], minibatch: &[usize], host: &dyn Host) -> Failure {
        let number = |problem: usize| format!("problem {problem}");
        let name = |&index: &usize| {
            let problem = rollouts[index].problem;
            self.ids.get(problem).cloned().unwrap_or_else(|| number(problem))
        };
        let names: Vec<String> = minibatch.iter().map(name).collect();
        let rows = names.iter().map(String::as_str).collect();
        let diverged = Diverged { unit: "iteration", count: self.state.iteration + 1, what, rows };
        diverged.failure_keeping(&self.checkpoint(), host)
    }

    /// Ends an iteration: a row of metrics, β for the next one, and a checkpoint where one is due.
    pub fn close(
        &mut self,
        rollouts: &[Rollout],
        policy: &PolicyUpdates,
        value: Option<&ValueUpdates>,
        extra: &[(&str, f64)],
        host: &mut dyn Host,
    ) -> Result<()> {
        self.state.iteration += 1;
        let row = self.metrics(rollouts, policy, value, extra);
        host.report(&row, self.settings.iterations);
        self.adapt_beta(row.get("kl"));
        self.state.rows.push(row);
        if self.state.iteration.is_multiple_of(host.checkpoint_every()) {
            self.save(host)?;
        }
        Ok(())
    }

    fn adapt_beta(&mut self, kl: f64) {
        let Some(Adaptive { target, horizon }) = self.settings.kl.adaptive else { return };
        let error = (kl / target - 1.0).clamp(-0.2, 0.2);
        let beta = self.state.beta.unwrap_or(f64::from(self.settings.kl.beta));
        self.state.beta = Some(beta * (1.0 + error * self.settings.rollouts as f64 / horizon));
    }

    /// The trained model with the rows of metrics.
    pub fn finish(self) -> (Decoder, Vec<Metrics>) {
        (self.policy.decoder, self.state.rows)
    }

    fn checkpoint(&self) -> Checkpoint<State> {
        let mut state = self.state.clone();
        state.policy_updates = self.policy.optimizer.updates();
        state.value_updates = self.critic.as_ref().map_or(0, |critic| critic.optimizer.updates());
        let task = self.task.clone();
        let mut checkpoint = Checkpoint { step: self.state.iteration, task, state, arrays: BTreeMap::new() };
        self.policy.save("policy", &mut checkpoint);
        if let Some(critic) = &self.critic {
            critic.save("critic", &mut checkpoint);
        }
        checkpoint
    }

    fn save(&self, host: &dyn Host) -> Result<()> {
        let Some(folder) = host.checkpoint_folder() else { return Ok(()) };
        checkpoint::save(folder, &self.checkpoint())
    }

    /// Goes on from the host's last checkpoint of the same work, to the same bits: an iteration that was cut short is done again.
    pub fn resume(&mut self, host: &dyn Host) {
        let found = host.checkpoint_folder().and_then(|folder| checkpoint::load::<State>(folder, &self.task));
        let Some(checkpoint) = found else { return };
        let fits = self.policy.restore("policy", &checkpoint, checkpoint.state.policy_updates);
        let restore = |critic: &mut Learner| critic.restore("critic", &checkpoint, checkpoint.state.value_updates);
        let fits = fits && self.critic.as_mut().is_none_or(restore);
        assert!(fits, "a checkpoint of this very task holds its arrays");
        self.state = checkpoint.state;
    }
}

/// Draws the minibatches of an iteration: of the `policy` or of the `value`.
pub fn minibatch_draw(draw: &Draw, of: &str, iteration: u64) -> Draw {
    draw.of("minibatches").of(of).at(iteration)
}

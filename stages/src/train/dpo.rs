//! Direct preference optimization (Rafailov 2023): of two answers the better one is made likelier, measured from the model at
//! the start; no sampling, no reward, no critic.
//!
//! Symbols: `π` policy · `π_ref` the model before training · `y_w`, `y_l` chosen and rejected answer · `β` strength of the hold on
//! π_ref · `h = β (log π/π_ref(y_w) − log π/π_ref(y_l))` margin.
//!
//! | metric | is, as a mean over the step's pairs unless it says otherwise |
//! |---|---|
//! | `loss` | −(1 − ε) log σ(h) − ε log σ(−h), before the update |
//! | `accuracy` | share of pairs with a positive margin |
//! | `margin`, `rewards_chosen`, `rewards_rejected` | h; β log π/π_ref of either answer |
//! | `grad_norm` | Euclidean norm of the whole gradient before clipping |
//! | `learning_rate` | of this step |
//! | `epoch` | passes over the pairs so far |

use super::batches::{Example, epoch_order};
use super::checkpoint::{self, Checkpoint};
use super::guard::Diverged;
use super::host::{Host, Metrics};
use super::learner::Learner;
use super::optimizer::AdamW;
use super::rollouts::log_probabilities;
use super::schedule::Schedule;
use super::sft::task_name;
use super::shards::Lane;
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::batch::Batch;
use crate::model::{Decoder, heads};
use kernels::Segments;
use kernels::dpo::{DpoLoss, Preference};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DpoSettings {
    /// Passes over the pairs.
    pub epochs: u64,
    /// Pairs a step.
    pub batch: usize,
    pub schedule: Schedule,
    pub optimizer: AdamW,
    /// β
    pub beta: f32,
    /// ε, the share of pairs that are thought to be the wrong way round.
    pub smoothing: f32,
    /// As in [`super::practice::PracticeSettings`].
    #[serde(skip)]
    pub checkpointing: bool,
}

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What failures call it: its row.
    pub id: String,
    pub chosen: Example,
    pub rejected: Example,
}

impl Pair {
    fn tokens(&self) -> usize {
        self.chosen.tokens.len() + self.rejected.tokens.len()
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    updates: u64,
    rows: Vec<Metrics>,
}

struct Run<'a> {
    policy: Learner,
    pairs: &'a [Pair],
    /// log π_ref of each answer's tokens: each chosen answer, then its rejected one.
    reference: Vec<Vec<f32>>,
    settings: &'a DpoSettings,
    draw: &'a Draw,
    /// Names this very work.
    task: String,
    state: State,
}

/// Trains the policy and returns it with the rows of metrics. Goes on from the host's last checkpoint of the same work, to the
/// same bits.
pub fn train(
    policy: Decoder,
    pairs: &[Pair],
    settings: &DpoSettings,
    draw: &Draw,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    if pairs.is_empty() {
        return Err(Failure::recipe("there is nothing to train on: no pairs of a better and a worse answer"));
    }
    let mut run = Run::new(policy, pairs, settings, draw);
    run.resume(host);
    while run.state.updates < run.total() {
        if host.cancelled() {
            run.save(host)?;
            return Err(Failure::Cancelled);
        }
        run.step(host)?;
        if run.state.updates.is_multiple_of(host.checkpoint_every()) {
            run.save(host)?;
        }
    }
    Ok((run.policy.decoder, run.state.rows))
}

impl<'a> Run<'a> {
    fn new(policy: Decoder, pairs: &'a [Pair], settings: &'a DpoSettings, draw: &'a Draw) -> Run<'a> {
        let task = task_name("dpo", settings, &[&policy], draw, &pairs);
        let examples: Vec<&Example> = pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]).collect();
        let reference = log_probabilities(&policy, &examples, 1.0);
        let policy = Learner::new(policy, settings.optimizer, settings.checkpointing);
        Run { policy, pairs, reference, settings, draw, task, state: State::default() }
    }

    fn steps_an_epoch(&self) -> u64 {
        self.pairs.len().div_ceil(self.settings.batch.max(1)) as u64
    }

    fn total(&self) -> u64 {
        self.settings.epochs * self.steps_an_epoch()
    }

    /// The pairs of the next step.
    fn batch(&self) -> Vec<usize> {
        let (epoch, step) = (self.state.updates / self.steps_an_epoch(), self.state.updates % self.steps_an_epoch());
        steps_of(self.pairs.len(), self.settings.batch, self.draw, epoch).swap_remove(step as usize)
    }

    /// Minimizes −E[log σ(h)] (eq. 7).
    fn step(&mut self, host: &mut dyn Host) -> Result<()> {
        let (batch, settings) = (self.batch(), self.settings);
        let preference = Preference { beta: settings.beta, smoothing: settings.smoothing };
        let weight = 1.0 / batch.len() as f32;
        let (pairs, reference) = (self.pairs, &self.reference);
        self.policy.decoder.share();
        let Learner { decoder, lanes, .. } = &mut self.policy;
        let pass = |chunk: &[usize], lane: &mut Lane| {
            preference_pass(decoder, (pairs, reference, chunk), preference, weight, lane)
        };
        let sums = lanes.run(&batch, |index| pairs[index].tokens(), pass).into_iter().fold(DpoLoss::default(), added);
        let rate = settings.schedule.rate((self.state.updates + 1) as f64 / (self.total() + 1) as f64);
        let grad_norm = self.policy.step(rate);
        if !(sums.loss.is_finite() && grad_norm.is_finite()) {
            return Err(self.diverged(sums.loss / batch.len() as f64, grad_norm, &batch, host));
        }
        self.record(&sums, batch.len() as f64, (grad_norm, rate), host);
        Ok(())
    }

    fn record(&mut self, sums: &DpoLoss, count: f64, (grad_norm, rate): (f64, f64), host: &mut dyn Host) {
        self.state.updates += 1;
        let values = [
            ("loss", sums.loss / count),
            ("accuracy", sums.right / count),
            ("margin", (sums.chosen - sums.rejected) / count),
            ("rewards_chosen", sums.chosen / count),
            ("rewards_rejected", sums.rejected / count),
            ("grad_norm", grad_norm),
            ("learning_rate", rate),
            ("epoch", self.state.updates as f64 / self.steps_an_epoch() as f64),
        ];
        let row = Metrics::new(self.state.updates, values);
        host.report(&row, self.total());
        self.state.rows.push(row);
    }

    fn diverged(&self, loss: f64, grad_norm: f64, batch: &[usize], host: &dyn Host) -> Failure {
        let what = format!("loss `{loss}`, gradient norm `{grad_norm}`");
        let rows = batch.iter().map(|&index| self.pairs[index].id.as_str()).collect();
        Diverged { unit: "step", count: self.state.updates + 1, what, rows }.failure_keeping(&self.checkpoint(), host)
    }

    fn checkpoint(&self) -> Checkpoint<State> {
        let (step, task, state) = (self.state.updates, self.task.clone(), self.state.clone());
        let mut checkpoint = Checkpoint { step, task, state, arrays: BTreeMap::new() };
        self.policy.save("policy", &mut checkpoint);
        checkpoint
    }

    fn save(&self, host: &dyn Host) -> Result<()> {
        let Some(folder) = host.checkpoint_folder() else { return Ok(()) };
        checkpoint::save(folder, &self.checkpoint())
    }

    fn resume(&mut self, host: &dyn Host) {
        let found = host.checkpoint_folder().and_then(|folder| checkpoint::load::<State>(folder, &self.task));
        let Some(checkpoint) = found else { return };
        let fits = self.policy.restore("policy", &checkpoint, checkpoint.state.updates);
        assert!(fits, "a checkpoint of this very task holds its arrays");
        self.state = checkpoint.state;
    }
}

/// The pairs of each step of an epoch.
pub fn steps_of(pairs: usize, batch: usize, draw: &Draw, epoch: u64) -> Vec<Vec<usize>> {
    epoch_order(pairs, &draw.of("pairs"), epoch).chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
}

fn added(sums: DpoLoss, more: DpoLoss) -> DpoLoss {
    DpoLoss {
        loss: sums.loss + more.loss,
        chosen: sums.chosen + more.chosen,
        rejected: sums.rejected + more.rejected,
        right: sums.right + more.right,
    }
}

/// Forward, loss, backward over some pairs, both answers of each in one pass; leaves the gradients in the lane.
fn preference_pass(
    policy: &Decoder,
    (pairs, reference, chunk): (&[Pair], &[Vec<f32>], &[usize]),
    preference: Preference,
    weight: f32,
    lane: &mut Lane,
) -> DpoLoss {
    let Lane { workspace, gradients } = lane;
    let examples = || chunk.iter().flat_map(|&index| [&pairs[index].chosen, &pairs[index].rejected]);
    let batch = Batch::of_examples(&workspace.stream, examples());
    policy.forward(&batch, workspace);
    heads::log_probabilities(policy, &batch, 1.0, workspace);
    let answers = Segments::new(&workspace.stream, &examples().map(Example::targets).collect::<Vec<_>>());
    let held = workspace
        .stream
        .upload(&chunk.iter().flat_map(|&index| reference[2 * index..][..2].concat()).collect::<Vec<_>>());
    let loss = workspace.preference_loss(&batch, preference, &answers, held.view(), weight);
    heads::log_probabilities_backward(policy, &batch, 1.0, workspace, gradients);
    policy.backward(&batch, workspace, gradients);
    loss
}

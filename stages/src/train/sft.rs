//! Supervised fine-tuning: the likelihood of target texts, given their prompts.
//!
//! | metric | is |
//! |---|---|
//! | `loss` | mean −log p of the step's target tokens, in nats, before the update |
//! | `learning_rate` | of this step |
//! | `grad_norm` | Euclidean norm of the whole gradient before clipping |
//! | `tokens` | tokens read so far, prompts included |
//! | `epoch` | passes over the examples so far |

use super::batches::{Example, Keep, epoch_order, packed, truncated};
use super::checkpoint::{self, Checkpoint};
use super::host::{Host, Metrics};
use super::optimizer::{AdamW, Optimizer};
use super::schedule::Schedule;
use super::shards::{Lane, Lanes};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::batch::Batch;
use crate::model::workspace::Purpose;
use crate::model::{Decoder, heads};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    Epochs(f64),
    /// Tokens read, prompts included.
    Tokens(u64),
}

/// What makes a step. Memory does not bound it: gradients are accumulated over as many passes as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// At most so many tokens, prompts included.
    Tokens(usize),
    Rows(usize),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftSettings {
    pub duration: Duration,
    pub batch: BatchSize,
    pub schedule: Schedule,
    pub optimizer: AdamW,
    /// Longer texts are cut to so many tokens.
    pub length_max: usize,
    pub keep: Keep,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    updates: u64,
    epoch: u64,
    /// The next batch of the epoch.
    batch: usize,
    tokens: u64,
    rows: Vec<Metrics>,
}

/// Trains `decoder` in place of its former weights; the rows of metrics come back with it. Examples that leave nothing to learn
/// after truncation are passed over. Goes on from the host's last checkpoint of the same work, to the same bits.
pub fn train(
    decoder: Decoder,
    examples: &[Example],
    settings: &SftSettings,
    draw: &Draw,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let examples: Vec<Example> =
        examples.iter().filter_map(|example| truncated(example, settings.length_max, settings.keep)).collect();
    if examples.is_empty() {
        return Err(Failure::recipe("there is nothing to train on: no example has a target within the length limit"));
    }
    let mut run = Run::new(decoder, &examples, settings, draw);
    run.resume(host);
    while run.state.tokens < run.total {
        if host.cancelled() {
            run.save(host)?;
            return Err(Failure::Cancelled);
        }
        run.step(host)?;
        if run.state.updates.is_multiple_of(host.checkpoint_every()) {
            run.save(host)?;
        }
    }
    Ok((run.decoder, run.state.rows))
}

struct Run<'a> {
    decoder: Decoder,
    optimizer: Optimizer,
    lanes: Lanes,
    examples: &'a [Example],
    settings: &'a SftSettings,
    draw: &'a Draw,
    /// Tokens to read in all.
    total: u64,
    per_epoch: u64,
    batches: Vec<Vec<usize>>,
    /// Names this very work.
    task: String,
    state: State,
}

impl<'a> Run<'a> {
    fn new(decoder: Decoder, examples: &'a [Example], settings: &'a SftSettings, draw: &'a Draw) -> Run<'a> {
        let per_epoch: u64 = examples.iter().map(|example| example.tokens.len() as u64).sum();
        let total = match settings.duration {
            Duration::Epochs(epochs) => (per_epoch as f64 * epochs).round() as u64,
            Duration::Tokens(tokens) => tokens,
        };
        let optimizer = Optimizer::new(&decoder, settings.optimizer);
        let lanes = Lanes::new(&decoder, Purpose::Training);
        let task = task_name("sft", settings, &[&decoder], draw, &examples);
        let (batches, state) = (Vec::new(), State::default());
        let mut run =
            Run { decoder, optimizer, lanes, examples, settings, draw, total, per_epoch, batches, task, state };
        run.open_epoch();
        run
    }

    /// loss = −1/n · Σ log p(target), n the targets of the whole batch.
    fn step(&mut self, host: &mut dyn Host) -> Result<()> {
        let batch = &self.batches[self.state.batch];
        let n: usize = batch.iter().map(|&index| self.examples[index].targets()).sum();
        let (decoder, examples) = (&self.decoder, self.examples);
        let pass =
            |chunk: &[usize], lane: &mut Lane| forward_backward(decoder, chunk.iter().map(|&i| &examples[i]), n, lane);
        let length = |index: usize| examples[index].tokens.len();
        let loss = -self.lanes.run(batch, length, pass).into_iter().sum::<f64>() / n as f64;
        let tokens: usize = batch.iter().map(|&index| length(index)).sum();
        let rate = self.settings.schedule.rate(self.state.tokens as f64 / self.total as f64);
        let grad_norm = self.optimizer.step(&mut self.decoder, self.lanes.gradients(), rate);
        self.check_finite(loss, grad_norm, host)?;
        self.advance(tokens as u64);
        self.record(loss, rate, grad_norm, host);
        Ok(())
    }

    fn advance(&mut self, tokens: u64) {
        self.state.updates += 1;
        self.state.tokens += tokens;
        self.state.batch += 1;
        if self.state.batch == self.batches.len() {
            self.state.epoch += 1;
            self.state.batch = 0;
            self.open_epoch();
        }
    }

    fn open_epoch(&mut self) {
        let order = epoch_order(self.examples.len(), self.draw, self.state.epoch);
        self.batches = match self.settings.batch {
            BatchSize::Tokens(tokens) => packed(&order, |index| self.examples[index].tokens.len(), tokens),
            BatchSize::Rows(rows) => order.chunks(rows.max(1)).map(<[usize]>::to_vec).collect(),
        };
    }

    fn record(&mut self, loss: f64, rate: f64, grad_norm: f64, host: &mut dyn Host) {
        let tokens = self.state.tokens as f64;
        let epoch = tokens / self.per_epoch as f64;
        let values =
            [("loss", loss), ("learning_rate", rate), ("grad_norm", grad_norm), ("tokens", tokens), ("epoch", epoch)];
        let row = Metrics::new(self.state.updates, values);
        host.report(&row, self.state.updates + self.left());
        self.state.rows.push(row);
    }

    /// About how many steps are left.
    fn left(&self) -> u64 {
        let left = self.total.saturating_sub(self.state.tokens) as f64;
        (left * self.state.updates as f64 / self.state.tokens as f64).round() as u64
    }

    fn check_finite(&self, loss: f64, grad_norm: f64, host: &dyn Host) -> Result<()> {
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        Err(diverged("step", self.state.updates + 1, &format!("loss `{loss}`, gradient norm `{grad_norm}`"), host))
    }

    fn save(&self, host: &dyn Host) -> Result<()> {
        let Some(folder) = host.checkpoint_folder() else { return Ok(()) };
        let (step, task, state) = (self.state.updates, self.task.clone(), &self.state);
        let mut checkpoint = Checkpoint { step, task, state, arrays: BTreeMap::new() };
        self.optimizer.save("model", &self.decoder, &mut checkpoint);
        checkpoint::save(folder, &checkpoint)
    }

    fn resume(&mut self, host: &dyn Host) {
        let found = host.checkpoint_folder().and_then(|folder| checkpoint::load::<State>(folder, &self.task));
        let Some(checkpoint) = found else { return };
        if self.optimizer.restore("model", &mut self.decoder, &checkpoint, checkpoint.state.updates) {
            self.state = checkpoint.state;
            self.open_epoch();
        }
    }
}

/// Adds the gradient of −Σ log p / n to the lane's and returns Σ log p.
fn forward_backward<'a>(
    decoder: &Decoder,
    examples: impl Iterator<Item = &'a Example>,
    n: usize,
    lane: &mut Lane,
) -> f64 {
    let Lane { workspace, gradients } = lane;
    let batch = Batch::of_examples(&workspace.stream, examples);
    decoder.forward(&batch, workspace);
    heads::log_probabilities(decoder, &batch, 1.0, workspace);
    let sum = kernels::reduce::sum(&workspace.stream, workspace.logp(&batch));
    workspace.fill_logp_gradient(&batch, -1.0 / n as f32);
    heads::log_probabilities_backward(decoder, &batch, 1.0, workspace, gradients);
    decoder.backward(&batch, workspace, gradients);
    sum
}

/// Names work by everything it depends on, so that a checkpoint of other work is never taken up.
pub(super) fn task_name(
    kind: &str,
    settings: &impl Serialize,
    models: &[&Decoder],
    draw: &Draw,
    examples: &impl Serialize,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for model in models {
        let words = serde_json::to_vec(model.config()).expect("plain data is JSON");
        hasher.update(&words).update(&checkpoint::little_endian(&model.weights()));
    }
    let words = serde_json::to_vec(&(kind, settings, draw.bits(), examples)).expect("plain data is JSON");
    hasher.update(&words).finalize().to_string()
}

/// The end of a run whose numbers are no numbers any more.
pub(super) fn diverged(unit: &str, count: u64, what: &str, host: &dyn Host) -> Failure {
    let kept = match host.checkpoint_folder() {
        Some(folder) => format!("; the last good checkpoint is in `{}`", folder.display()),
        None => String::new(),
    };
    Failure::recipe(format!("training diverged at {unit} `{count}`: {what}{kept}; try a lower learning rate"))
}

//! Supervised fine-tuning: the likelihood of target texts, given their prompts.
//!
//! | metric | is |
//! |---|---|
//! | `loss` | mean −log p of the step's target tokens, in nats, before the update |
//! | `learning_rate` | of this step |
//! | `grad_norm` | Euclidean norm of the whole gradient before clipping |
//! | `tokens` | tokens read so far, prompts included |
//! | `epoch` | passes over the examples so far |
//! | `evaluation_…` | of held-out examples after the update, in the rows of steps that evaluate: see [`super::held_out`] |

use super::batches::{Example, Keep, epoch_order, packed, truncated};
use super::checkpoint::{self, Checkpoint};
use super::guard::Diverged;
use super::held_out::{EvaluationPlan, Score, Watch, score};
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

/// The array of a checkpoint that holds the weights of the best evaluation.
const BEST: &str = "best.parameters";

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    Epochs(f64),
    /// Tokens read, prompts included.
    Tokens(u64),
    /// Updates.
    Steps(u64),
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
    /// Tokens whose activations are in memory at once; a step of more is made of several passes, their gradients added. `None`
    /// leaves it to [`Lanes`]. The order in which gradients are added is part of the result, so this is too.
    pub micro_batch_tokens: Option<usize>,
    /// Activations inside the layers are computed again on the way back, not kept. The same bits in less memory and more time.
    #[serde(skip)]
    pub checkpointing: bool,
    /// When to look at the held-out examples, and what follows.
    pub evaluation: Option<EvaluationPlan>,
}

/// What is learnt and what is only looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lessons<'a> {
    pub examples: &'a [Example],
    /// Names of the examples' rows, for messages; may be left out.
    pub ids: &'a [String],
    /// Never trained on.
    pub held_out: &'a [Example],
}

impl<'a> From<&'a Vec<Example>> for Lessons<'a> {
    fn from(examples: &'a Vec<Example>) -> Lessons<'a> {
        Lessons { examples, ..Lessons::default() }
    }
}

impl<'a> From<&'a [Example]> for Lessons<'a> {
    fn from(examples: &'a [Example]) -> Lessons<'a> {
        Lessons { examples, ..Lessons::default() }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    updates: u64,
    epoch: u64,
    /// The next batch of the epoch.
    batch: usize,
    tokens: u64,
    rows: Vec<Metrics>,
    watch: Watch,
}

/// Trains `decoder` in place of its former weights; the rows of metrics come back with it. Examples that leave nothing to learn
/// after truncation are passed over. Goes on from the host's last checkpoint of the same work, to the same bits.
pub fn train<'a>(
    decoder: Decoder,
    lessons: impl Into<Lessons<'a>>,
    settings: &SftSettings,
    draw: &Draw,
    host: &mut dyn Host,
) -> Result<(Decoder, Vec<Metrics>)> {
    let material = Material::new(lessons.into(), settings)?;
    let mut run = Run::new(decoder, &material, settings, draw);
    run.resume(host);
    while !run.is_done() {
        if host.cancelled() {
            run.save(host)?;
            return Err(Failure::Cancelled);
        }
        run.step(host)?;
        if run.state.updates.is_multiple_of(host.checkpoint_every()) {
            run.save(host)?;
        }
    }
    Ok(run.finished())
}

/// The lessons as the length limit leaves them.
struct Material<'a> {
    examples: Vec<Example>,
    /// As many as examples, or none.
    ids: Vec<&'a str>,
    held_out: Vec<Example>,
}

impl<'a> Material<'a> {
    fn new(lessons: Lessons<'a>, settings: &SftSettings) -> Result<Material<'a>> {
        let cut = |example: &Example| truncated(example, settings.length_max, settings.keep);
        let (places, examples): (Vec<usize>, Vec<Example>) =
            lessons.examples.iter().enumerate().filter_map(|(place, it)| Some((place, cut(it)?))).unzip();
        if examples.is_empty() {
            return Err(Failure::recipe(
                "there is nothing to train on: no example has a target within the length limit",
            ));
        }
        let held_out = usable(lessons.held_out, settings);
        if settings.evaluation.is_some() && held_out.is_empty() {
            return Err(Failure::recipe(
                "there is nothing to evaluate on: no held-out example has a target within the length limit",
            ));
        }
        let ids = places.into_iter().filter_map(|place| lessons.ids.get(place).map(String::as_str)).collect();
        Ok(Material { examples, ids, held_out })
    }
}

/// Examples as the length limit leaves them, without those that leave nothing to learn.
pub fn usable(examples: &[Example], settings: &SftSettings) -> Vec<Example> {
    examples.iter().filter_map(|example| truncated(example, settings.length_max, settings.keep)).collect()
}

/// An epoch's examples in their order, cut into steps.
pub fn batches_of(size: BatchSize, order: &[usize], length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    match size {
        BatchSize::Tokens(tokens) => packed(order, length, tokens),
        BatchSize::Rows(rows) => order.chunks(rows.max(1)).map(<[usize]>::to_vec).collect(),
    }
}

struct Run<'a> {
    decoder: Decoder,
    optimizer: Optimizer,
    lanes: Lanes,
    /// For held-out examples.
    reading_lanes: Lanes,
    /// The weights of the best evaluation so far, where they are asked for.
    best: Option<Vec<f32>>,
    material: &'a Material<'a>,
    examples: &'a [Example],
    settings: &'a SftSettings,
    draw: &'a Draw,
    per_epoch: u64,
    batches: Vec<Vec<usize>>,
    /// Names this very work.
    task: String,
    state: State,
}

impl<'a> Run<'a> {
    fn new(decoder: Decoder, material: &'a Material<'a>, settings: &'a SftSettings, draw: &'a Draw) -> Run<'a> {
        let examples = &material.examples[..];
        let mut run = Run {
            optimizer: Optimizer::new(&decoder, settings.optimizer),
            lanes: Lanes::new(&decoder, Purpose::training(settings.checkpointing)).within(settings.micro_batch_tokens),
            reading_lanes: Lanes::new(&decoder, Purpose::Inference).within(settings.micro_batch_tokens),
            best: None,
            material,
            examples,
            settings,
            draw,
            per_epoch: examples.iter().map(|example| example.tokens.len() as u64).sum(),
            batches: Vec::new(),
            task: task_name("sft", settings, &[&decoder], draw, &(examples, &material.held_out)),
            state: State::default(),
            decoder,
        };
        run.open_epoch();
        run
    }

    /// How much of what the settings ask for is done: 1 at the end.
    fn progress(&self) -> f64 {
        let share = |done: u64, of: f64| done as f64 / of;
        match self.settings.duration {
            Duration::Epochs(epochs) => share(self.state.tokens, (self.per_epoch as f64 * epochs).round()),
            Duration::Tokens(tokens) => share(self.state.tokens, tokens as f64),
            Duration::Steps(steps) => share(self.state.updates, steps as f64),
        }
    }

    fn is_complete(&self) -> bool {
        // Nothing asked for is nothing to do.
        self.progress().is_nan() || self.progress() >= 1.0
    }

    fn is_done(&self) -> bool {
        self.is_complete() || self.state.watch.is_over
    }

    /// The weights that are asked for, and the metrics.
    fn finished(mut self) -> (Decoder, Vec<Metrics>) {
        if let Some(best) = &self.best {
            let stream = self.decoder.device().stream();
            stream.write(self.decoder.learnt_mut().view_mut(), best);
        }
        (self.decoder, self.state.rows)
    }

    /// loss = −1/n · Σ log p(target), n the targets of the whole batch.
    fn step(&mut self, host: &mut dyn Host) -> Result<()> {
        host.step_begins();
        let batch = &self.batches[self.state.batch];
        let n: usize = batch.iter().map(|&index| self.examples[index].targets()).sum();
        self.decoder.share();
        let (decoder, examples) = (&self.decoder, self.examples);
        let pass =
            |chunk: &[usize], lane: &mut Lane| forward_backward(decoder, chunk.iter().map(|&i| &examples[i]), n, lane);
        let length = |index: usize| examples[index].tokens.len();
        let loss = -self.lanes.run(batch, length, pass).into_iter().sum::<f64>() / n as f64;
        let tokens: usize = batch.iter().map(|&index| length(index)).sum();
        let rate = self.settings.schedule.rate(self.progress());
        let grad_norm = self.optimizer.step(&mut self.decoder, self.lanes.gradients(), rate);
        self.check_finite(loss, grad_norm, host)?;
        self.advance(tokens as u64);
        host.step_ends();
        let score = self.evaluate(host)?;
        self.record(loss, rate, grad_norm, score, host);
        Ok(())
    }

    /// What the held-out examples say where it is time to ask them: every so many steps, and at the end.
    fn evaluate(&mut self, host: &dyn Host) -> Result<Option<Score>> {
        let Some(plan) = self.settings.evaluation else { return Ok(None) };
        if !self.state.updates.is_multiple_of(plan.every.max(1)) && !self.is_complete() {
            return Ok(None);
        }
        let score = score(&self.decoder, &self.material.held_out, &mut self.reading_lanes);
        if !score.loss.is_finite() {
            let what = format!("evaluation loss `{}`", score.loss);
            return Err(Diverged { unit: "step", count: self.state.updates, what, rows: Vec::new() }.failure(host));
        }
        if self.state.watch.hear(self.state.updates, score.loss, &plan) && plan.best {
            self.best = Some(self.decoder.learnt_weights());
        }
        Ok(Some(score))
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
        self.batches = batches_of(self.settings.batch, &order, |index| self.examples[index].tokens.len());
    }

    fn record(&mut self, loss: f64, rate: f64, grad_norm: f64, score: Option<Score>, host: &mut dyn Host) {
        let tokens = self.state.tokens as f64;
        let epoch = tokens / self.per_epoch as f64;
        let values =
            [("loss", loss), ("learning_rate", rate), ("grad_norm", grad_norm), ("tokens", tokens), ("epoch", epoch)];
        let mut row = Metrics::new(self.state.updates, values);
        row.values.extend(score.into_iter().flat_map(Score::metrics));
        host.report(&row, self.state.updates + self.left());
        self.state.rows.push(row);
    }

    /// About how many steps are left.
    fn left(&self) -> u64 {
        let done = self.progress();
        if self.is_done() || done == 0.0 { 0 } else { (self.state.updates as f64 * (1.0 - done) / done).round() as u64 }
    }

    fn check_finite(&self, loss: f64, grad_norm: f64, host: &dyn Host) -> Result<()> {
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        let batch = &self.batches[self.state.batch];
        let rows = batch.iter().filter_map(|&index| self.material.ids.get(index).copied()).collect();
        let what = format!("loss `{loss}`, gradient norm `{grad_norm}`");
        Err(Diverged { unit: "step", count: self.state.updates + 1, what, rows }.failure(host))
    }

    fn save(&self, host: &dyn Host) -> Result<()> {
        let Some(folder) = host.checkpoint_folder() else { return Ok(()) };
        let (step, task, state) = (self.state.updates, self.task.clone(), &self.state);
        let mut checkpoint = Checkpoint { step, task, state, arrays: BTreeMap::new() };
        self.optimizer.save("model", &self.decoder, &mut checkpoint);
        if let Some(best) = &self.best {
            checkpoint.arrays.insert(BEST.to_string(), best.clone());
        }
        checkpoint::save(folder, &checkpoint)
    }

    fn resume(&mut self, host: &dyn Host) {
        let found = host.checkpoint_folder().and_then(|folder| checkpoint::load::<State>(folder, &self.task));
        let Some(mut checkpoint) = found else { return };
        if self.optimizer.restore("model", &mut self.decoder, &checkpoint, checkpoint.state.updates) {
            self.best = checkpoint.arrays.remove(BEST);
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
        hasher.update(&words);
        let adapters = (model.learnt().len != model.layout().len).then(|| model.learnt_weights());
        // In pieces, as a copy of all the weights in bytes would be more than this needs.
        for piece in [Some(model.weights()), adapters].iter().flatten().flat_map(|weights| weights.chunks(1 << 16)) {
            hasher.update(&checkpoint::little_endian(piece));
        }
    }
    let words = serde_json::to_vec(&(kind, settings, draw.bits(), examples)).expect("plain data is JSON");
    hasher.update(&words).finalize().to_string()
}

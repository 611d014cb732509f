//! What the training kinds and the evaluation share: a model in memory with its tokenizer and prompt format, saved with the rows
//! of metrics of its training, and the host that ties a training loop to its node.

use super::step_times::{StepTimes, write_table};
use crate::context::{Context, Progress};
use crate::failure::{Failure, Result};
use crate::model::chat::{self, ChatTemplate};
use crate::model::generate::{Generation, Request, Sampling, generate};
use crate::model::lora::PeftAdapter;
use crate::model::tensors::Precision;
use crate::model::{Carried, Decoder, ModelFolder, Tokenizer};
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::train::{Host, Metrics};
use indexmap::IndexSet;
use kernels::Device;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A model on the device with everything that turns text into its tokens.
pub struct Student {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub carried: Carried,
    /// What it learnt last, apart from its weights, where that is saved besides.
    pub adapter: Option<PeftAdapter>,
}

impl Student {
    pub fn open(folder: &Path, device: &Device) -> Result<Student> {
        let model = ModelFolder::load(folder)?;
        let (decoder, template) = (Decoder::new(device, &model.config, &model.weights), model.template_or_plain()?);
        Ok(Student { decoder, tokenizer: model.tokenizer, template, carried: model.carried, adapter: None })
    }

    /// The tokens that the model answers.
    pub fn prompt(&self, question: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.template.prompt(question)?)
    }

    /// The token that ends an answer.
    pub fn end_token(&self) -> Result<u32> {
        let ends = &self.decoder.config().eos_token_ids;
        // Of several ends the tokenizer's own is the one that templates put after an answer.
        let own = self.tokenizer.id(self.template.eos_token()).filter(|id| ends.contains(id));
        own.or(ends.first().copied())
            .ok_or_else(|| Failure::recipe("the base model names no token that ends a text (`eos_token_id`)"))
    }

    /// Answers as text without the ending token, in the order of the prompts; `seeds` as many as prompts.
    pub fn answers(
        &self,
        prompts: &[Vec<u32>],
        seeds: &[u64],
        sampling: &Sampling,
    ) -> Result<Vec<(Generation, String)>> {
        let requests: Vec<Request> =
            prompts.iter().zip(seeds).map(|(prompt, &seed)| Request { prompt, seed }).collect();
        let generations = generate(&self.decoder, &requests, sampling)?;
        let with_text = |generation: Generation| {
            let text = self.tokenizer.decode(&generation.tokens, false)?;
            Ok((generation, text))
        };
        generations.into_iter().map(with_text).collect()
    }

    /// In place of whatever is there: a killed process may have left files that are no part of this model.
    pub fn save(&self, folder: &Path, precision: Precision) -> Result<()> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(|error| Failure::io("remove", folder, error))?;
        }
        let config = self.decoder.config().clone();
        let (tokenizer, template) = (self.tokenizer.clone(), Some(self.template.clone()));
        let (weights, carried) = (self.decoder.weights(), self.carried.clone());
        ModelFolder { config, weights, tokenizer, template, carried }.save(folder, precision)?;
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.save(&folder.join("adapter")))
    }

    /// The same, with what the training reported: `metrics.parquet`, and `timings.json`, which is no part of the content.
    pub fn save_trained(
        &self,
        folder: &Path,
        precision: Precision,
        metrics: &[Metrics],
        started: Instant,
    ) -> Result<()> {
        self.save(folder, precision)?;
        write_table(&folder.join("metrics.parquet"), &metrics_rows(metrics))?;
        let timings =
            json!({"training_seconds": started.elapsed().as_secs_f64(), "threads": self.decoder.device().threads()});
        let path = folder.join("timings.json");
        std::fs::write(&path, timings.to_string()).map_err(|error| Failure::io("write", &path, error))
    }
}

/// What a model gets that has no prompt format of its own.
pub fn plain_template() -> ChatTemplate {
    ChatTemplate::new(chat::PLAIN, "", crate::model::tokenizer::END_OF_TEXT)
}

/// One row a step: `step` and every named number; what is not finite is missing.
fn metrics_rows(metrics: &[Metrics]) -> Rows {
    let names: IndexSet<&String> = metrics.iter().flat_map(|row| &row.values).map(|(name, _)| name).collect();
    let column = |name: &str, column_type| Column { name: name.to_string(), column_type };
    let numbers = names.iter().map(|name| column(name, ColumnType::Float));
    let mut rows = Rows::new([column("step", ColumnType::Int)].into_iter().chain(numbers).collect());
    rows.rows = metrics
        .iter()
        .map(|row| {
            let cells = [Value::from(row.step)].into_iter().chain(names.iter().map(|name| Value::from(row.get(name))));
            Row { id: row.step.to_string(), cells: cells.collect() }
        })
        .collect();
    rows
}

/// A training loop's host inside a node: checkpoints in the node's scratch folder, progress on its console line.
pub struct NodeHost<'a> {
    context: &'a dyn Context,
    folder: PathBuf,
    every: u64,
    unit: &'static str,
    note: fn(&Metrics) -> String,
    times: StepTimes,
}

impl<'a> NodeHost<'a> {
    pub fn new(
        context: &'a dyn Context,
        every: u64,
        unit: &'static str,
        note: fn(&Metrics) -> String,
    ) -> Result<NodeHost<'a>> {
        let folder = context.scratch().join("checkpoints");
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, error))?;
        let times = StepTimes::open(&folder);
        Ok(NodeHost { context, folder, every: every.max(1), unit, note, times })
    }

    /// Writes `timings.parquet`: what each step took, which is no part of the content.
    pub fn save_times(&self, folder: &Path, metrics: &[Metrics]) -> Result<()> {
        write_table(&folder.join("timings.parquet"), &self.times.rows(metrics))
    }
}

impl Host for NodeHost<'_> {
    fn checkpoint_folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn checkpoint_every(&self) -> u64 {
        self.every
    }

    fn cancelled(&self) -> bool {
        self.context.cancelled()
    }

    fn step_begins(&mut self) {
        self.times.step_begins();
    }

    fn step_ends(&mut self) {
        self.times.step_ends();
    }

    fn report(&mut self, metrics: &Metrics, total: u64) {
        self.times.reported(metrics.step);
        let note = (self.note)(metrics);
        self.context.progress(Progress { done: metrics.step, total, unit: self.unit, note });
    }
}

/// Up to `count` rows spread evenly from the first to the last: what a report shows of a long training.
pub fn spread(metrics: &[Metrics], count: usize) -> Vec<&Metrics> {
    let last = metrics.len().saturating_sub(1);
    let shown = count.min(metrics.len());
    (0..shown).map(|index| &metrics[index * last / (shown - 1).max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_become_a_table_without_numbers_that_are_none() {
        let metrics = [Metrics::new(1, [("loss", 2.0)]), Metrics::new(2, [("loss", 1.0), ("kl", f64::NAN)])];
        let rows = metrics_rows(&metrics);
        assert_eq!(rows.rows[1].cells, [json!(2), json!(1.0), Value::Null]);
        assert_eq!(rows.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["step", "loss", "kl"]);
    }

    #[test]
    fn a_spread_holds_the_first_and_the_last() {
        let metrics: Vec<Metrics> = (0..10).map(|step| Metrics::new(step, [])).collect();
        let check = |count: usize, expected: &[u64]| {
            assert_eq!(spread(&metrics, count).iter().map(|row| row.step).collect::<Vec<_>>(), expected);
        };
        check(4, &[0, 3, 6, 9]);
        check(1, &[0]);
        check(20, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(spread(&[], 3).is_empty());
    }
}

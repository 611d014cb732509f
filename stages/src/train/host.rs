//! What a training loop needs from whoever runs it, and the rows it reports.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Whoever runs a training loop: keeps its checkpoints, may stop it, hears of its progress.
pub trait Host {
    /// A folder that survives a crash; `None` trains without checkpoints.
    fn checkpoint_folder(&self) -> Option<&Path>;
    /// Steps (SFT) or iterations (PPO) between two checkpoints.
    fn checkpoint_every(&self) -> u64;
    /// Asked before every step; `true` ends the loop with `Cancelled`, after a last checkpoint.
    fn cancelled(&self) -> bool;
    /// A step's work begins. What lies between [`Host::step_ends`] and the next beginning (evaluation, checkpoints) is not its time;
    /// a loop that says neither is timed from report to report.
    fn step_begins(&mut self) {}
    fn step_ends(&mut self) {}
    /// One row of metrics has been recorded. `total` is the loop's number of steps or iterations.
    fn report(&mut self, metrics: &Metrics, total: u64);
    /// One update of `of` (`policy`, `value`) has been made; a row of metrics holds the mean over many.
    fn updated(&mut self, _of: &str, _loss: f64) {}
}

/// One recorded row: `step` and named numbers, which the training loop's file explains. Holds no times, so that equal work gives equal rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub step: u64,
    pub values: Vec<(String, f64)>,
}

impl Metrics {
    pub fn new<'a>(step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Metrics {
        Metrics { step, values: values.into_iter().map(|(name, value)| (name.to_string(), value)).collect() }
    }

    /// The named number; NaN where this row has none.
    pub fn get(&self, name: &str) -> f64 {
        self.values.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

/// A host that keeps nothing and never stops.
pub struct Quiet;

impl Host for Quiet {
    fn checkpoint_folder(&self) -> Option<&Path> {
        None
    }

    fn checkpoint_every(&self) -> u64 {
        u64::MAX
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn report(&mut self, _: &Metrics, _: u64) {}
}

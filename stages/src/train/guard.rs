//! The end of a run whose numbers are no numbers any more: where it was, on what, and what is left of it.

use super::checkpoint::{self, Checkpoint};
use super::host::Host;
use crate::failure::Failure;
use indexmap::IndexSet;
use serde::Serialize;

/// Rows that are named; of more it is only said how many.
const NAMED: usize = 8;

/// What was being done when it happened.
pub struct Diverged<'a> {
    /// `iteration`, `step`
    pub unit: &'a str,
    pub count: u64,
    /// What is wrong, with its numbers.
    pub what: String,
    /// The ids of the batch's rows.
    pub rows: Vec<&'a str>,
}

impl Diverged<'_> {
    /// Names the newest checkpoint that is whole: a run goes on from it.
    pub fn failure(&self, host: &dyn Host) -> Failure {
        self.failure_with("", host)
    }

    /// Keeps `state` too, which holds the weights before the bad update, beside the checkpoints that a run resumes from.
    pub fn failure_keeping<S: Serialize>(&self, state: &Checkpoint<S>, host: &dyn Host) -> Failure {
        let Some(folder) = host.checkpoint_folder() else { return self.failure(host) };
        let aside = folder.join("before-divergence");
        let kept = match checkpoint::save(&aside, state) {
            Ok(()) => format!("; the weights before this update are in `{}`", aside.display()),
            // A disk that does not take them hides nothing.
            Err(failure) => format!("; the weights before this update could not be kept: {failure}"),
        };
        self.failure_with(&kept, host)
    }

    fn failure_with(&self, kept: &str, host: &dyn Host) -> Failure {
        let Diverged { unit, count, what, .. } = self;
        let resumable = match host.checkpoint_folder().map(checkpoint::newest_whole) {
            Some(Some(path)) => format!("; the last good checkpoint is `{}`", path.display()),
            Some(None) => "; no checkpoint had been written".to_string(),
            None => String::new(),
        };
        let rows = self.named();
        Failure::recipe(format!(
            "training diverged at {unit} `{count}`: {what}{rows}{resumable}{kept}; try a lower learning rate"
        ))
    }

    fn named(&self) -> String {
        // Several answers to one problem name it once.
        let rows: IndexSet<&str> = self.rows.iter().copied().collect();
        if rows.is_empty() {
            return String::new();
        }
        let shown: Vec<String> = rows.iter().take(NAMED).map(|row| format!("`{row}`")).collect();
        let more = rows.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more rows") } else { String::new() };
        format!("; it was learning from {}{more}", shown.join(", "))
    }
}

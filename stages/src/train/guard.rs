//! The end of a run whose numbers are no numbers any more: where it was, on what, and what is left of it.

use super::checkpoint::{self, Checkpoint};
use super::host::Host;
use crate::failure::Failure;
use serde::Serialize;
use std::path::PathBuf;

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
    /// Keeps `state`, which holds the weights before the bad update, beside the checkpoints that a run resumes from.
    pub fn failure<S: Serialize>(&self, state: &Checkpoint<S>, host: &dyn Host) -> Failure {
        let Diverged { unit, count, what, .. } = self;
        Failure::recipe(format!(
            "training diverged at {unit} `{count}`: {what}; it was learning from {}{}; try a lower learning rate",
            self.named(),
            kept(state, host)
        ))
    }

    fn named(&self) -> String {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        rows.dedup();
        let shown: Vec<String> = rows.iter().take(NAMED).map(|row| format!("`{row}`")).collect();
        let more = rows.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more rows") } else { String::new() };
        format!("{}{more}", shown.join(", "))
    }
}

/// Says where the last good weights lie; a disk that does not take them is said too, and hides nothing.
fn kept<S: Serialize>(state: &Checkpoint<S>, host: &dyn Host) -> String {
    let Some(folder) = host.checkpoint_folder() else { return String::new() };
    let last: Option<PathBuf> = checkpoint::newest(folder);
    let resumable = last.map_or(String::new(), |path| format!("; the last good checkpoint is `{}`", path.display()));
    let aside = folder.join("before-divergence");
    match checkpoint::save(&aside, state) {
        Ok(()) => format!("{resumable}; the weights before this update are in `{}`", aside.display()),
        Err(failure) => format!("{resumable}; the weights before this update could not be kept: {failure}"),
    }
}

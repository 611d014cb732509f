//! One step of a story: what the row looked like before and after, and the calls between, played again.

use super::{Step, Tracer, Work};
use crate::executor::artifacts::{self, Trouble};
use crate::executor::replay::Played;
use serde_json::Value;
use stages::rows::Rows;
use stages::stage::{Form, Outputs};

/// Columns of `dropped` that say why; they are told as the outcome.
const WHY_DROPPED: [&str; 2] = ["reason", "marked"];

/// A column that came or changed.
pub struct Change<'s> {
    pub column: &'s str,
    /// `None` where the row had no such column.
    pub old: Option<&'s Value>,
    pub new: &'s Value,
}

impl<'a> Tracer<'a> {
    pub(super) fn step(
        &self,
        work: Work<'a>,
        port: Option<String>,
        before: Option<Rows>,
        after: Vec<(String, Rows)>,
    ) -> Step<'a> {
        let outcome = told(&work, &after);
        let mut step = Step { work, before, after, calls: Vec::new(), outcome, remark: None };
        if let (Some(port), Some(before)) = (port, step.before.clone())
            && step.asks()
        {
            match self.played(&step.work, &port, before) {
                Ok(played) => step.take(played),
                Err(remark) => step.remark = Some(format!("its calls cannot be shown: {remark}")),
            }
        }
        step
    }

    fn played(&self, work: &Work, port: &str, before: Rows) -> Result<Played, String> {
        let node = work.node.as_recorded(&work.manifest.preimage, &self.recipe.path).ok_or_else(|| {
            format!(
                "`{}` was made with settings or by a version that this recipe and program no longer have",
                work.node.name
            )
        })?;
        self.player.play(&node, &work.manifest, port, before).map_err(|trouble: Trouble| trouble.to_string())
    }
}

impl Step<'_> {
    /// Whether models were asked about single rows, as far as replies are kept of that.
    fn asks(&self) -> bool {
        let stage = &self.work.node.stage;
        !stage.models().is_empty() && !stage.needs_device()
    }

    fn take(&mut self, played: Played) {
        let lost = played.calls.iter().filter(|call| call.reply.is_none()).count();
        self.remark = if lost > 0 {
            Some("the reply to its last question is no longer kept, so what followed cannot be told".to_string())
        } else if self.after.iter().any(|(output, rows)| came_out(&played.outputs, output).as_ref() != Some(rows)) {
            Some(
                "played again with the replies that are kept by now, it ends otherwise than the result that is shown"
                    .into(),
            )
        } else {
            self.outcome = outcome(&played.outputs).or(self.outcome.take());
            None
        };
        self.calls = played.calls;
    }

    /// The columns of an outgoing row that the row did not have so when it came in.
    pub fn changes<'s>(&'s self, after: &'s Rows) -> Vec<Change<'s>> {
        let cells = after.columns.iter().zip(&after.rows[0].cells);
        let change = |(column, new): (&'s stages::rows::Column, &'s Value)| {
            let old = self.before.as_ref().and_then(|rows| Some(&rows.rows[0].cells[rows.position(&column.name)?]));
            let is_told = WHY_DROPPED.contains(&column.name.as_str()) && self.outcome.is_some() && old.is_none();
            let is_change = if let Some(old) = old { old != new } else { !new.is_null() };
            (is_change && !is_told).then_some(Change { column: &column.name, old, new })
        };
        cells.filter_map(change).collect()
    }
}

/// The row that came out of a play, as it would have been stored.
fn came_out(outputs: &Outputs, output: &str) -> Option<Rows> {
    artifacts::rows_of(outputs.artifacts.get(output)?).ok()?
}

/// The line of a stage's report that counts the one row.
fn outcome(outputs: &Outputs) -> Option<String> {
    let lines = outputs.report.tables.first()?.rows.iter();
    let counts_it = |line: &&Vec<String>| line.first().is_some_and(|what| what != "input") && line[1] == "1";
    lines.filter(counts_it).map(|line| line[0].clone()).next()
}

/// What the tables alone say.
fn told(work: &Work, after: &[(String, Rows)]) -> Option<String> {
    let Some((output, rows)) = after.first() else { return Some("it was trained on this row".to_string()) };
    let reason = rows.position("reason").and_then(|column| rows.rows[0].cells[column].as_str());
    let has_parts = work.node.stage.outputs().iter().filter(|output| output.form == Form::Rows).count() > 1;
    match (reason, output.as_str()) {
        (Some(reason), "dropped") => Some(reason.to_string()),
        (_, "") => (has_parts && work.node.kind.name != "source").then(|| "kept".to_string()),
        (_, part) => Some(format!("went to `{}.{part}`", work.node.name)),
    }
}

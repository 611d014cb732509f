//! What the model kinds share: putting a question about a row, and dividing the rows by what came of it.

use super::prompts::PromptForm;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::{Caller, Outcome, Reply, ReplyFormat, Request, Task};
use crate::prompt::Prompt;
use crate::report::Report;
use crate::rows::{ColumnType, Rows};
use crate::stage::{Artifact, Outlook, Output, Outputs};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Characters of an unparsable reply that are shown with its row.
const SHOWN_CHARACTERS: usize = 160;

/// One kind of question to one model.
#[derive(Clone)]
pub struct Asker {
    caller: Caller,
    prompt: Prompt,
    form: &'static PromptForm,
    /// What a rehearsal is asked to do.
    task: &'static str,
    format: ReplyFormat,
    asks: u32,
}

/// A row as a question sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub row_id: String,
    pub row: Map<String, Value>,
    pub sample: u32,
}

impl Asker {
    pub fn new(
        caller: Caller,
        prompt: &Prompt,
        form: &'static PromptForm,
        task: &'static str,
        format: ReplyFormat,
        asks: u32,
    ) -> Arc<Asker> {
        Arc::new(Asker { caller, prompt: prompt.clone(), form, task, format, asks })
    }

    /// Rows in work at a time.
    pub fn concurrency(&self) -> usize {
        self.caller.model.concurrency()
    }

    /// Puts the question until a reply parses. `Err` inside is a row to be marked, with the reason.
    pub async fn ask<T>(&self, asked: Asked, parse: impl Fn(&str) -> Result<T, String>) -> Result<Result<T, Fate>> {
        let prompt = self.prompt.render(&self.form.variables(&asked.row))?;
        let task = Task { name: self.task, row_id: asked.row_id, row: asked.row };
        let request = Request::new(prompt, self.format, task).sample(asked.sample);
        Ok(match self.caller.ask_until(request, self.asks, |reply: &Reply| parse(&reply.text)).await? {
            Outcome::Parsed(value) => Ok(value),
            Outcome::Barred(reason) => Err(Fate::dropped(reason, Vec::new())),
            Outcome::Unparsable { reason, text, asks } => Err(Fate::marked(self.form.name, &reason, &text, asks)),
        })
    }
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    /// One line of the report; also the reason in `dropped`, unless there is a longer one.
    pub outcome: String,
    pub reason: Option<String>,
    /// Values of the columns that the kind adds; may be empty for a row that does not go on.
    pub cells: Vec<Value>,
    pub kept: bool,
    /// A reply never parsed.
    pub marked: bool,
}

impl Fate {
    pub fn kept(outcome: impl Into<String>, cells: Vec<Value>) -> Fate {
        Fate { outcome: outcome.into(), reason: None, cells, kept: true, marked: false }
    }

    pub fn dropped(outcome: impl Into<String>, cells: Vec<Value>) -> Fate {
        Fate { outcome: outcome.into(), reason: None, cells, kept: false, marked: false }
    }

    fn marked(question: &str, reason: &str, text: &str, asks: u32) -> Fate {
        let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
        let reason =
            format!("no reply to `{question}` could be used, asked {asks} times: {reason}; the last began `{shown}`");
        let outcome = format!("marked: no usable reply to {question}");
        Fate { outcome, reason: Some(reason), cells: Vec::new(), kept: false, marked: true }
    }
}

/// Both outputs of a model kind: the rows that go on, and those that do not with `reason` and `marked`.
pub fn outputs() -> Vec<Output> {
    vec![Output::rows(""), Output::rows("dropped")]
}

/// The columns of either output, of which `added` are new.
pub fn columns(output: &str, input: &Columns, added: &[&str]) -> Columns {
    input.with(added).with(if output == "dropped" { &["reason", "marked"] } else { &[] })
}

/// The columns that a model kind looks for in its input.
pub fn needs(names: &[&str]) -> Vec<Need> {
    names.iter().map(|name| Need::kind("input", name)).collect()
}

/// The calls of a kind that puts one question about each row.
pub fn one_question(rows: u64, asks: u32) -> Outlook {
    Outlook::about(rows as f64, "one answer a row", rows * u64::from(asks.max(1)))
}

/// Divides rows by their fates; the report accounts for each of them.
pub fn divide(
    context: &dyn Context,
    title: &str,
    mut rows: Rows,
    added: &[(&str, ColumnType)],
    fates: Vec<Fate>,
) -> Outputs {
    let places: Vec<usize> = added.iter().map(|(name, column_type)| rows.ensure(name, *column_type)).collect();
    let (mut kept, mut dropped) = (rows.empty_like(), rows.empty_like());
    let reason = dropped.ensure("reason", ColumnType::Text);
    let marked = dropped.ensure("marked", ColumnType::Bool);
    let report = account(context, title, &fates);
    for (mut row, fate) in rows.rows.into_iter().zip(fates) {
        places.iter().zip(fate.cells).for_each(|(&place, cell)| row.cells[place] = cell);
        if fate.kept {
            kept.rows.push(row);
            continue;
        }
        row.cells.resize(dropped.columns.len(), Value::Null);
        row.cells[reason] = Value::from(fate.reason.unwrap_or(fate.outcome));
        row.cells[marked] = Value::from(fate.marked);
        dropped.rows.push(row);
    }
    Outputs::rows(kept, report).with("dropped", Artifact::Rows(dropped))
}

/// How many rows came to each outcome: those that go on first, then those that do not, then the marked ones.
fn account(context: &dyn Context, title: &str, fates: &[Fate]) -> Report {
    let mut counts: BTreeMap<(bool, bool, &str), usize> = BTreeMap::new();
    fates.iter().for_each(|fate| *counts.entry((!fate.kept, fate.marked, &fate.outcome)).or_default() += 1);
    let lines: Vec<(&str, usize)> = counts.iter().map(|((.., outcome), &count)| (*outcome, count)).collect();
    if !fates.is_empty() && !fates.iter().any(|fate| fate.kept) {
        let each: Vec<String> = lines.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        context.warn(&format!("{title}: none of {} rows go on: {}", fates.len(), each.join(", ")));
    }
    Report::counts(title, [("input", fates.len())].into_iter().chain(lines))
}

/// The row as the questions of a kind see it, with some columns as they are by now.
pub fn with(
    mut row: Map<String, Value>,
    changes: impl IntoIterator<Item = (&'static str, Value)>,
) -> Map<String, Value> {
    changes.into_iter().for_each(|(name, value)| {
        row.insert(name.to_string(), value);
    });
    row
}

/// Fails early, with the columns that are there, when one is missing.
pub fn require_columns(rows: &Rows, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| rows.require(name).map(drop))
}

//! What the model kinds share: putting a question about a row, and dividing the rows by what came of it.

use super::prompts::PromptForm;
use super::shapes;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::Result;
use crate::llm::crowd::Item;
use crate::llm::request::CUT_OFF;
use crate::llm::{Caller, Message, Outcome, Reply, ReplyFormat, Request, Task, Unusable, each_row};
use crate::prompt::Prompt;
use crate::report::Report;
use crate::rows::{Column, ColumnType, Row, Rows, require};
use crate::stage::{Outlook, Output, Outputs};
use crate::table::{RowSink, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

/// Characters of an unparsable reply that are shown with its row.
const SHOWN_CHARACTERS: usize = 160;

const SYSTEM: &str = "system";

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
        let shape = shapes::of(form).filter(|_| caller.model.manner().schemas);
        let format = shape.map_or(format, ReplyFormat::Schema);
        Arc::new(Asker { caller, prompt: prompt.clone(), form, task, format, asks })
    }

    /// Rows in work at a time.
    pub fn concurrency(&self) -> usize {
        self.caller.model.concurrency()
    }

    /// Puts the question until a reply parses. `Err` inside is a row to be marked, with the reason.
    pub async fn ask<T>(&self, asked: Asked, parse: impl Fn(&str) -> Result<T, String>) -> Result<Result<T, Fate>> {
        self.ask_after(Vec::new(), asked, parse).await
    }

    /// The same after what was said before; system messages stay in front.
    pub async fn ask_after<T>(
        &self,
        before: Vec<Message>,
        asked: Asked,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Result<T, Fate>> {
        self.put(before, asked, |reply| parse(&reply.text)).await
    }

    /// The same for free text, of which nothing but the server can tell whether it is whole.
    pub async fn ask_whole<T>(
        &self,
        asked: Asked,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Result<T, Fate>> {
        self.put(Vec::new(), asked, |reply| match reply.finish_reason == CUT_OFF {
            true => Err("the text has no end".to_string()),
            false => parse(&reply.text),
        })
        .await
    }

    async fn put<T>(
        &self,
        before: Vec<Message>,
        asked: Asked,
        parse: impl Fn(&Reply) -> Result<T, String>,
    ) -> Result<Result<T, Fate>> {
        let messages = continued(before, self.prompt.render(&self.form.variables(&asked.row))?);
        let task = Task { name: self.task, row_id: asked.row_id, row: asked.row };
        let request = Request::conversation(messages, self.format, task).sample(asked.sample);
        Ok(match self.caller.ask_until(request, self.asks, parse).await? {
            Outcome::Parsed(value) => Ok(value),
            Outcome::Barred(reason) => Err(Fate::dropped(reason, Vec::new())),
            Outcome::Unparsable { why, reason, text, asks } => {
                Err(Fate::marked(self.form.name, why, &reason, &text, asks))
            }
        })
    }
}

/// What was said before goes in front of the prompt's question, after its examples; there is one system message at most.
fn continued(before: Vec<Message>, mut prompt: Vec<Message>) -> Vec<Message> {
    let (system, said): (Vec<Message>, Vec<Message>) = before.into_iter().partition(|message| message.role == SYSTEM);
    let question = prompt.len() - 1;
    prompt.splice(question..question, said);
    for message in system.into_iter().rev() {
        match prompt.first_mut().filter(|first| first.role == SYSTEM) {
            Some(first) => first.content = format!("{}\n\n{}", message.content, first.content),
            None => prompt.insert(0, message),
        }
    }
    prompt
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    fn marked(question: &str, why: Unusable, reason: &str, text: &str, asks: u32) -> Fate {
        let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
        let unparsable =
            format!("no reply to `{question}` could be used, asked {asks} times: {reason}; the last began `{shown}`");
        let (outcome, reason) = match why {
            Unusable::Unparsable => (format!("marked: no usable reply to {question}"), unparsable),
            Unusable::CutOff => (format!("marked: the reply to {question} was cut off"), unparsable),
            Unusable::Refused => {
                (format!("marked: {question} was refused"), format!("the model refused `{question}`: `{shown}`"))
            }
            Unusable::Withheld => (
                format!("marked: the reply to {question} was withheld by a content filter"),
                format!("a content filter withheld the reply to `{question}`: `{shown}`"),
            ),
        };
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

/// Works on every row at its own pace and divides the rows by what came of them; few rows are in memory at a time.
pub fn divide_by_asking<F, Fut>(
    context: &dyn Context,
    title: &str,
    table: &Table,
    added: &[(&str, ColumnType)],
    concurrency: usize,
    work: F,
) -> Result<Outputs>
where
    F: Fn(Item) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Fate>> + Send + 'static,
{
    let mut division = Division::new(context, title, table.columns(), added)?;
    each_row(context, concurrency, table, work, |row, fate| division.take(row, fate))?;
    division.finish()
}

/// The same where nothing is asked: each row's fate follows from the row.
pub fn divide(
    context: &dyn Context,
    title: &str,
    table: &Table,
    added: &[(&str, ColumnType)],
    fate: impl Fn(&Row) -> Result<Fate>,
) -> Result<Outputs> {
    let mut division = Division::new(context, title, table.columns(), added)?;
    for row in table.rows_from(0) {
        let (_, row) = row?;
        let fate = fate(&row)?;
        division.take(row, fate)?;
    }
    division.finish()
}

/// Rows on their way to one of two outputs; the report accounts for each of them.
struct Division<'a> {
    context: &'a dyn Context,
    title: &'a str,
    /// Of the added columns, in the rows that go on.
    places: Vec<usize>,
    /// Of `reason` and `marked`, in the rows that do not.
    reason: usize,
    marked: usize,
    kept_width: usize,
    dropped_width: usize,
    kept: Box<dyn RowSink>,
    dropped: Box<dyn RowSink>,
    /// Rows by outcome: those that go on first, then those that do not, then the marked ones.
    counts: BTreeMap<(bool, bool, String), usize>,
}

impl<'a> Division<'a> {
    fn new(
        context: &'a dyn Context,
        title: &'a str,
        columns: &[Column],
        added: &[(&str, ColumnType)],
    ) -> Result<Division<'a>> {
        let mut kept = Rows::new(columns.to_vec());
        let places = added.iter().map(|(name, column_type)| kept.ensure(name, *column_type)).collect();
        let mut dropped = kept.empty_like();
        let reason = dropped.ensure("reason", ColumnType::Text);
        let marked = dropped.ensure("marked", ColumnType::Bool);
        let (kept_width, dropped_width) = (kept.columns.len(), dropped.columns.len());
        let (kept, dropped) = (context.sink(kept.columns)?, context.sink(dropped.columns)?);
        let counts = BTreeMap::new();
        Ok(Division { context, title, places, reason, marked, kept_width, dropped_width, kept, dropped, counts })
    }

    fn take(&mut self, mut row: Row, fate: Fate) -> Result<()> {
        *self.counts.entry((!fate.kept, fate.marked, fate.outcome.clone())).or_default() += 1;
        row.cells.resize(self.kept_width, Value::Null);
        self.places.iter().zip(fate.cells).for_each(|(&place, cell)| row.cells[place] = cell);
        if fate.kept {
            return self.kept.push(row);
        }
        row.cells.resize(self.dropped_width, Value::Null);
        row.cells[self.reason] = Value::from(fate.reason.unwrap_or(fate.outcome));
        row.cells[self.marked] = Value::from(fate.marked);
        self.dropped.push(row)
    }

    fn finish(self) -> Result<Outputs> {
        let report = self.account();
        let artifacts = [("".to_string(), self.kept.finish()?), ("dropped".to_string(), self.dropped.finish()?)];
        Ok(Outputs { artifacts: artifacts.into_iter().collect(), report })
    }

    /// How many rows came to each outcome.
    fn account(&self) -> Report {
        let total: usize = self.counts.values().sum();
        let lines = || self.counts.iter().map(|((.., outcome), &count)| (outcome.as_str(), count));
        if total > 0 && self.counts.keys().all(|(is_dropped, ..)| *is_dropped) {
            let each: Vec<String> = lines().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            self.context.warn(&format!("{}: none of {total} rows go on: {}", self.title, each.join(", ")));
        }
        Report::counts(self.title, [("input", total)].into_iter().chain(lines()))
    }
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
pub fn require_columns(table: &Table, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| require(table.columns(), name).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_string(), content: content.to_string() }
    }

    #[test]
    fn a_conversation_goes_before_the_question_under_one_system_message() {
        let (user, assistant) = (Message::user, Message::assistant);
        let earlier = || vec![message("system", "row"), user("a"), assistant("b")];
        let asked = |prompt: Vec<Message>| continued(earlier(), prompt);
        assert_eq!(asked(vec![user("q")]), [message("system", "row"), user("a"), assistant("b"), user("q")]);
        assert_eq!(
            asked(vec![message("system", "own"), user("e"), assistant("f"), user("q")]),
            [message("system", "row\n\nown"), user("e"), assistant("f"), user("a"), assistant("b"), user("q")]
        );
        assert_eq!(continued(vec![], vec![user("q")]), [user("q")]);
    }
}

//! One question as the rehearsal sees it: the row, the draws that belong to it, and what a wrong answer may look like.

use super::RehearsalSettings;
use crate::draw::Draw;
use crate::llm::{Request, Task};
use crate::tablets::text::read_problem;
use crate::tablets::{Counts, Problem, text};
use serde_json::Value;

pub struct Case<'a> {
    pub settings: &'a RehearsalSettings,
    pub task: &'a Task,
    /// Which of several independent answers is asked for; the search's attempt.
    pub sample: u32,
    /// Keyed by what is asked about which row, never by the prompt's words.
    pub draw: Draw,
}

impl<'a> Case<'a> {
    pub fn new(settings: &'a RehearsalSettings, task: &'a Task, request: &Request) -> Case<'a> {
        let round = task.row.get("round").and_then(Value::as_u64).unwrap_or(0);
        let draw = Draw::new(settings.seed, "rehearsal").of(task.name).of(&task.row_id);
        let draw = draw.at(request.sample.into()).at(request.ask.into()).at(round);
        Case { settings, task, sample: request.sample, draw }
    }

    /// A column's text; nothing where it is missing or no text.
    pub fn text(&self, column: &str) -> &'a str {
        self.task.row.get(column).and_then(Value::as_str).unwrap_or_default()
    }

    /// The question in its latest form.
    pub fn question(&self) -> &'a str {
        let problem = self.text("problem");
        if problem.is_empty() { self.text("question") } else { problem }
    }

    /// The known answer in its latest form.
    pub fn truth(&self) -> &'a str {
        let right_option =
            || self.options().find(|(letter, _)| *letter == self.text("answer_idx")).map(|(_, text)| text);
        let written = ["truth", "answer"].map(|column| self.text(column)).into_iter().find(|text| !text.is_empty());
        written.or_else(right_option).unwrap_or_default()
    }

    pub fn options(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let options = self.task.row.get("options").and_then(Value::as_object).into_iter().flatten();
        options.filter_map(|(letter, text)| Some((letter.as_str(), text.as_str()?)))
    }

    /// The tablet problem, where the question is one.
    pub fn tablets(&self) -> Option<Problem> {
        read_problem(self.question())
    }

    /// Counts as they are mostly written, now and then in another form.
    pub fn written(&self, counts: &Counts) -> String {
        let [x, y, z] = counts;
        let alias = self.draw.of("alias");
        match alias.chance(self.settings.alias) {
            true if alias.of("form").chance(0.5) => format!("{x}, {y} and {z}"),
            true => format!("{x} / {y} / {z}"),
            false => text::answer(counts),
        }
    }

    /// A wrong answer to a problem that is no tablet problem: another option where there are any.
    pub fn mistaken(&self) -> String {
        let truth = normalised(self.truth());
        let others: Vec<&str> = self.options().map(|(_, text)| text).filter(|text| normalised(text) != truth).collect();
        match others.is_empty() {
            true => "a mistaken answer (rehearsal)".to_string(),
            false => others[self.draw.of("mistake").below(others.len())].to_string(),
        }
    }

    /// The reply, at the stated rate broken off in its middle.
    pub fn perhaps_broken(&self, reply: String) -> String {
        if !self.draw.of("unparsable").chance(self.settings.unparsable) {
            return reply;
        }
        reply.chars().take(reply.chars().count() / 2).collect::<String>().replace('}', "")
    }
}

/// Letters and digits in lower case, single spaces: what two equal answers have in common.
pub fn normalised(text: &str) -> String {
    let folded: String =
        text.chars().flat_map(char::to_lowercase).map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

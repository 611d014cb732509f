//! `filter`: drops rows that weak models solve already, that a model labels as unfit, or that an expression rejects.

use super::asking::{self, Asked, Asker, Fate, divide, divide_by_asking, require_columns};
use super::examples::Examples;
use super::prompts::{FILTER, SOLVE, prompt_of};
use crate::answers::{End, Rule as Match, chosen_option, matches_truth};
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::llm::ReplyFormat;
use crate::prompt::{self, Prompt};
use crate::rows::object;
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::table::Table;
use crate::template::expressions;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const KIND: Kind = Kind {
    name: "filter",
    about: "Keeps rows by exactly one of `drop_if_all_solve`, `model` with `keep`, and `where`.",
    schema: FilterSettings::schema,
    read,
};

crate::choice! {
    /// What a model says of an exam question.
    pub enum Label {
        /// Fit to become an open problem.
        "pass" => Pass,
        /// Answered without thought.
        "too_simple" => TooSimple,
        /// Several options could be called right, or the exception is asked for.
        "ambiguous_answer" => AmbiguousAnswer,
        /// Makes no sense without its options.
        "not_reformulatable" => NotReformulatable,
    }
}

crate::settings! {
    /// Which rows go on.
    pub struct FilterSettings {
        pub input: NodeRef,
        /// Drops what every one of these models solves. They are asked one after the other, the next only while all before solved it.
        pub drop_if_all_solve: Option<Vec<ModelName>> = None,
        /// Drops questions with fewer characters.
        pub min_length: usize = 0,
        /// Labels each question; rows with a label under `keep` go on.
        pub model: Option<ModelName> = None,
        pub keep: Vec<Label> = vec![Label::Pass],
        /// An expression over the row's columns, such as `question|length > 40 and answer_idx != 'E'`.
        pub r#where: Option<String> = None,
        /// A prompt file; `solve.md` or `filter.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        /// How often a model is asked for a label before a row is marked.
        pub asks: u32 = 3,
    }
}

struct Filter {
    settings: FilterSettings,
    rule: Rule,
}

enum Rule {
    Difficulty { solvers: Vec<ModelName>, prompt: Prompt },
    Quality { model: ModelName, prompt: Prompt },
    Where { expression: String, columns: Vec<String> },
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = FilterSettings::read_fields(fields, reader)?;
    let rule = match (settings.drop_if_all_solve.clone(), settings.model.clone(), settings.r#where.clone()) {
        (Some(solvers), None, None) => {
            Rule::Difficulty { solvers, prompt: prompt_of(fields, "prompt", &SOLVE, reader)? }
        }
        (None, Some(model), None) => Rule::Quality { model, prompt: prompt_of(fields, "prompt", &FILTER, reader)? },
        (None, None, Some(expression)) => checked(expression, reader)?,
        _ => {
            let hint = Some("write exactly one of `drop_if_all_solve`, `model`, `where`".to_string());
            reader.mistake("one-of", "a filter needs one rule", hint);
            return None;
        }
    };
    Some(Box::new(Filter { settings, rule }))
}

fn checked(expression: String, reader: &mut Reader) -> Option<Rule> {
    let environment = expressions();
    let hint = Some("such as `question|length > 40 and answer_idx != 'E'`".to_string());
    let compiled = match environment.compile_expression(&expression) {
        Ok(compiled) => compiled,
        Err(error) => {
            let message = format!("not an expression: {}", error.detail().unwrap_or("it ends too early"));
            let note = |reader: &mut Reader| reader.mistake("broken-expression", message, hint);
            reader.within(Step::Key("where".to_string()), note);
            return None;
        }
    };
    let unknown = prompt::unknown_words(&expression);
    for (what, word, hint) in &unknown {
        let note =
            |reader: &mut Reader| reader.mistake("unknown-filter", format!("unknown {what} `{word}`"), hint.clone());
        reader.within(Step::Key("where".to_string()), note);
    }
    // Whoever asks whether a column is there knows that it may not be.
    let asks = ["defined", "default"].iter().any(|word| expression.contains(word));
    let columns = if asks { Vec::new() } else { compiled.undeclared_variables(false).into_iter().collect() };
    drop(compiled);
    unknown.is_empty().then_some(Rule::Where { expression, columns })
}

impl Stage for Filter {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        json!(self.settings)
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::rows("input", &self.settings.input)]
    }

    fn models(&self) -> Vec<(String, String)> {
        match &self.rule {
            Rule::Difficulty { solvers, .. } => {
                solvers.iter().enumerate().map(|(index, solver)| (solver_port(index), solver.0.clone())).collect()
            }
            Rule::Quality { model, .. } => vec![("model".to_string(), model.0.clone())],
            Rule::Where { .. } => Vec::new(),
        }
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        match &self.rule {
            Rule::Difficulty { prompt, .. } => vec![("solve", prompt.clone())],
            Rule::Quality { prompt, .. } => vec![("filter", prompt.clone())],
            Rule::Where { .. } => Vec::new(),
        }
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &[])
    }

    fn needs(&self) -> Vec<Need> {
        match &self.rule {
            Rule::Difficulty { prompt, .. } => asking::needs(&["question", "answer"])
                .into_iter()
                .chain(prompt.needs("prompt", "input", &["options"]))
                .collect(),
            Rule::Quality { prompt, .. } => {
                let shown = prompt.needs("prompt", "input", &["options", "answer_idx", "answer"]);
                asking::needs(&["question"]).into_iter().chain(shown).collect()
            }
            Rule::Where { columns, .. } => columns.iter().map(|name| Need::named("input", "where", name)).collect(),
        }
    }

    fn calls(&self, rows: u64) -> Outlook {
        match &self.rule {
            Rule::Difficulty { solvers, .. } => {
                let asked: f64 = (0..solvers.len()).map(|before| HALF.powi(before as i32)).sum();
                let because = "each model solves half of the questions that it is asked";
                Outlook::about(rows as f64 * asked, because, rows * solvers.len() as u64)
            }
            Rule::Quality { .. } => asking::one_question(rows, self.settings.asks),
            Rule::Where { .. } => Outlook::exactly(0),
        }
    }

    fn is_quick(&self) -> bool {
        matches!(self.rule, Rule::Where { .. })
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        match &self.rule {
            Rule::Difficulty { solvers, prompt } => self.difficulty(&table, solvers.len(), prompt, context),
            Rule::Quality { prompt, .. } => self.quality(&table, prompt, context),
            Rule::Where { expression, .. } => self.by_expression(&table, expression, context),
        }
    }
}

/// What a plan assumes of what was never measured.
const HALF: f64 = 0.5;

fn solver_port(index: usize) -> String {
    format!("solver.{index}")
}

impl Filter {
    fn difficulty(&self, table: &Table, solvers: usize, prompt: &Prompt, context: &dyn Context) -> Result<Outputs> {
        require_columns(table, &["question", "answer"])?;
        let solvers: Vec<Arc<Asker>> = (0..solvers)
            .map(|index| {
                let caller = context.caller(&solver_port(index))?;
                Ok(Asker::new(caller, prompt, &SOLVE, "solve", ReplyFormat::Text, 1))
            })
            .collect::<Result<_>>()?;
        let concurrency = solvers.iter().map(|solver| solver.concurrency()).max().unwrap_or(1);
        let least = self.settings.min_length;
        divide_by_asking(context, "filter", table, &[], concurrency, move |item| {
            let (solvers, row) = (solvers.clone(), item.object());
            let short = too_short(&row, least);
            async move {
                if let Some(fate) = short {
                    return Ok(fate);
                }
                for solver in &solvers {
                    let asked = Asked { row_id: item.id.clone(), row: row.clone(), sample: 0 };
                    let reply = solver.ask(asked, |text| Ok(text.to_string())).await?;
                    if !reply.is_ok_and(|reply| is_solved(&reply, &row)) {
                        return Ok(Fate::kept("not solved by every model", vec![]));
                    }
                }
                Ok(Fate::dropped("solved by every model", vec![]))
            }
        })
    }

    fn quality(&self, table: &Table, prompt: &Prompt, context: &dyn Context) -> Result<Outputs> {
        require_columns(table, &["question"])?;
        let asks = self.settings.asks;
        let asker = Asker::new(context.caller("model")?, prompt, &FILTER, "label", ReplyFormat::Json, asks);
        let (keep, least) = (self.settings.keep.clone(), self.settings.min_length);
        divide_by_asking(context, "filter", table, &[], asker.concurrency(), move |item| {
            let (asker, keep, row) = (asker.clone(), keep.clone(), item.object());
            let short = too_short(&row, least);
            async move {
                if let Some(fate) = short {
                    return Ok(fate);
                }
                let label = asker.ask(Asked { row_id: item.id, row, sample: 0 }, parse_label).await?;
                Ok(label.map_or_else(
                    |fate| fate,
                    |label| match keep.contains(&label) {
                        true => Fate::kept(label.word(), vec![]),
                        false => Fate::dropped(label.word(), vec![]),
                    },
                ))
            }
        })
    }

    fn by_expression(&self, table: &Table, expression: &str, context: &dyn Context) -> Result<Outputs> {
        let environment = expressions();
        let broken = |error: minijinja::Error| {
            let columns: Vec<&str> = table.columns().iter().map(|column| column.name.as_str()).collect();
            Failure::recipe(format!("`where: {expression}`: {error}; the columns are `{}`", columns.join("`, `")))
        };
        let compiled = environment.compile_expression(expression).map_err(broken)?;
        divide(context, "filter", table, &[], |row| {
            let row = object(table.columns(), row);
            if let Some(fate) = too_short(&row, self.settings.min_length) {
                return Ok(fate);
            }
            let value = compiled.eval(minijinja::value::Serde(&row)).map_err(broken)?;
            Ok(match value.is_true() {
                true => Fate::kept(format!("`{expression}` holds"), vec![]),
                false => Fate::dropped(format!("`{expression}` does not hold"), vec![]),
            })
        })
    }
}

fn too_short(row: &Map<String, Value>, least: usize) -> Option<Fate> {
    let question = row.get("question").or_else(|| row.get("problem")).and_then(Value::as_str).unwrap_or_default();
    let short = question.chars().count() < least;
    short.then(|| Fate::dropped(format!("shorter than {least} characters"), vec![]))
}

/// Whether a reply holds the right answer. One that only resembles an option is no answer here: a weak model that rambles knows nothing.
fn is_solved(reply: &str, row: &Map<String, Value>) -> bool {
    let text = |column: &str| row.get(column).and_then(Value::as_str).unwrap_or_default();
    let options = row.get("options").and_then(Value::as_object).into_iter().flatten();
    let options: Vec<(&str, &str)> =
        options.filter_map(|(letter, text)| Some((letter.as_str(), text.as_str()?))).collect();
    if options.is_empty() {
        return matches_truth(reply, text("answer"));
    }
    let (chosen, found_by) = chosen_option(reply, &options, End::Last);
    let right = |letter: &str| {
        letter == text("answer_idx")
            || options.iter().any(|(option, said)| *option == letter && matches_truth(said, text("answer")))
    };
    found_by != Match::Similar && chosen.is_some_and(right)
}

#[derive(Deserialize)]
struct Labelled {
    label: String,
}

/// `Too Simple` and `too-simple` are the label `too_simple`.
fn parse_label(text: &str) -> Result<Label, String> {
    let word = crate::tolerant_json::read::<Labelled>(text)?.label.trim().to_lowercase().replace([' ', '-'], "_");
    Label::from_word(&word).ok_or_else(|| format!("`{word}` is not one of `{}`", Label::WORDS.join("`, `")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_solved_by_the_right_option_only() {
        let row = json!({"answer": "Aortic stenosis", "answer_idx": "C",
            "options": {"A": "Mitral stenosis", "B": "Tetralogy", "C": "Aortic stenosis", "D": "Stenosis"}});
        for (reply, expected) in [
            ("The answer is C.", true),
            ("The answer is A, no, the answer is (C)", true),
            ("The answer is aortic stenosis.", true),
            ("C. Aortic stenosis", true),
            ("It must be aortic stenosis, I think", true),
            ("The answer is B.", false),
            ("Mitral stenosis", false),
            ("I am not sure about this one.", false),
            ("", false),
        ] {
            assert_eq!(is_solved(reply, row.as_object().unwrap()), expected, "{reply}");
        }
        let open = json!({"answer": "1/2/1"});
        for (reply, expected) in [("The answer is 1/2/1.", true), ("1/2/2", false), ("", false)] {
            assert_eq!(is_solved(reply, open.as_object().unwrap()), expected, "{reply}");
        }
    }

    #[test]
    fn labels_are_read_in_any_spelling_but_no_other_word_is() {
        for (text, expected) in [
            (r#"{"label": "Pass"}"#, Some(Label::Pass)),
            (r#"```json {"reason": "x", "label": "Too Simple"} ```"#, Some(Label::TooSimple)),
            (r#"{"label": "ambiguous-answer"}"#, Some(Label::AmbiguousAnswer)),
            (r#"{"label": "fine"}"#, None),
            ("pass", None),
        ] {
            assert_eq!(parse_label(text).ok(), expected, "{text}");
        }
    }
}

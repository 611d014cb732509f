//! `eval`: models answer the same problems, greedily and sampled; accuracies with intervals, and paired differences.

mod arm;
mod score;

use super::sft::{positive, question_column, question_need};
use super::source::sample;
use super::student::Student;
use super::text::cell_text;
use super::verifier::{Claim, Verifier};
use crate::answers::Rule;
use crate::columns::{Columns, Need};
use crate::context::{Context, Progress};
use crate::failure::{Failure, Result};
use crate::model::generate::{Finish, Sampling};
use crate::prompt::Prompt;
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Outputs, Stage, Unkeyed};
use crate::train::evaluate::{FINAL_RESPONSE, final_response};
use arm::Arm;
use indexmap::IndexMap;
use score::{Answered, Choices, report};
use serde_json::{Map, Value};

pub const KIND: Kind = Kind {
    name: "eval",
    about: "Accuracy of models on the same problems, with intervals and paired differences.",
    schema: EvalSettings::schema,
    read,
};

crate::settings! {
    /// Who is asked what, and how answers are matched.
    pub struct EvalSettings {
        /// Rows with a problem and its truth.
        pub input: NodeRef,
        /// Label: model node. Each is compared with the one before it; a node with variants stands for all of them.
        pub models: IndexMap<String, Arm>,
        pub modes: Vec<Mode> = vec![Mode::Greedy, Mode::Sampled],
        /// Of the mode `sampled`.
        pub temperature: f64 = 1.0,
        pub top_p: f64 = 1.0,
        pub max_new_tokens: usize = 256,
        /// Only so many problems, drawn by the seed.
        pub limit: Option<usize> = None,
        /// What answers are compared with.
        pub matching: Matching = Matching::Truth,
        /// `rules` or a model that judges, where answers are compared with the truth.
        pub verifier: Verifier = Verifier::Rules,
        /// The judge's prompt file; `verify.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// The column to be answered; `problem` (for options `question`) when left out.
        pub question: Option<String> = None,
        pub truth: String = "truth".to_string(),
        /// The column of options (letter: text), and that of the right letter.
        pub options: String = "options".to_string(),
        pub answer: String = "answer_idx".to_string(),
    }
}

crate::choice! {
    /// How tokens are chosen.
    pub enum Mode { "greedy" => Greedy, "sampled" => Sampled }
}

crate::choice! {
    /// What answers are compared with.
    pub enum Matching {
        /// The row's truth, as free text.
        "truth" => Truth,
        /// The options, which are shown with the question.
        "options" => Options,
    }
}

struct Eval {
    settings: EvalSettings,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = EvalSettings::read_fields(fields, reader)?;
    let prompt = settings.verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    for (key, empty) in [("models", settings.models.is_empty()), ("modes", settings.modes.is_empty())] {
        let note = |reader: &mut Reader| reader.mistake("nothing-given", format!("`{key}` names nothing"), None);
        if empty {
            reader.within(Step::Key(key.into()), note);
        }
    }
    arm::check(&settings.models, &TABLE.map(|(name, _)| name), reader);
    positive("temperature", settings.temperature, reader);
    positive("max_new_tokens", settings.max_new_tokens as f64, reader);
    (reader.mistakes.len() == before).then(|| Box::new(Eval { settings, prompt }) as Box<dyn Stage>)
}

impl Stage for Eval {
    fn version(&self) -> u32 {
        1
    }

    /// Labels in their order: a key does not see the order of a mapping. Axes are there where some arm has one.
    fn settings(&self) -> Value {
        let mut settings = serde_json::to_value(&self.settings).expect("settings are plain data");
        settings["models"] = self.settings.models.keys().cloned().collect();
        let axes = arm::axes(&self.settings.models);
        if !axes.is_empty() {
            let places = self.settings.models.values().map(|arm| arm.place(&axes)).collect::<Vec<_>>();
            settings["axes"] = serde_json::json!({"names": axes, "places": places});
        }
        settings
    }

    fn inputs(&self) -> Vec<Input> {
        let models = self.settings.models.iter().map(|(label, arm)| Input::model(&port(label), &arm.node));
        [Input::rows("input", &self.settings.input)].into_iter().chain(models).collect()
    }

    fn models(&self) -> Vec<(String, String)> {
        self.settings.verifier.models()
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        self.prompt.iter().map(|prompt| ("verify", prompt.clone())).collect()
    }

    fn draws(&self) -> bool {
        true
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn columns(&self, _output: &str, _inputs: &[Columns]) -> Columns {
        Columns::known(TABLE.map(|(name, _)| name))
    }

    fn needs(&self) -> Vec<Need> {
        let settings = &self.settings;
        let named = settings.question.as_deref();
        match settings.matching {
            Matching::Truth => vec![question_need("input", named), Need::named("input", "truth", &settings.truth)],
            Matching::Options => vec![
                Need::named("input", "question", named.unwrap_or("question")),
                Need::named("input", "options", &settings.options),
                Need::named("input", "answer", &settings.answer),
            ],
        }
    }

    fn calls(&self, rows: u64) -> Outlook {
        match self.settings.matching {
            Matching::Truth => self.settings.verifier.calls(self.answers(rows)),
            Matching::Options => Outlook::exactly(0),
        }
    }

    fn rows_out(&self, rows: &[u64]) -> Vec<Outlook> {
        vec![Outlook::exactly(self.answers(rows.first().copied().unwrap_or(0)))]
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let mut rows = inputs.take_rows("input")?;
        if let Some(limit) = self.settings.limit {
            rows = sample(rows, limit, &context.draw().of("limit"));
        }
        let problems = self.problems(&rows)?;
        let mut answered: Vec<Answered> = Vec::new();
        for label in self.settings.models.keys() {
            let student = Student::open(inputs.model_folder(&port(label)), &context.device())?;
            for &mode in &self.settings.modes {
                context.checkpoint()?;
                self.progress(answered.len(), &problems, label, context);
                answered.push(self.answer(&student, label, mode, &problems, context)?);
            }
        }
        self.progress(answered.len(), &problems, "", context);
        Ok(Outputs::rows(table(&self.settings.models, &problems, &answered), report(&self.settings, &answered)))
    }
}

fn port(label: &str) -> String {
    format!("models.{label}")
}

/// One question, as it is put and as it would be right.
struct Problem {
    id: String,
    question: String,
    /// The truth, or the right option's letter.
    truth: String,
    /// Letter and text of each option; empty when the truth is compared.
    options: Vec<(String, String)>,
}

impl Eval {
    /// Of all models in all modes.
    fn answers(&self, problems: u64) -> u64 {
        let problems = self.settings.limit.map_or(problems, |limit| problems.min(limit as u64));
        problems * (self.settings.models.len() * self.settings.modes.len()) as u64
    }

    fn problems(&self, rows: &Rows) -> Result<Vec<Problem>> {
        if rows.is_empty() {
            return Err(Failure::recipe("there is nothing to evaluate on: the input has no problems"));
        }
        match self.settings.matching {
            Matching::Truth => {
                let question = question_column(rows, self.settings.question.as_deref())?;
                let truth = rows.require(&self.settings.truth)?;
                Ok(rows.rows.iter().map(|row| open_problem(row, question, truth)).collect())
            }
            Matching::Options => {
                let question = rows.require(self.settings.question.as_deref().unwrap_or("question"))?;
                let columns = [question, rows.require(&self.settings.options)?, rows.require(&self.settings.answer)?];
                rows.rows.iter().map(|row| closed_problem(row, columns)).collect()
            }
        }
    }

    fn answer(
        &self,
        student: &Student,
        label: &str,
        mode: Mode,
        problems: &[Problem],
        context: &dyn Context,
    ) -> Result<Answered> {
        let prompts = problems.iter().map(|problem| student.prompt(&problem.question)).collect::<Result<Vec<_>>>()?;
        // The same draws for every model: what differs between two models is theirs.
        let draw = context.draw().of("answer");
        let seeds: Vec<u64> = problems.iter().map(|problem| draw.of(&problem.id).bits()).collect();
        let generations = student.answers(&prompts, &seeds, &self.sampling(mode))?;
        let mut answered = Answered { label: label.to_string(), mode, answers: Vec::with_capacity(problems.len()) };
        for (generation, text) in generations {
            let answer = response(&text).to_string();
            answered.answers.push(score::Answer {
                formatted: final_response(&text).is_some(),
                tokens: generation.tokens.len(),
                truncated: generation.finish == Finish::Length,
                right: false,
                rule: None,
                text,
                answer,
            });
        }
        self.judge(&mut answered, problems, context)?;
        Ok(answered)
    }

    fn judge(&self, answered: &mut Answered, problems: &[Problem], context: &dyn Context) -> Result<()> {
        let pairs = || problems.iter().zip(&answered.answers);
        let verdicts: Vec<(bool, Option<Rule>)> = match self.settings.matching {
            Matching::Truth => {
                let claims: Vec<Claim> = pairs().map(|(problem, answer)| claim(problem, answer)).collect();
                let verdicts = self.settings.verifier.verdicts(&claims, self.prompt.as_ref(), context)?;
                verdicts.into_iter().map(|right| (right, None)).collect()
            }
            Matching::Options => {
                let replies = pairs().map(|(p, a)| (a.answer.as_str(), p.options.as_slice(), p.truth.as_str()));
                Choices::of(replies).better().into_iter().map(|(right, rule)| (right, Some(rule))).collect()
            }
        };
        for (answer, (right, rule)) in answered.answers.iter_mut().zip(verdicts) {
            (answer.right, answer.rule) = (right && !answer.answer.is_empty(), rule);
        }
        Ok(())
    }

    fn sampling(&self, mode: Mode) -> Sampling {
        let tokens_max = self.settings.max_new_tokens;
        match mode {
            Mode::Greedy => Sampling { temperature: 0.0, tokens_max, ..Sampling::default() },
            Mode::Sampled => Sampling {
                temperature: self.settings.temperature as f32,
                top_p: self.settings.top_p as f32,
                tokens_max,
                ..Sampling::default()
            },
        }
    }

    fn progress(&self, done: usize, problems: &[Problem], label: &str, context: &dyn Context) {
        let total = self.settings.models.len() * self.settings.modes.len();
        let count = |sets: usize| (sets * problems.len()) as u64;
        context.progress(Progress { done: count(done), total: count(total), unit: "answers", note: label.to_string() });
    }
}

fn open_problem(row: &Row, question: usize, truth: usize) -> Problem {
    let text = |column: usize| cell_text(&row.cells[column]);
    Problem { id: row.id.clone(), question: text(question), truth: text(truth), options: Vec::new() }
}

fn closed_problem(row: &Row, [question, options, answer]: [usize; 3]) -> Result<Problem> {
    let Value::Object(listed) = &row.cells[options] else {
        return Err(Failure::recipe(format!("row `{}` has no options but `{}`", row.id, row.cells[options])));
    };
    let options: Vec<(String, String)> =
        listed.iter().map(|(letter, text)| (letter.clone(), cell_text(text))).collect();
    let lines: String = options.iter().map(|(letter, text)| format!("\n{letter}. {text}")).collect();
    let question = format!("{}{lines}", cell_text(&row.cells[question]));
    Ok(Problem { id: row.id.clone(), question, truth: cell_text(&row.cells[answer]), options })
}

fn claim<'a>(problem: &'a Problem, answer: &'a score::Answer) -> Claim<'a> {
    Claim { row_id: &problem.id, response: &answer.answer, truth: &problem.truth }
}

/// The part of a text that answers: after the last heading of a final response, else all of it.
fn response(text: &str) -> &str {
    text.rsplit_once(FINAL_RESPONSE).map_or(text, |(_, response)| response).trim()
}

/// What is told of each answer; a column for each axis follows.
const TABLE: [(&str, ColumnType); 9] = [
    ("model", ColumnType::Text),
    ("mode", ColumnType::Text),
    ("problem", ColumnType::Text),
    ("truth", ColumnType::Text),
    ("text", ColumnType::Text),
    ("answer", ColumnType::Text),
    ("right", ColumnType::Bool),
    ("format", ColumnType::Bool),
    ("tokens", ColumnType::Int),
];

/// One row for each problem, model and mode.
fn table(arms: &IndexMap<String, Arm>, problems: &[Problem], answered: &[Answered]) -> Rows {
    let axes = arm::axes(arms);
    let columns = TABLE.into_iter().chain(axes.iter().map(|axis| (*axis, ColumnType::Text)));
    let columns = columns.map(|(name, column_type)| Column { name: name.to_string(), column_type });
    let mut rows = Rows::new(columns.collect());
    for Answered { label, mode, answers } in answered {
        let place: Vec<Value> = arms[label].place(&axes).into_iter().map(Value::from).collect();
        rows.rows.extend(problems.iter().zip(answers).map(|(problem, answer)| {
            Row {
                id: format!("{} {label} {}", problem.id, mode.word()),
                cells: [
                    Value::from(label.as_str()),
                    Value::from(mode.word()),
                    Value::from(problem.question.as_str()),
                    Value::from(problem.truth.as_str()),
                    Value::from(answer.text.as_str()),
                    Value::from(answer.answer.as_str()),
                    Value::from(answer.right),
                    Value::from(answer.formatted),
                    Value::from(answer.tokens),
                ]
                .into_iter()
                .chain(place.clone())
                .collect(),
            }
        }));
    }
    rows
}

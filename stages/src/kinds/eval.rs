//! `eval`: models answer the same problems, greedily and sampled; accuracies with intervals, and paired differences.

mod arm;
mod paired;
mod score;
mod way;

use super::sft::{positive, question_column, question_need};
use super::source::sample;
use super::student::Student;
use super::text::cell_text;
use super::verifier::{Claim, Verifier};
use crate::answers::Rule;
use crate::columns::{Columns, Need};
use crate::context::{Context, Progress};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::generate::Finish;
use crate::prompt::Prompt;
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Outputs, Stage, Unkeyed};
use crate::train::evaluate::{FINAL_RESPONSE, final_response};
use arm::Arm;
use indexmap::IndexMap;
use score::{Answered, Choices, report};
use serde_json::{Map, Value};
use way::Way;

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
        /// The label that all others are compared with, variants at the same place of the axes; the one before each when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub baseline: Option<String> = None,
        pub modes: Vec<Mode> = vec![Mode::Greedy, Mode::Sampled],
        /// Of the mode `sampled`; several are sampled at one after another.
        #[serde(serialize_with = "way::one_or_list")]
        pub temperature: Vec<f64> = vec![1.0],
        /// Answers to each problem in the mode `sampled`. Above 1, pass@1 is the mean over them, and pass@k the chance that one of k is
        /// right (Chen 2021).
        #[serde(skip_serializing_if = "is_one")]
        pub samples: usize = 1,
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

fn is_one(samples: &usize) -> bool {
    *samples == 1
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
    arm::check(&settings.models, &columns(&settings).map(|(name, _)| name).collect::<Vec<_>>(), reader);
    paired::check(settings.baseline.as_deref(), &settings.models, reader);
    way::check(&settings.temperature, reader);
    positive("samples", settings.samples as f64, reader);
    positive("max_new_tokens", settings.max_new_tokens as f64, reader);
    (reader.mistakes.len() == before).then(|| Box::new(Eval { settings, prompt }) as Box<dyn Stage>)
}

impl Stage for Eval {
    /// 2 since shares are added in another order where a token is drawn, 3 since exponentials are made of fused steps.
    fn version(&self) -> u32 {
        3
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
        Columns::known(columns(&self.settings).map(|(name, _)| name))
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
            for way in Way::all(&self.settings) {
                context.checkpoint()?;
                self.progress(&answered, &problems, label, context);
                answered.push(self.answer(&student, label, way, &problems, context)?);
            }
        }
        self.progress(&answered, &problems, "", context);
        Ok(Outputs::rows(table(&self.settings, &problems, &answered), report(&self.settings, &answered)))
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
    /// Of all models in all ways.
    fn answers(&self, problems: u64) -> u64 {
        let problems = self.settings.limit.map_or(problems, |limit| problems.min(limit as u64));
        let each: usize = Way::all(&self.settings).iter().map(|way| way.samples).sum();
        problems * (self.settings.models.len() * each) as u64
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
        way: Way,
        problems: &[Problem],
        context: &dyn Context,
    ) -> Result<Answered> {
        let prompts = problems.iter().map(|problem| student.prompt(&problem.question)).collect::<Result<Vec<_>>>()?;
        let prompts: Vec<_> = prompts.into_iter().flat_map(|prompt| vec![prompt; way.samples]).collect();
        let seeds = seeds(problems, way.samples, &context.draw().of("answer"));
        let generations = student.answers(&prompts, &seeds, &way.sampling(&self.settings))?;
        let mut answered = Answered { label: label.to_string(), way, answers: Vec::with_capacity(seeds.len()) };
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
        let samples = answered.way.samples;
        let pairs = || answered.answers.iter().enumerate().map(|(at, answer)| (&problems[at / samples], answer));
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

    fn progress(&self, answered: &[Answered], problems: &[Problem], label: &str, context: &dyn Context) {
        let done = answered.iter().map(|set| set.answers.len() as u64).sum();
        let total = self.answers(problems.len() as u64);
        context.progress(Progress { done, total, unit: "answers", note: label.to_string() });
    }
}

/// The same draws for every model: what differs between two models is theirs.
fn seeds(problems: &[Problem], samples: usize, draw: &Draw) -> Vec<u64> {
    let seed = |problem: &Problem, sample: usize| match (draw.of(&problem.id), sample) {
        (draw, 0) => draw.bits(),
        (draw, sample) => draw.at(sample as u64).bits(),
    };
    problems.iter().flat_map(|problem| (0..samples).map(move |sample| seed(problem, sample))).collect()
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

/// The columns before those of axes: which answer to its problem it is comes where there are several.
fn columns(settings: &EvalSettings) -> impl Iterator<Item = (&'static str, ColumnType)> + use<> {
    TABLE.into_iter().chain((settings.samples > 1).then_some(("sample", ColumnType::Int)))
}

/// One row for each problem, model, way and sample.
fn table(settings: &EvalSettings, problems: &[Problem], answered: &[Answered]) -> Rows {
    let axes = arm::axes(&settings.models);
    let column = |(name, column_type): (&str, ColumnType)| Column { name: name.to_string(), column_type };
    let placed = axes.iter().map(|axis| column((axis, ColumnType::Text)));
    let mut rows = Rows::new(columns(settings).map(column).chain(placed).collect());
    for set in answered {
        let place = settings.models[&set.label].place(&axes);
        rows.rows.extend((0..set.answers.len()).map(|at| {
            let mut row = row(&problems[at / set.way.samples], set, at, settings.samples > 1);
            row.cells.extend(place.iter().map(|&value| Value::from(value)));
            row
        }));
    }
    rows
}

/// The answer at a place of a set.
fn row(problem: &Problem, set: &Answered, at: usize, numbered: bool) -> Row {
    let (answer, word, sample) = (&set.answers[at], set.way.word(), at % set.way.samples + 1);
    let mut id = format!("{} {} {word}", problem.id, set.label);
    let mut cells = vec![
        Value::from(set.label.as_str()),
        Value::from(word),
        Value::from(problem.question.as_str()),
        Value::from(problem.truth.as_str()),
        Value::from(answer.text.as_str()),
        Value::from(answer.answer.as_str()),
        Value::from(answer.right),
        Value::from(answer.formatted),
        Value::from(answer.tokens),
    ];
    if numbered {
        id = format!("{id} {sample}");
        cells.push(Value::from(sample));
    }
    Row { id, cells }
}

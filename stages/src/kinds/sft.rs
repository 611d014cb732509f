//! `sft`: a base model learns to think and answer as the training rows do; the loss counts the target only.

mod base;

pub use base::Base;

use super::student::{NodeHost, Student, spread};
use super::text::cell_text;
use crate::columns::Need;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::model::chat::ChatTemplate;
use crate::model::tensors;
use crate::model::tokenizer::END_OF_TEXT;
use crate::report::{Report, ReportTable};
use crate::rows::{Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, NodeRef, Output, Outputs, Stage, Unkeyed};
use crate::train::Metrics;
use crate::train::batches::{Example, Keep};
use crate::train::evaluate::{FINAL_RESPONSE, target};
use crate::train::optimizer::AdamW;
use crate::train::schedule::{Schedule, Shape};
use crate::train::sft::{BatchSize, Duration, SftSettings, train};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Instant;

pub const KIND: Kind = Kind {
    name: "sft",
    about: "Fine-tunes a model on thoughts and responses; outputs the model and, as `base`, what it started from.",
    schema: SftNode::schema,
    read,
};

crate::settings! {
    /// What is learnt, from where on, and how.
    pub struct SftNode {
        /// Rows with a question, a thought (may be missing) and a response.
        pub input: NodeRef,
        pub base: Base,
        /// Passes over the rows; 3 when neither this nor `tokens` is given.
        pub epochs: Option<f64> = None,
        /// Tokens to read in all, in place of `epochs`.
        pub tokens: Option<u64> = None,
        /// The highest learning rate; when left out, 3e-3 for a model that starts from nothing and 5e-6 for any other.
        pub lr: Option<f64> = None,
        pub schedule: ScheduleShape = ScheduleShape::CoolDown,
        /// The last share of the run in which a `cool_down` schedule falls.
        pub cool_down: f64 = 0.5,
        /// The share of the run over which the rate rises.
        pub warmup: f64 = 0.02,
        /// Where the rate ends, as a share of the highest.
        pub floor: f64 = 0.05,
        pub weight_decay: f64 = 0.1,
        /// The gradient's norm is scaled down to this.
        pub clip: f64 = 1.0,
        /// Tokens a step; 384 when neither this nor `batch_rows` is given.
        pub batch_tokens: Option<usize> = None,
        /// Rows a step, in place of `batch_tokens`.
        pub batch_rows: Option<usize> = None,
        /// Longer texts are cut to so many tokens.
        pub max_length: usize = 8192,
        /// Which end of a too long text stays.
        pub keep: KeptEnd = KeptEnd::Tail,
        /// The column to be answered; `problem`, else `question` when left out.
        pub question: Option<String> = None,
        pub thought: String = "thought".to_string(),
        pub response: String = "response".to_string(),
        /// A Jinja chat template in place of the base model's.
        pub template: Option<String> = None,
        pub precision: StoredPrecision = StoredPrecision::F32,
        /// Steps between two checkpoints.
        pub checkpoint_every: Unkeyed<u64> = Unkeyed(500),
    }
}

crate::choice! {
    /// The learning rate after warm-up.
    pub enum ScheduleShape {
        /// Half a cosine.
        "cosine" => Cosine,
        "linear" => Linear,
        "constant" => Constant,
        /// Constant, then a straight line down.
        "cool_down" => CoolDown,
    }
}

crate::choice! {
    /// An end of a text.
    pub enum KeptEnd { "head" => Head, "tail" => Tail }
}

crate::choice! {
    /// How weights are written.
    pub enum StoredPrecision { "f32" => F32, "bf16" => Bf16 }
}

impl StoredPrecision {
    pub fn of_tensors(self) -> tensors::Precision {
        match self {
            StoredPrecision::F32 => tensors::Precision::F32,
            StoredPrecision::Bf16 => tensors::Precision::Bf16,
        }
    }
}

impl ScheduleShape {
    /// The loop's schedule with this shape.
    pub fn schedule(self, peak: f64, warmup: f64, floor: f64, cool_down: f64) -> Schedule {
        let shape = match self {
            ScheduleShape::Cosine => Shape::Cosine,
            ScheduleShape::Linear => Shape::Linear,
            ScheduleShape::Constant => Shape::Constant,
            ScheduleShape::CoolDown => Shape::CoolDown { share: cool_down },
        };
        Schedule { shape, peak, warmup, floor }
    }
}

impl SftNode {
    /// With the defaults that depend on other settings, so that writing one out changes no key.
    fn filled_in(mut self) -> SftNode {
        let fresh = matches!(self.base, Base::Fresh(_));
        self.lr.get_or_insert(if fresh { 3e-3 } else { 5e-6 });
        if self.tokens.is_none() {
            self.epochs.get_or_insert(3.0);
        }
        if self.batch_rows.is_none() {
            self.batch_tokens.get_or_insert(384);
        }
        self
    }

    /// The highest learning rate.
    fn peak(&self) -> f64 {
        self.lr.expect("defaults are filled in when settings are read")
    }
}

struct Sft(SftNode);

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = SftNode::read_fields(fields, reader)?.filled_in();
    let before = reader.mistakes.len();
    for (given, other, both) in [
        ("tokens", "epochs", settings.tokens.is_some() && settings.epochs.is_some()),
        ("batch_rows", "batch_tokens", settings.batch_rows.is_some() && settings.batch_tokens.is_some()),
    ] {
        let note = |reader: &mut Reader| {
            let hint = format!("`{other}: null` in a profile, or `--set ….{other}=null`, takes the other away");
            reader.mistake("both-given", format!("give `{given}` or `{other}`, not both"), Some(hint));
        };
        if both {
            reader.within(Step::Name(given.into()), note);
        }
    }
    for (key, value) in
        [("lr", settings.lr.unwrap_or(1.0)), ("clip", settings.clip), ("epochs", settings.epochs.unwrap_or(1.0))]
    {
        positive(key, value, reader);
    }
    (reader.mistakes.len() == before).then(|| Box::new(Sft(settings)) as Box<dyn Stage>)
}

/// Notes a mistake unless the number is finite and above 0.
pub fn positive(key: &str, value: f64, reader: &mut Reader) {
    if !(value.is_finite() && value > 0.0) {
        let note = |reader: &mut Reader| reader.mistake("out-of-range", format!("`{value}` should be above 0"), None);
        reader.within(Step::Key(key.to_string()), note);
    }
}

impl Stage for Sft {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.0).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        let rows = Input::rows("input", &self.0.input);
        match &self.0.base {
            Base::Node(node) => vec![rows, Input::model("base", node)],
            _ => vec![rows],
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.base.files()
    }

    fn draws(&self) -> bool {
        true
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::model(""), Output::model("base")]
    }

    fn needs(&self) -> Vec<Need> {
        let question = question_need("input", self.0.question.as_deref());
        vec![question, Need::named("input", "response", &self.0.response)]
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let started = Instant::now();
        let rows = inputs.take_rows("input")?;
        let lessons = self.lessons(&rows)?;
        let mut student = self.open(&lessons, &inputs, context)?;
        if let Some(template) = &self.0.template {
            student.template = ChatTemplate::new(template, "", END_OF_TEXT);
        }
        let examples = examples(&student, &lessons)?;
        let (folder, base) = (context.scratch().join("model"), context.scratch().join("base"));
        let precision = self.0.precision.of_tensors();
        student.save(&base, precision)?;
        let mut host =
            NodeHost::new(context, self.0.checkpoint_every.0, "steps", |row| format!("loss {:.3}", row.get("loss")))?;
        let settings = self.training(student.decoder.config().max_position_embeddings);
        let draw = context.draw().of("training");
        let (decoder, metrics) = train(student.decoder, &examples, &settings, &draw, &mut host)?;
        let student = Student { decoder, ..student };
        student.save_trained(&folder, precision, &metrics, started)?;
        let outputs = Outputs { report: report(&examples, &metrics), ..Outputs::default() };
        Ok(outputs.with("", Artifact::Model(folder)).with("base", Artifact::Model(base)))
    }
}

/// One row as texts.
struct Lesson {
    question: String,
    target: String,
}

impl Sft {
    fn lessons(&self, rows: &Rows) -> Result<Vec<Lesson>> {
        let question = question_column(rows, self.0.question.as_deref())?;
        let response = rows.require(&self.0.response)?;
        let thought = rows.position(&self.0.thought);
        let lesson = |row: &Row| {
            let thought = thought.map(|column| cell_text(&row.cells[column])).unwrap_or_default();
            let response = cell_text(&row.cells[response]);
            let target =
                if thought.is_empty() { format!("{FINAL_RESPONSE}{response}") } else { target(&thought, &response) };
            Lesson { question: cell_text(&row.cells[question]), target }
        };
        Ok(rows.rows.iter().map(lesson).collect())
    }

    fn open(&self, lessons: &[Lesson], inputs: &Inputs, context: &dyn Context) -> Result<Student> {
        match &self.0.base {
            Base::Folder(folder) => Student::open(folder, &context.device()),
            Base::Node(_) => Student::open(inputs.model_folder("base"), &context.device()),
            Base::Fresh(fresh) => {
                let texts = lessons.iter().flat_map(|lesson| [lesson.question.as_str(), lesson.target.as_str()]);
                // The plain prompt format ends a message with a line end.
                fresh.make(texts.chain(["\n"]), context.draw().of("initial weights").bits(), &context.device())
            }
        }
    }

    fn training(&self, positions: usize) -> SftSettings {
        let SftNode { epochs, tokens, batch_rows, batch_tokens, .. } = self.0;
        SftSettings {
            duration: tokens.map_or(Duration::Epochs(epochs.unwrap_or(3.0)), Duration::Tokens),
            batch: batch_rows.map_or(BatchSize::Tokens(batch_tokens.unwrap_or(384)), BatchSize::Rows),
            schedule: self.0.schedule.schedule(self.0.peak(), self.0.warmup, self.0.floor, self.0.cool_down),
            optimizer: AdamW { decay: self.0.weight_decay as f32, norm_max: self.0.clip as f32, ..AdamW::default() },
            length_max: self.0.max_length.min(positions),
            keep: match self.0.keep {
                KeptEnd::Head => Keep::Head,
                KeptEnd::Tail => Keep::Tail,
            },
        }
    }
}

/// The column a model is to answer.
pub fn question_column(rows: &Rows, named: Option<&str>) -> Result<usize> {
    match named {
        Some(name) => rows.require(name),
        None => rows.position("problem").map_or_else(|| rows.require("question"), Ok),
    }
}

/// The same before anything has run.
pub fn question_need(port: &str, named: Option<&str>) -> Need {
    named.map_or_else(|| Need::any(port, &["problem", "question"]), |name| Need::named(port, "question", name))
}

fn examples(student: &Student, lessons: &[Lesson]) -> Result<Vec<Example>> {
    let end = student.end_token()?;
    let example = |lesson: &Lesson| {
        let mut target = student.tokenizer.encode(&lesson.target)?;
        target.push(end);
        Ok(Example::new(&student.prompt(&lesson.question)?, &target))
    };
    let examples: Vec<Example> = lessons.iter().map(example).collect::<Result<_>>()?;
    if examples.is_empty() {
        return Err(Failure::recipe("there is nothing to train on: the input has no rows"));
    }
    Ok(examples)
}

fn report(examples: &[Example], metrics: &[Metrics]) -> Report {
    let shown = ["loss", "learning_rate", "grad_norm", "tokens", "epoch"];
    let columns = ["step"].into_iter().chain(shown).map(str::to_string).collect();
    let cells =
        |row: &Metrics| [row.step.to_string()].into_iter().chain(shown.map(|name| number(row.get(name)))).collect();
    let rows = spread(metrics, 6).into_iter().map(cells).collect();
    let curve = ReportTable { title: "sft".to_string(), columns, rows, headline: false };
    let (tokens, targets) = examples.iter().fold((0, 0), |sums, e| (sums.0 + e.tokens.len(), sums.1 + e.targets()));
    let counts = [("rows", examples.len()), ("their tokens", tokens), ("of which targets", targets)];
    let mut report = Report::counts("examples", counts);
    report.tables.push(curve);
    report
}

/// Whole numbers whole, others with four significant digits.
pub fn number(value: f64) -> String {
    match value {
        whole if whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole}"),
        tiny if tiny.abs() < 1e-3 => format!("{tiny:.3e}"),
        other => format!("{other:.4}"),
    }
}

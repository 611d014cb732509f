//! `sft`: a base model learns to think and answer as the training rows do; the loss counts the target only.

mod base;
mod evaluation;
mod lessons;
mod memory;
mod told;

pub use base::Base;
pub use evaluation::Evaluation;
pub use told::number;

use super::compute::Compute;
use super::lora::{self, LoraSettings};
use super::student::{NodeHost, Student};
use crate::columns::Need;
use crate::context::{Context, Profile};
use crate::failure::{Failure, Result};
use crate::model::DecoderConfig;
use crate::model::chat::ChatTemplate;
use crate::model::tensors;
use crate::model::tokenizer::END_OF_TEXT;
use crate::rows::Rows;
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, MemoryOutlook, NodeRef, Output, Outputs, Stage, Unkeyed};
use crate::train::batches::Keep;
use crate::train::optimizer::AdamW;
use crate::train::schedule::{Schedule, Shape};
use crate::train::sft::{BatchSize, Duration, Lessons, SftSettings, train};
use evaluation::Material;
use lessons::{Lesson, examples};
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
        /// Passes over the rows; 3 when none of this, `tokens` and `steps` is given.
        pub epochs: Option<f64> = None,
        /// Tokens to read in all, in place of `epochs`.
        pub tokens: Option<u64> = None,
        /// Updates in all, in place of `epochs`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub steps: Option<u64> = None,
        /// The highest learning rate; when left out, 3e-3 for a model that starts from nothing, 2e-4 with `lora`, and 5e-6 for any
        /// other.
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
        /// Tokens in memory at once: a larger step is made of several passes whose gradients are added. When left out, up to 2,048.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub micro_batch_tokens: Option<usize> = None,
        /// Activations inside the layers are computed again on the way back, not kept: less memory, about a third more time, the same
        /// result.
        #[serde(skip)]
        pub checkpointing: Unkeyed<bool> = Unkeyed(false),
        /// Learn small matrices beside frozen weights, and merge them at the end; all weights are learnt when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub lora: Option<LoraSettings> = None,
        /// Rows that are not trained on but asked now and then how the training goes; none when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub evaluation: Option<Evaluation> = None,
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
        /// What products take of their factors: `bf16` rounds each to it, as mixed-precision training does; sums and weights stay f32.
        #[serde(skip_serializing_if = "Compute::is_f32")]
        pub compute: Compute = Compute::F32,
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
        self.lora = self.lora.map(LoraSettings::filled_in);
        let whole = if fresh { 3e-3 } else { 5e-6 };
        self.lr.get_or_insert(if self.lora.is_some() { lora::RATE } else { whole });
        if self.tokens.is_none() && self.steps.is_none() {
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
    let lengths = [
        ("epochs", settings.epochs.is_some()),
        ("tokens", settings.tokens.is_some()),
        ("steps", settings.steps.is_some()),
    ];
    let sizes = [("batch_tokens", settings.batch_tokens.is_some()), ("batch_rows", settings.batch_rows.is_some())];
    for (first, second) in [both(&lengths), both(&sizes)].into_iter().flatten() {
        let hint = format!("`{first}: null` in a profile, or `--set ….{first}=null`, takes the other away");
        let note = |reader: &mut Reader| {
            reader.mistake("both-given", format!("give `{second}` or `{first}`, not both"), Some(hint));
        };
        reader.within(Step::Name(second.into()), note);
    }
    for (key, value) in [
        ("lr", settings.lr.unwrap_or(1.0)),
        ("clip", settings.clip),
        ("epochs", settings.epochs.unwrap_or(1.0)),
        ("steps", settings.steps.map_or(1.0, |steps| steps as f64)),
        ("micro_batch_tokens", settings.micro_batch_tokens.map_or(1.0, |tokens| tokens as f64)),
    ] {
        positive(key, value, reader);
    }
    LoraSettings::check_if_any(settings.lora.as_ref(), reader);
    if settings.lora.is_some() && matches!(settings.base, Base::Fresh(_)) {
        let hint = "a base that was trained, such as `base: { path: FOLDER }` or `base: { node: NODE }`".to_string();
        let message = "adapters beside frozen weights that know nothing have nothing to go by";
        reader.within(Step::Name("lora".into()), |reader| reader.mistake("excess-key", message, Some(hint)));
    }
    if let Some(evaluation) = &settings.evaluation {
        reader.within(Step::Key("evaluation".into()), |reader| evaluation.check(reader));
    }
    (reader.mistakes.len() == before).then(|| Box::new(Sft(settings)) as Box<dyn Stage>)
}

/// The first two that are given of what excludes each other.
fn both<'a>(given: &[(&'a str, bool)]) -> Option<(&'a str, &'a str)> {
    let mut names = given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name);
    Some((names.next()?, names.next()?))
}

/// Notes a mistake unless the number is finite and above 0.
pub fn positive(key: &str, value: f64, reader: &mut Reader) {
    if !(value.is_finite() && value > 0.0) {
        let note = |reader: &mut Reader| reader.mistake("out-of-range", format!("`{value}` should be above 0"), None);
        reader.within(Step::Key(key.to_string()), note);
    }
}

impl Stage for Sft {
    /// 2 since attention's gradients are summed over a group's heads at once, 3 since exponentials are made of fused steps; one more for
    /// folders, of which what they bring along went on with what is trained from them before.
    fn version(&self) -> u32 {
        if matches!(self.0.base, Base::Folder(_)) { 4 } else { 3 }
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.0).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        let base = match &self.0.base {
            Base::Node(node) => Some(Input::model("base", node)),
            _ => None,
        };
        let evaluation = self.evaluation_rows().map(|node| Input::rows(EVALUATION, node));
        [Input::rows("input", &self.0.input)].into_iter().chain(base).chain(evaluation).collect()
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

    fn shape(&self, models: &[Option<DecoderConfig>]) -> Option<DecoderConfig> {
        self.model_shape(models)
    }

    fn memory(&self, models: &[Option<DecoderConfig>], on: Profile) -> Option<MemoryOutlook> {
        self.memory_outlook(models, on)
    }

    fn outputs(&self) -> Vec<Output> {
        vec![Output::model(""), Output::model("base")]
    }

    fn needs(&self) -> Vec<Need> {
        let ports = ["input"].into_iter().chain(self.evaluation_rows().map(|_| EVALUATION));
        let needs = |port| {
            let question = question_need(port, self.0.question.as_deref());
            [question, Need::named(port, "response", &self.0.response)]
        };
        ports.flat_map(needs).collect()
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let started = Instant::now();
        let material = self.material(&mut inputs, context)?;
        let mut student = self.open(&material.trained, &inputs, context)?;
        if let Some(template) = &self.0.template {
            student.template = ChatTemplate::new(template, "", END_OF_TEXT);
        }
        let (trained, held_out) = (examples(&student, &material.trained)?, examples(&student, &material.held_out)?);
        let settings = self.training(student.decoder.config().max_position_embeddings);
        self.check_memory(&student.decoder, [&trained, &held_out], &settings, context)?;
        let (folder, base) = (context.scratch().join("model"), context.scratch().join("base"));
        let precision = self.0.precision.of_tensors();
        student.save(&base, precision)?;
        let mut host =
            NodeHost::new(context, self.0.checkpoint_every.0, "steps", |row| format!("loss {:.3}", row.get("loss")))?;
        let draw = context.draw().of("training");
        let ids: Vec<String> = material.trained.iter().map(|lesson| lesson.id.clone()).collect();
        let lessons = Lessons { examples: &trained, ids: &ids, held_out: &held_out };
        let lora = self.0.lora.as_ref();
        let learner = LoraSettings::adapted(lora, student.decoder, context);
        let (decoder, metrics) = train(learner, lessons, &settings, &draw, &mut host)?;
        let adapter = LoraSettings::kept(lora, &decoder);
        let student = Student { decoder: decoder.merged(), adapter, ..student };
        student.save_trained(&folder, precision, &metrics, started)?;
        host.save_times(&folder, &metrics)?;
        let report = told::report(&trained, &held_out, &metrics, settings.evaluation.as_ref());
        let outputs = Outputs { report, ..Outputs::default() };
        Ok(outputs.with("", Artifact::Model(folder)).with("base", Artifact::Model(base)))
    }
}

/// The port of rows to evaluate on.
const EVALUATION: &str = "evaluation";

impl Sft {
    fn evaluation_rows(&self) -> Option<&NodeRef> {
        self.0.evaluation.as_ref()?.input.as_ref()
    }

    /// Rows as lessons: to be trained on, and held out.
    fn material(&self, inputs: &mut Inputs, context: &dyn Context) -> Result<Material> {
        let lessons = lessons::lessons(&self.0, &inputs.take_rows("input")?)?;
        if lessons.is_empty() {
            return Err(Failure::recipe("there is nothing to train on: the input has no rows"));
        }
        let Some(evaluation) = &self.0.evaluation else { return Ok(Material::of(lessons)) };
        let asked = match self.evaluation_rows() {
            Some(_) => Some(lessons::lessons(&self.0, &inputs.take_rows(EVALUATION)?)?),
            None => None,
        };
        evaluation.hold_out(lessons, asked, context)
    }

    fn open(&self, lessons: &[Lesson], inputs: &Inputs, context: &dyn Context) -> Result<Student> {
        let device = self.0.compute.device(context);
        match &self.0.base {
            Base::Folder(folder) => Student::open(folder, &device),
            Base::Node(_) => Student::open(inputs.model_folder("base"), &device),
            Base::Fresh(fresh) => {
                let texts = lessons.iter().flat_map(|lesson| [lesson.question.as_str(), lesson.target.as_str()]);
                // The plain prompt format ends a message with a line end.
                fresh.make(texts.chain(["\n"]), context.draw().of("initial weights").bits(), &device)
            }
        }
    }

    fn training(&self, positions: usize) -> SftSettings {
        let SftNode { epochs, tokens, steps, batch_rows, batch_tokens, .. } = self.0;
        let by_tokens = tokens.map_or(Duration::Epochs(epochs.unwrap_or(3.0)), Duration::Tokens);
        SftSettings {
            duration: steps.map_or(by_tokens, Duration::Steps),
            batch: batch_rows.map_or(BatchSize::Tokens(batch_tokens.unwrap_or(384)), BatchSize::Rows),
            schedule: self.0.schedule.schedule(self.0.peak(), self.0.warmup, self.0.floor, self.0.cool_down),
            optimizer: AdamW { decay: self.0.weight_decay as f32, norm_max: self.0.clip as f32, ..AdamW::default() },
            length_max: self.0.max_length.min(positions),
            keep: match self.0.keep {
                KeptEnd::Head => Keep::Head,
                KeptEnd::Tail => Keep::Tail,
            },
            micro_batch_tokens: self.0.micro_batch_tokens,
            checkpointing: self.0.checkpointing.0,
            evaluation: self.0.evaluation.as_ref().map(Evaluation::plan),
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

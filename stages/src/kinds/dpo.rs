//! `dpo`: a model learns which of two answers is better, from pairs that are given, or from its own answers that a verifier told
//! apart.

mod memory;
mod pairs;

use super::compute::Compute;
use super::lora::LoraSettings;
use super::practising::{Problems, out_of_range, report};
use super::sft::{ScheduleShape, StoredPrecision, positive, question_column, question_need};
use super::student::{NodeHost, Student};
use super::text::cell_text;
use super::verifier::Verifier;
use crate::columns::{Columns, Need};
use crate::context::{Context, Profile};
use crate::failure::{Failure, Result};
use crate::model::DecoderConfig;
use crate::prompt::Prompt;
use crate::report::Report;
use crate::rows::{Row, Rows};
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Artifact, Input, Inputs, Kind, MemoryOutlook, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::train::Metrics;
use crate::train::batches::Example;
use crate::train::dpo::{DpoSettings, Pair, train};
use crate::train::optimizer::AdamW;
use serde_json::{Map, Value};
use std::time::Instant;

pub const KIND: Kind = Kind {
    name: "dpo",
    about: "Preference learning: of two answers the better one is made likelier; pairs are given, or sampled and judged.",
    schema: DpoNode::schema,
    read,
};

crate::settings! {
    /// Who learns from which pairs, and how.
    pub struct DpoNode {
        /// The model to start from.
        pub policy: NodeRef,
        /// Rows with a question and two whole answers to it, in place of `problems`.
        pub input: Option<NodeRef> = None,
        /// The column of the better answer: all that the model is to write, headings included.
        pub chosen: String = "chosen".to_string(),
        /// The column of the worse answer.
        pub rejected: String = "rejected".to_string(),
        /// Rows with a problem and its truth: the policy answers them, and one right and one wrong answer to a problem make a pair. The
        /// pairs are the output `pairs`.
        pub problems: Option<NodeRef> = None,
        /// For `problems`: `rules` (the truth, in form or in number), or a model that judges.
        pub verifier: Option<Verifier> = None,
        /// The judge's prompt file; `verify.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Answers to each problem.
        pub samples: usize = 5,
        pub temperature: f64 = 1.0,
        pub max_new_tokens: usize = 256,
        /// β: how strongly the model is held where it started.
        pub beta: f64 = 0.1,
        /// The share of pairs that are thought to be the wrong way round.
        pub smoothing: f64 = 0.0,
        /// Passes over the pairs.
        pub epochs: u64 = 1,
        /// Pairs a step.
        pub batch: usize = 32,
        /// The highest learning rate.
        pub lr: f64 = 1e-4,
        pub schedule: ScheduleShape = ScheduleShape::Linear,
        /// The share of the run over which the rate rises.
        pub warmup: f64 = 0.05,
        /// Where the rate ends, as a share of the highest.
        pub floor: f64 = 0.1,
        pub weight_decay: f64 = 0.0,
        /// Pairs with a longer text are left out.
        pub max_length: usize = 8192,
        /// The column to be answered; `problem`, else `question` when left out.
        pub question: Option<String> = None,
        pub truth: String = "truth".to_string(),
        /// Small matrices are learnt beside frozen weights.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub lora: Option<LoraSettings> = None,
        pub precision: StoredPrecision = StoredPrecision::F32,
        /// What products take of their factors: `bf16` rounds each to it, as mixed-precision training does; sums and weights stay f32.
        #[serde(skip_serializing_if = "Compute::is_f32")]
        pub compute: Compute = Compute::F32,
        /// Activations inside the layers are computed again on the way back, not kept: less memory, more time, the same result.
        #[serde(skip)]
        pub checkpointing: Unkeyed<bool> = Unkeyed(false),
        /// Steps between two checkpoints.
        pub checkpoint_every: Unkeyed<u64> = Unkeyed(100),
    }
}

struct Dpo {
    settings: DpoNode,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut settings = DpoNode::read_fields(fields, reader)?;
    settings.lora = settings.lora.map(LoraSettings::filled_in);
    let before = reader.mistakes.len();
    let prompt = match &settings.verifier {
        Some(verifier) => verifier.prompt(fields, reader)?,
        None => None,
    };
    one_source(&settings, reader);
    for (key, value) in [
        ("samples", settings.samples as f64),
        ("temperature", settings.temperature),
        ("max_new_tokens", settings.max_new_tokens as f64),
        ("beta", settings.beta),
        ("epochs", settings.epochs as f64),
        ("batch", settings.batch as f64),
        ("lr", settings.lr),
    ] {
        positive(key, value, reader);
    }
    LoraSettings::check_if_any(settings.lora.as_ref(), reader);
    if !(0.0..0.5).contains(&settings.smoothing) {
        out_of_range("smoothing", format!("`{}` should be at least 0 and below 0.5", settings.smoothing), reader);
    }
    (reader.mistakes.len() == before).then(|| Box::new(Dpo { settings, prompt }) as Box<dyn Stage>)
}

/// Pairs come from one place.
fn one_source(settings: &DpoNode, reader: &mut Reader) {
    match (&settings.input, &settings.problems) {
        (Some(_), Some(_)) => {
            let note = |reader: &mut Reader| {
                let hint = "`input` holds pairs; `problems` are answered by the policy to make some".to_string();
                reader.mistake("both-given", "give `input` or `problems`, not both", Some(hint));
            };
            reader.within(Step::Name("problems".into()), note);
        }
        (None, None) => {
            let hint = "`input` holds pairs; `problems` are answered by the policy to make some".to_string();
            reader.mistake("nothing-given", "there are no pairs: give `input` or `problems`", Some(hint));
        }
        (None, Some(_)) if settings.verifier.is_none() => reader.missing_key("verifier"),
        (None, Some(_)) if settings.samples < 2 => {
            out_of_range("samples", "a pair needs at least 2 answers to a problem".to_string(), reader);
        }
        _ => {}
    }
}

impl Stage for Dpo {
    /// 2 since attention's gradients are summed over a group's heads at once, 3 since exponentials are made of fused steps.
    fn version(&self) -> u32 {
        3
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.settings).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        let rows = match (&self.settings.input, &self.settings.problems) {
            (Some(input), _) => Some(Input::rows("input", input)),
            (None, problems) => problems.as_ref().map(|problems| Input::rows("problems", problems)),
        };
        [Input::model("policy", &self.settings.policy)].into_iter().chain(rows).collect()
    }

    fn models(&self) -> Vec<(String, String)> {
        self.settings.verifier.as_ref().map_or(Vec::new(), Verifier::models)
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

    fn outputs(&self) -> Vec<Output> {
        let pairs = self.samples_pairs().then(|| Output::rows("pairs"));
        [Output::model("")].into_iter().chain(pairs).collect()
    }

    fn shape(&self, models: &[Option<DecoderConfig>]) -> Option<DecoderConfig> {
        models.first().cloned().flatten()
    }

    fn memory(&self, models: &[Option<DecoderConfig>], on: Profile) -> Option<MemoryOutlook> {
        Some(self.memory_outlook(models.first()?.as_ref()?, on))
    }

    fn columns(&self, output: &str, _: &[Columns]) -> Columns {
        if output == "pairs" { Columns::known(pairs::COLUMNS) } else { Columns::unknown() }
    }

    fn needs(&self) -> Vec<Need> {
        let DpoNode { question, truth, chosen, rejected, .. } = &self.settings;
        let named = |port: &str, columns: &[(&'static str, &String)]| {
            let needs = columns.iter().map(|(setting, column)| Need::named(port, setting, column));
            [question_need(port, question.as_deref())].into_iter().chain(needs).collect()
        };
        if self.samples_pairs() {
            named("problems", &[("truth", truth)])
        } else {
            named("input", &[("chosen", chosen), ("rejected", rejected)])
        }
    }

    fn calls(&self, rows: u64) -> Outlook {
        let answers = rows * self.settings.samples as u64;
        self.settings.verifier.as_ref().map_or(Outlook::exactly(0), |verifier| verifier.calls(answers))
    }

    fn rows_out(&self, rows: &[u64]) -> Vec<Outlook> {
        let most = rows.last().copied().unwrap_or(0);
        let pairs = self.samples_pairs().then(|| Outlook::up_to(most));
        [Outlook::exactly(0)].into_iter().chain(pairs).collect()
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let started = Instant::now();
        let student = Student::open(inputs.model_folder("policy"), &self.settings.compute.device(context))?;
        let (pairs, rows, mut told) = if self.samples_pairs() {
            let settings = &self.settings;
            let rows = inputs.take_rows("problems")?;
            let problems = Problems::new(&rows, settings.question.as_deref(), &settings.truth)?;
            let prompts = problems.prompts(&student)?;
            self.check_sampled(student.decoder.config(), &prompts, context)?;
            let sampled = pairs::sample(&student, &problems, &prompts, settings, self.prompt.as_ref(), context)?;
            (sampled.pairs, Some(sampled.rows), sampled.told)
        } else {
            (self.given(&student, &inputs.take_rows("input")?)?, None, Report::default())
        };
        let pairs = self.within_length(pairs, &student, &mut told)?;
        if rows.is_none() {
            self.check_given(student.decoder.config(), &pairs, context)?;
        }
        let note = |row: &Metrics| format!("loss {:.3}, accuracy {:.3}", row.get("loss"), row.get("accuracy"));
        let mut host = NodeHost::new(context, self.settings.checkpoint_every.0, "steps", note)?;
        let draw = context.draw().of("training");
        let lora = self.settings.lora.as_ref();
        let learner = LoraSettings::adapted(lora, student.decoder, context);
        let (decoder, metrics) = train(learner, &pairs, &self.training(), &draw, &mut host)?;
        let adapter = LoraSettings::kept(lora, &decoder);
        let student = Student { decoder: decoder.merged(), adapter, ..student };
        let folder = context.scratch().join("model");
        student.save_trained(&folder, self.settings.precision.of_tensors(), &metrics, started)?;
        host.save_times(&folder, &metrics)?;
        let shown = ["loss", "accuracy", "margin", "rewards_chosen", "rewards_rejected", "grad_norm"];
        told.tables.extend(report("dpo", "step", &shown, &metrics).tables);
        let outputs = Outputs { report: told, ..Outputs::default() }.with("", Artifact::Model(folder));
        Ok(match rows {
            Some(rows) => outputs.with("pairs", Artifact::Rows(rows)),
            None => outputs,
        })
    }
}

impl Dpo {
    fn samples_pairs(&self) -> bool {
        self.settings.input.is_none()
    }

    /// Tokens of the longest text that is learnt from.
    fn length_max(&self, config: &DecoderConfig) -> usize {
        self.settings.max_length.min(config.max_position_embeddings).max(2)
    }

    /// The pairs of a table.
    fn given(&self, student: &Student, rows: &Rows) -> Result<Vec<Pair>> {
        let question = question_column(rows, self.settings.question.as_deref())?;
        let (chosen, rejected) = (rows.require(&self.settings.chosen)?, rows.require(&self.settings.rejected)?);
        let end = student.end_token()?;
        let pair = |row: &Row| {
            let prompt = student.prompt(&cell_text(&row.cells[question]))?;
            let answer = |column: usize| -> Result<Example> {
                let tokens = student.tokenizer.encode(&cell_text(&row.cells[column]))?;
                Ok(Example::new(&prompt, &[&tokens[..], &[end]].concat()))
            };
            Ok(Pair { id: row.id.clone(), chosen: answer(chosen)?, rejected: answer(rejected)? })
        };
        rows.rows.iter().map(pair).collect()
    }

    /// Without those that the model cannot read; it is told how many.
    fn within_length(&self, pairs: Vec<Pair>, student: &Student, told: &mut Report) -> Result<Vec<Pair>> {
        let most = self.length_max(student.decoder.config());
        let (all, fits) = (pairs.len(), |example: &Example| example.tokens.len() <= most + 1);
        let kept: Vec<Pair> = pairs.into_iter().filter(|pair| fits(&pair.chosen) && fits(&pair.rejected)).collect();
        if kept.is_empty() {
            return Err(Failure::recipe(format!(
                "there is nothing to learn from: of `{all}` pairs of a better and a worse answer, none is within `{most}` tokens"
            )));
        }
        let counts = [("pairs", kept.len()), ("left out as too long", all - kept.len())];
        told.tables.extend(Report::counts("pairs", counts).tables);
        Ok(kept)
    }

    fn training(&self) -> DpoSettings {
        let settings = &self.settings;
        DpoSettings {
            epochs: settings.epochs,
            batch: settings.batch,
            schedule: settings.schedule.schedule(settings.lr, settings.warmup, settings.floor, 0.5),
            optimizer: AdamW { decay: settings.weight_decay as f32, ..AdamW::default() },
            beta: settings.beta as f32,
            smoothing: settings.smoothing as f32,
            checkpointing: settings.checkpointing.0,
        }
    }
}

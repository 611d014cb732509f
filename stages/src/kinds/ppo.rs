//! `ppo`: a policy answers problems and learns from a verifier's reward, held near the model it started from.

use super::sft::{ScheduleShape, StoredPrecision, number, positive, question_column, question_need};
use super::student::{NodeHost, Student, spread};
use super::text::cell_text;
use super::verifier::{Claim, Verifier};
use crate::columns::Need;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::prompt::Prompt;
use crate::report::{Report, ReportTable};
use crate::rows::Rows;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Artifact, Input, Inputs, Kind, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::train::Metrics;
use crate::train::evaluate::final_response;
use crate::train::optimizer::AdamW;
use crate::train::ppo::{Answer, Judgement, PpoSettings, PpoTask, train};
use serde_json::{Map, Value};
use std::time::Instant;

pub const KIND: Kind = Kind {
    name: "ppo",
    about: "Reinforcement learning: a verifier rewards the policy's answers, a KL penalty holds it near its start.",
    schema: PpoNode::schema,
    read,
};

crate::settings! {
    /// Who learns on what, who rewards, and how.
    pub struct PpoNode {
        /// The model to start from.
        pub policy: NodeRef,
        /// Rows with a problem and its truth.
        pub problems: NodeRef,
        /// `rules` (the truth, in form or in number), or a model that judges.
        pub verifier: Verifier,
        /// The judge's prompt file; `verify.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        pub reward: Reward = Reward { right: 1.0, wrong: 0.1, no_format: 0.0, truncated: None },
        /// β: the weight of the KL divergence from the starting model in the reward, a token.
        pub kl: f64 = 0.03,
        /// 60 when none of `iterations`, `episodes` and `passes` is given.
        pub iterations: Option<u64> = None,
        /// Answers in all, in place of `iterations`.
        pub episodes: Option<u64> = None,
        /// Answers to each problem, in place of `iterations`; so the work follows the number of problems.
        pub passes: Option<f64> = None,
        /// Answers an iteration.
        pub rollouts: usize = 256,
        /// Answers an update.
        pub minibatch: usize = 64,
        /// Passes over an iteration's answers.
        pub epochs: u64 = 2,
        /// The highest learning rate.
        pub lr: f64 = 3e-4,
        pub schedule: ScheduleShape = ScheduleShape::Linear,
        /// The share of the run over which the rate rises.
        pub warmup: f64 = 0.05,
        /// Where the rate ends, as a share of the highest.
        pub floor: f64 = 0.1,
        pub value_lr: f64 = 1e-3,
        /// The critic's passes over an iteration's answers; as many as the policy's when left out.
        pub value_epochs: Option<u64> = None,
        /// First iterations in which only the critic learns.
        pub value_warmup: u64 = 2,
        /// γ
        pub gamma: f64 = 1.0,
        /// λ of generalised advantage estimation.
        pub lambda: f64 = 1.0,
        /// ε of the clipped objective.
        pub clip: f64 = 0.2,
        /// How far a value may move in one iteration.
        pub value_clip: Option<f64> = Some(0.2),
        pub temperature: f64 = 1.0,
        pub max_new_tokens: usize = 256,
        /// Advantages to mean 0 and deviation 1.
        pub whiten: bool = true,
        pub weight_decay: f64 = 0.0,
        /// The column to be answered; `problem`, else `question` when left out.
        pub question: Option<String> = None,
        pub truth: String = "truth".to_string(),
        pub precision: StoredPrecision = StoredPrecision::F32,
        /// Iterations between two checkpoints.
        pub checkpoint_every: Unkeyed<u64> = Unkeyed(10),
    }
}

crate::settings! {
    /// What an answer earns.
    pub struct Reward {
        /// The verifier accepts it.
        pub right: f64 = 1.0,
        /// It keeps the think-then-answer format, but the verifier rejects it.
        pub wrong: f64 = 0.1,
        /// It does not keep the format.
        pub no_format: f64 = 0.0,
        /// It ran into the length limit; judged like any other when left out.
        pub truncated: Option<f64> = None,
    }
}

struct Ppo {
    settings: PpoNode,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut settings = PpoNode::read_fields(fields, reader)?;
    let prompt = settings.verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    let lengths = [settings.iterations.is_some(), settings.episodes.is_some(), settings.passes.is_some()];
    if lengths.into_iter().filter(|&given| given).count() > 1 {
        let hint = "`null` takes one away, such as `--set ….passes=null`".to_string();
        reader.mistake("both-given", "give one of `iterations`, `episodes` and `passes`", Some(hint));
    }
    if lengths == [false; 3] {
        settings.iterations = Some(60);
    }
    for (key, value) in [
        ("lr", settings.lr),
        ("value_lr", settings.value_lr),
        ("temperature", settings.temperature),
        ("rollouts", settings.rollouts as f64),
        ("minibatch", settings.minibatch as f64),
        ("epochs", settings.epochs as f64),
        ("passes", settings.passes.unwrap_or(1.0)),
        ("max_new_tokens", settings.max_new_tokens as f64),
    ] {
        positive(key, value, reader);
    }
    (reader.mistakes.len() == before).then(|| Box::new(Ppo { settings, prompt }) as Box<dyn Stage>)
}

impl Stage for Ppo {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        serde_json::to_value(&self.settings).expect("settings are plain data")
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::model("policy", &self.settings.policy), Input::rows("problems", &self.settings.problems)]
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

    fn outputs(&self) -> Vec<Output> {
        vec![Output::model("")]
    }

    fn needs(&self) -> Vec<Need> {
        let question = question_need("problems", self.settings.question.as_deref());
        vec![question, Need::named("problems", "truth", &self.settings.truth)]
    }

    fn calls(&self, rows: u64) -> Outlook {
        let training = self.training(rows as usize);
        self.settings.verifier.calls(training.iterations * training.rollouts as u64)
    }

    fn rows_out(&self, _: &[u64]) -> Vec<Outlook> {
        vec![Outlook::exactly(0)]
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let started = Instant::now();
        let problems = Problems::new(&inputs.take_rows("problems")?, &self.settings)?;
        let mut student = Student::open(inputs.model_folder("policy"), &context.device())?;
        let prompts = problems.questions.iter().map(|text| student.prompt(text)).collect::<Result<Vec<_>>>()?;
        let note = |row: &Metrics| format!("reward {:.3}, accuracy {:.3}", row.get("reward"), row.get("accuracy"));
        let mut host = NodeHost::new(context, self.settings.checkpoint_every.0, "iterations", note)?;
        let (settings, draw) = (self.training(prompts.len()), context.draw().of("training"));
        let tokenizer = student.tokenizer.clone();
        let mut judge = |answers: &[Answer]| {
            let texts =
                answers.iter().map(|answer| tokenizer.decode(answer.tokens, false)).collect::<Result<Vec<_>>>()?;
            self.judge(answers, &texts, &problems, context)
        };
        let task = PpoTask { policy: student.decoder, prompts: &prompts, settings: &settings, draw: &draw };
        let (decoder, metrics) = train(task, &mut judge, &mut host)?;
        student.decoder = decoder;
        let folder = context.scratch().join("model");
        student.save_trained(&folder, self.settings.precision.of_tensors(), &metrics, started)?;
        host.save_times(&folder, &metrics)?;
        let outputs = Outputs { report: report(&metrics), ..Outputs::default() };
        Ok(outputs.with("", Artifact::Model(folder)))
    }
}

/// What is asked, and what would be right.
struct Problems {
    ids: Vec<String>,
    questions: Vec<String>,
    truths: Vec<String>,
}

impl Problems {
    fn new(rows: &Rows, settings: &PpoNode) -> Result<Problems> {
        let (question, truth) = (question_column(rows, settings.question.as_deref())?, rows.require(&settings.truth)?);
        if rows.is_empty() {
            return Err(Failure::recipe("there is nothing to learn from: the input has no problems"));
        }
        let column = |index: usize| rows.rows.iter().map(|row| cell_text(&row.cells[index])).collect();
        let ids = rows.rows.iter().map(|row| row.id.clone()).collect();
        Ok(Problems { ids, questions: column(question), truths: column(truth) })
    }
}

impl Ppo {
    /// No format, no verdict: only answers that keep it are put to the verifier.
    fn judge(
        &self,
        answers: &[Answer],
        texts: &[String],
        problems: &Problems,
        context: &dyn Context,
    ) -> Result<Vec<Judgement>> {
        let responses: Vec<Option<&str>> = texts.iter().map(|text| final_response(text)).collect();
        let claims: Vec<Claim> =
            answers.iter().zip(&responses).filter_map(|(a, response)| problems.claim(a, *response)).collect();
        let mut verdicts = self.settings.verifier.verdicts(&claims, self.prompt.as_ref(), context)?.into_iter();
        let judgement = |response: &Option<&str>| {
            let formatted = response.is_some();
            let right = formatted && verdicts.next().expect("one verdict a claim");
            Judgement { reward: self.settings.reward.of(formatted, right), right, formatted }
        };
        Ok(responses.iter().map(judgement).collect())
    }

    fn training(&self, problems: usize) -> PpoSettings {
        let settings = &self.settings;
        let by_passes = settings.passes.map(|passes| (passes * problems as f64).ceil() as u64);
        let by_episodes = settings.episodes.or(by_passes).map(|episodes| episodes.div_ceil(settings.rollouts as u64));
        let optimizer = AdamW { decay: settings.weight_decay as f32, ..AdamW::default() };
        PpoSettings {
            iterations: settings.iterations.or(by_episodes).unwrap_or(60),
            rollouts: settings.rollouts,
            temperature: settings.temperature as f32,
            answer_tokens_max: settings.max_new_tokens,
            minibatch: settings.minibatch,
            epochs: settings.epochs,
            value_epochs: settings.value_epochs.unwrap_or(settings.epochs),
            value_warmup: settings.value_warmup,
            policy_schedule: settings.schedule.schedule(settings.lr, settings.warmup, settings.floor, 0.5),
            value_rate: settings.value_lr,
            policy_optimizer: optimizer,
            value_optimizer: optimizer,
            discount: settings.gamma as f32,
            trace: settings.lambda as f32,
            clip: settings.clip as f32,
            value_clip: settings.value_clip.map(|clip| clip as f32),
            kl: settings.kl as f32,
            whiten: settings.whiten,
            truncated_reward: settings.reward.truncated.map(|reward| reward as f32),
        }
    }
}

impl Problems {
    fn claim<'a>(&'a self, answer: &Answer, response: Option<&'a str>) -> Option<Claim<'a>> {
        let index = answer.problem;
        Some(Claim { row_id: &self.ids[index], response: response?, truth: &self.truths[index] })
    }
}

impl Reward {
    fn of(&self, formatted: bool, right: bool) -> f32 {
        let reward = match (formatted, right) {
            (false, _) => self.no_format,
            (true, false) => self.wrong,
            (true, true) => self.right,
        };
        reward as f32
    }
}

fn report(metrics: &[Metrics]) -> Report {
    let shown = [
        "reward",
        "accuracy",
        "format",
        "length",
        "kl",
        "entropy",
        "clip_fraction",
        "explained_variance",
        "sampler_gap",
    ];
    let columns = ["iteration"].into_iter().chain(shown).map(|name| name.replace('_', " ")).collect();
    let cells =
        |row: &Metrics| [row.step.to_string()].into_iter().chain(shown.map(|name| number(row.get(name)))).collect();
    let rows = spread(metrics, 8).into_iter().map(cells).collect();
    Report { tables: vec![ReportTable { title: "ppo".to_string(), columns, rows, headline: false }] }
}

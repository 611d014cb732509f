//! What the kinds have in common that let a policy answer problems and learn from a verifier's verdicts (`ppo`, `grpo`, `rloo`, and
//! `dpo` where it samples its pairs): settings, problems, verdicts, the node itself, its work, the report. What an algorithm has of
//! its own is an [`Algorithm`].

mod memory;
mod node;
mod problems;

pub use memory::{LIKELY_PROMPT_TOKENS, check as check_memory};
pub use node::{Algorithm, read};
pub use problems::{Problems, Verdict};

use super::compute::Compute;
use super::lora::LoraSettings;
use super::sft::{ScheduleShape, StoredPrecision, number, positive};
use super::student::{NodeHost, Student, spread};
use super::verifier::Verifier;
use crate::context::Context;
use crate::failure::Result;
use crate::model::Decoder;
use crate::prompt::Prompt;
use crate::report::{Report, ReportTable};
use crate::settings::{Reader, Step};
use crate::stage::{Artifact, Inputs, NodeRef, Outputs};
use crate::train::memory::CriticSizes;
use crate::train::optimizer::AdamW;
use crate::train::practice::{Adaptive, Divergence, KlAs, PracticeSettings, Task, Truncated};
use crate::train::rollouts::{Answer, Environment, Judgement};
use crate::train::{Host, Metrics};
use std::time::Instant;

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

impl Default for Reward {
    fn default() -> Reward {
        Reward { right: 1.0, wrong: 0.1, no_format: 0.0, truncated: None }
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

crate::choice! {
    /// Where the divergence from the starting model counts.
    pub enum KlPlace {
        /// In each token's reward, by k1.
        "reward" => Reward,
        /// In the loss, by k3.
        "loss" => Loss,
    }
}

impl KlPlace {
    pub fn is_reward(&self) -> bool {
        *self == KlPlace::Reward
    }
}

/// For settings that came later and stay out of the canonical form at their default.
pub fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The horizon of an adaptive β in the paper.
pub const KL_HORIZON: f64 = 10_000.0;

pub fn is_kl_horizon(value: &f64) -> bool {
    *value == KL_HORIZON
}

/// The settings that all of them have.
pub struct Practising<'a> {
    pub policy: &'a NodeRef,
    pub problems: &'a NodeRef,
    pub verifier: &'a Verifier,
    pub prompt: Option<&'a Prompt>,
    pub reward: &'a Reward,
    pub question: Option<&'a str>,
    pub truth: &'a str,
    pub iterations: Option<u64>,
    pub episodes: Option<u64>,
    pub passes: Option<f64>,
    pub rollouts: usize,
    pub group: usize,
    pub minibatch: usize,
    pub epochs: u64,
    pub idle: u64,
    pub lr: f64,
    pub schedule: ScheduleShape,
    pub warmup: f64,
    pub floor: f64,
    pub clip: f64,
    pub clip_high: Option<f64>,
    pub kl: f64,
    pub kl_as: KlPlace,
    pub kl_target: Option<f64>,
    pub kl_horizon: f64,
    pub kl_stop: Option<f64>,
    pub kl_limit: Option<f64>,
    pub entropy: f64,
    pub temperature: f64,
    pub max_new_tokens: usize,
    pub mask_truncated: bool,
    pub weight_decay: f64,
    pub lora: Option<&'a LoraSettings>,
    pub precision: StoredPrecision,
    pub compute: Compute,
    pub checkpointing: bool,
    pub checkpoint_every: u64,
}

/// [`Practising`] of a kind's settings, which call all of these alike.
macro_rules! practising {
    ($settings:expr, $prompt:expr, group: $group:expr, idle: $idle:expr) => {
        $crate::kinds::practising::Practising {
            policy: &$settings.policy,
            problems: &$settings.problems,
            verifier: &$settings.verifier,
            prompt: $prompt,
            reward: &$settings.reward,
            question: $settings.question.as_deref(),
            truth: &$settings.truth,
            iterations: $settings.iterations,
            episodes: $settings.episodes,
            passes: $settings.passes,
            rollouts: $settings.rollouts,
            group: $group,
            minibatch: $settings.minibatch,
            epochs: $settings.epochs,
            idle: $idle,
            lr: $settings.lr,
            schedule: $settings.schedule,
            warmup: $settings.warmup,
            floor: $settings.floor,
            clip: $settings.clip,
            clip_high: $settings.clip_high,
            kl: $settings.kl,
            kl_as: $settings.kl_as,
            kl_target: $settings.kl_target,
            kl_horizon: $settings.kl_horizon,
            kl_stop: $settings.kl_stop,
            kl_limit: $settings.kl_limit.0,
            entropy: $settings.entropy,
            temperature: $settings.temperature,
            max_new_tokens: $settings.max_new_tokens,
            mask_truncated: $settings.mask_truncated,
            weight_decay: $settings.weight_decay,
            lora: $settings.lora.as_ref(),
            precision: $settings.precision,
            compute: $settings.compute,
            checkpointing: $settings.checkpointing.0,
            checkpoint_every: $settings.checkpoint_every.0,
        }
    };
}
pub(super) use practising;

/// How long practice lasts, when nothing says.
pub const ITERATIONS: u64 = 60;

/// Fills in the length of the practice where none is given, so that writing it out changes no key; notes where two are.
pub fn one_length(iterations: &mut Option<u64>, episodes: Option<u64>, passes: Option<f64>, reader: &mut Reader) {
    let given = [iterations.is_some(), episodes.is_some(), passes.is_some()].into_iter().filter(|&given| given).count();
    if given > 1 {
        let hint = "`null` takes one away, such as `--set ….passes=null`".to_string();
        reader.mistake("both-given", "give one of `iterations`, `episodes` and `passes`", Some(hint));
    }
    if given == 0 {
        *iterations = Some(ITERATIONS);
    }
}

/// Notes a mistake at a setting.
pub fn out_of_range(key: &str, message: String, reader: &mut Reader) {
    reader.within(Step::Key(key.to_string()), |reader| reader.mistake("out-of-range", message, None));
}

impl Practising<'_> {
    /// Notes what cannot be.
    pub fn check(&self, reader: &mut Reader) {
        for (key, value) in [
            ("lr", self.lr),
            ("temperature", self.temperature),
            ("rollouts", self.rollouts as f64),
            ("minibatch", self.minibatch as f64),
            ("epochs", self.epochs as f64),
            ("passes", self.passes.unwrap_or(1.0)),
            ("max_new_tokens", self.max_new_tokens as f64),
            ("clip_high", self.clip_high.unwrap_or(1.0)),
            ("kl_target", self.kl_target.unwrap_or(1.0)),
            ("kl_horizon", self.kl_horizon),
            ("kl_stop", self.kl_stop.unwrap_or(1.0)),
            ("kl_limit", self.kl_limit.unwrap_or(1.0)),
        ] {
            positive(key, value, reader);
        }
        LoraSettings::check_if_any(self.lora, reader);
        if self.kl_target.is_some() && self.kl <= 0.0 {
            let message = "`kl_target` moves β away from `kl`, which should be above 0 to begin with".to_string();
            out_of_range("kl_target", message, reader);
        }
    }

    /// The same for kinds that compare the answers to one problem.
    pub fn check_group(&self, reader: &mut Reader) {
        if self.group < 2 {
            let message = format!("`{}` answers cannot be compared; a group has at least 2", self.group);
            out_of_range("group", message, reader);
        } else if !self.rollouts.is_multiple_of(self.group) {
            let (rollouts, group) = (self.rollouts, self.group);
            out_of_range("rollouts", format!("`{rollouts}` should be a multiple of `group`, `{group}`"), reader);
        }
    }

    /// How many answers are judged, given the number of problems.
    pub fn answers(&self, problems: u64) -> u64 {
        self.length(problems as usize) * self.rollouts as u64
    }

    fn length(&self, problems: usize) -> u64 {
        let by_passes = self.passes.map(|passes| (passes * problems as f64).ceil() as u64);
        let by_episodes = self.episodes.or(by_passes).map(|episodes| episodes.div_ceil(self.rollouts as u64));
        self.iterations.or(by_episodes).unwrap_or(ITERATIONS)
    }

    /// The loops' settings.
    pub fn practice(&self, problems: usize) -> PracticeSettings {
        let (low, target) = (self.clip as f32, self.kl_target);
        let adaptive = target.map(|target| Adaptive { target, horizon: self.kl_horizon });
        let place = if self.kl_as == KlPlace::Reward { KlAs::Reward } else { KlAs::Loss };
        PracticeSettings {
            iterations: self.length(problems),
            rollouts: self.rollouts,
            group: self.group,
            temperature: self.temperature as f32,
            answer_tokens_max: self.max_new_tokens,
            minibatch: self.minibatch,
            epochs: self.epochs,
            idle: self.idle,
            schedule: self.schedule.schedule(self.lr, self.warmup, self.floor, 0.5),
            optimizer: self.optimizer(),
            clip: (low, self.clip_high.map_or(low, |clip| clip as f32)),
            kl: Divergence { beta: self.kl as f32, place, adaptive },
            kl_stop: self.kl_stop,
            kl_limit: self.kl_limit,
            entropy: self.entropy as f32,
            truncated: Truncated {
                reward: self.reward.truncated.map(|reward| reward as f32),
                masked: self.mask_truncated,
            },
            checkpointing: self.checkpointing,
        }
    }

    pub fn optimizer(&self) -> AdamW {
        AdamW { decay: self.weight_decay as f32, ..AdamW::default() }
    }

    /// The node's work: `train` is the algorithm, `shown` the metrics of the report.
    fn run(
        &self,
        title: &str,
        shown: &[&str],
        critic: CriticSizes,
        mut inputs: Inputs,
        context: &dyn Context,
        train: impl FnOnce(Task, &mut dyn Environment, &mut dyn Host) -> Result<(Decoder, Vec<Metrics>)>,
    ) -> Result<Outputs> {
        let started = Instant::now();
        let problems = Problems::new(&inputs.take_rows("problems")?, self.question, self.truth)?;
        let student = Student::open(inputs.model_folder("policy"), &self.compute.device(context))?;
        let prompts = problems.prompts(&student)?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        self.check_memory(student.decoder.config(), critic, longest, context)?;
        let note = |row: &Metrics| format!("reward {:.3}, accuracy {:.3}", row.get("reward"), row.get("accuracy"));
        let mut host = NodeHost::new(context, self.checkpoint_every, "iterations", note)?;
        let (draw, tokenizer) = (context.draw().of("training"), student.tokenizer.clone());
        let mut judge = |answers: &[Answer]| {
            let text = |answer: &Answer| Ok((answer.problem, tokenizer.decode(answer.tokens, false)?));
            let texts: Vec<(usize, String)> = answers.iter().map(text).collect::<Result<_>>()?;
            let verdicts = problems.verdicts(&texts, self.verifier, self.prompt, context)?;
            Ok(verdicts.into_iter().map(|verdict| self.judgement(verdict)).collect())
        };
        let policy = LoraSettings::adapted(self.lora, student.decoder, context);
        let task = Task { policy, prompts: &prompts, ids: &problems.ids, draw: &draw };
        let (decoder, metrics) = train(task, &mut judge, &mut host)?;
        let adapter = LoraSettings::kept(self.lora, &decoder);
        let student = Student { decoder: decoder.merged(), adapter, ..student };
        let folder = context.scratch().join("model");
        student.save_trained(&folder, self.precision.of_tensors(), &metrics, started)?;
        host.save_times(&folder, &metrics)?;
        let outputs = Outputs { report: report(title, "iteration", shown, &metrics), ..Outputs::default() };
        Ok(outputs.with("", Artifact::Model(folder)))
    }

    fn judgement(&self, Verdict { formatted, right }: Verdict) -> Judgement {
        Judgement { reward: self.reward.of(formatted, right), right, formatted }
    }
}

/// Metrics that every practice reports.
pub const SHOWN: [&str; 7] = ["reward", "accuracy", "format", "length", "kl", "entropy", "clip_fraction"];

/// A table of some metrics over the run.
pub fn report(title: &str, step: &str, shown: &[&str], metrics: &[Metrics]) -> Report {
    let columns = [step].iter().chain(shown).map(|name| name.replace('_', " ")).collect();
    let cells = |row: &Metrics| {
        [row.step.to_string()].into_iter().chain(shown.iter().map(|name| number(row.get(name)))).collect()
    };
    let rows = spread(metrics, 8).into_iter().map(cells).collect();
    Report { tables: vec![ReportTable { title: title.to_string(), columns, rows, headline: false }] }
}

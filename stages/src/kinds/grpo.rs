//! `grpo`: a policy gives several answers to each problem and learns which of them were better than the others; no critic.

use super::practising::{KL_HORIZON, KlPlace, Practising, Reward, SHOWN, one_length, practising};
use super::sft::{ScheduleShape, StoredPrecision, question_need};
use super::verifier::Verifier;
use crate::columns::Need;
use crate::context::Context;
use crate::failure::Result;
use crate::prompt::Prompt;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::train::grpo::{GrpoSettings, train};
use crate::train::policy::Over;
use serde_json::{Map, Value};

pub const KIND: Kind = Kind {
    name: "grpo",
    about: "Reinforcement learning without a critic: several answers to a problem are each other's baseline (GRPO).",
    schema: GrpoNode::schema,
    read,
};

crate::settings! {
    /// Who learns on what, who rewards, and how.
    pub struct GrpoNode {
        /// The model to start from.
        pub policy: NodeRef,
        /// Rows with a problem and its truth.
        pub problems: NodeRef,
        /// `rules` (the truth, in form or in number), or a model that judges.
        pub verifier: Verifier,
        /// The judge's prompt file; `verify.md` among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        pub reward: Reward = Reward::default(),
        /// Answers to each problem, which are compared with each other.
        pub group: usize = 8,
        /// β: the weight of the KL divergence from the starting model.
        pub kl: f64 = 0.04,
        /// Where it counts: in the whole answer's reward by k1, or in the loss by k3.
        pub kl_as: KlPlace = KlPlace::Loss,
        /// β follows the divergence so that it stays near so many nats an answer (Ziegler 2019).
        pub kl_target: Option<f64> = None,
        /// Answers over which such a β adapts.
        pub kl_horizon: f64 = KL_HORIZON,
        /// An iteration's further passes are left out once the policy is so many nats away from the one that answered.
        pub kl_stop: Option<f64> = None,
        /// The run stops as diverged once an answer is so many nats from the starting model in the mean.
        #[serde(skip)]
        pub kl_limit: Unkeyed<Option<f64>> = Unkeyed(None),
        /// Advantages are divided by the deviation of their group's rewards; `false` is Dr. GRPO.
        pub deviation: bool = true,
        /// What the loss is a mean over.
        pub loss_over: LossOver = LossOver::Answers,
        /// 60 when none of `iterations`, `episodes` and `passes` is given.
        pub iterations: Option<u64> = None,
        /// Answers in all, in place of `iterations`.
        pub episodes: Option<u64> = None,
        /// Answers in all, as a multiple of the number of problems; so the work follows that number.
        pub passes: Option<f64> = None,
        /// Answers an iteration, a multiple of `group`.
        pub rollouts: usize = 256,
        /// Answers an update.
        pub minibatch: usize = 64,
        /// Passes over an iteration's answers.
        pub epochs: u64 = 1,
        /// The highest learning rate.
        pub lr: f64 = 3e-4,
        pub schedule: ScheduleShape = ScheduleShape::Linear,
        /// The share of the run over which the rate rises.
        pub warmup: f64 = 0.05,
        /// Where the rate ends, as a share of the highest.
        pub floor: f64 = 0.1,
        /// ε of the clipped objective.
        pub clip: f64 = 0.2,
        /// ε above a ratio of 1, where it is another than below.
        pub clip_high: Option<f64> = None,
        pub temperature: f64 = 1.0,
        pub max_new_tokens: usize = 256,
        /// Answers that ran into the length limit are kept out of the loss.
        pub mask_truncated: bool = false,
        /// The weight of the entropy in the loss: above 0 it keeps answers varied.
        pub entropy: f64 = 0.0,
        pub weight_decay: f64 = 0.0,
        /// The column to be answered; `problem`, else `question` when left out.
        pub question: Option<String> = None,
        pub truth: String = "truth".to_string(),
        pub precision: StoredPrecision = StoredPrecision::F32,
        /// Iterations between two checkpoints.
        pub checkpoint_every: Unkeyed<u64> = Unkeyed(10),
    }
}

crate::choice! {
    /// How tokens make one loss.
    pub enum LossOver {
        /// Each answer weighs alike, its tokens share that.
        "answers" => Answers,
        /// Each token weighs alike.
        "tokens" => Tokens,
        /// Each token weighs alike, and as much in a minibatch of short answers as in one of long ones.
        "budget" => Budget,
    }
}

struct Grpo {
    settings: GrpoNode,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut settings = GrpoNode::read_fields(fields, reader)?;
    let prompt = settings.verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    one_length(&mut settings.iterations, settings.episodes, settings.passes, reader);
    let stage = Grpo { settings, prompt };
    stage.practising().check(reader);
    stage.practising().check_group(reader);
    (reader.mistakes.len() == before).then(|| Box::new(stage) as Box<dyn Stage>)
}

impl Stage for Grpo {
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
        self.settings.verifier.calls(self.practising().answers(rows))
    }

    fn rows_out(&self, _: &[u64]) -> Vec<Outlook> {
        vec![Outlook::exactly(0)]
    }

    fn run(&self, inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let shown = [&SHOWN[..], &["flat_groups", "sampler_gap"]].concat();
        self.practising().run("grpo", &shown, inputs, context, |task, world, host| {
            let settings = self.training(task.prompts.len());
            train(task, &settings, world, host)
        })
    }
}

impl Grpo {
    fn practising(&self) -> Practising<'_> {
        let settings = &self.settings;
        practising!(settings, self.prompt.as_ref(), group: settings.group, idle: 0)
    }

    fn training(&self, problems: usize) -> GrpoSettings {
        let over = match self.settings.loss_over {
            LossOver::Answers => Over::Answers,
            LossOver::Tokens => Over::Tokens,
            LossOver::Budget => Over::Budget(self.settings.max_new_tokens),
        };
        GrpoSettings { practice: self.practising().practice(problems), deviation: self.settings.deviation, over }
    }
}

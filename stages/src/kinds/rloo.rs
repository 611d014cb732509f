//! `rloo`: a policy gives several answers to each problem; each is measured by the mean reward of the others (REINFORCE, no critic).

use super::practising::{KL_HORIZON, KlPlace, Practising, Reward, SHOWN, one_length, practising};
use super::sft::{ScheduleShape, StoredPrecision, question_need};
use super::verifier::Verifier;
use crate::columns::Need;
use crate::context::Context;
use crate::failure::Result;
use crate::prompt::Prompt;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::train::policy::Ratio;
use crate::train::rloo::{RlooSettings, train};
use serde_json::{Map, Value};

pub const KIND: Kind = Kind {
    name: "rloo",
    about: "Reinforcement learning without a critic: REINFORCE, each answer measured by the mean of the others (RLOO).",
    schema: RlooNode::schema,
    read,
};

crate::settings! {
    /// Who learns on what, who rewards, and how.
    pub struct RlooNode {
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
        pub group: usize = 4,
        /// β: the weight of the KL divergence from the starting model.
        pub kl: f64 = 0.03,
        /// Where it counts: in the answer's reward by k1, or in the loss by k3.
        pub kl_as: KlPlace = KlPlace::Reward,
        /// β follows the divergence so that it stays near so many nats an answer (Ziegler 2019).
        pub kl_target: Option<f64> = None,
        /// Answers over which such a β adapts.
        pub kl_horizon: f64 = KL_HORIZON,
        /// An iteration's further passes are left out once the policy is so many nats away from the one that answered.
        pub kl_stop: Option<f64> = None,
        /// The run stops as diverged once an answer is so many nats from the starting model in the mean.
        #[serde(skip)]
        pub kl_limit: Unkeyed<Option<f64>> = Unkeyed(None),
        /// What has a probability ratio: the whole answer, as in the paper, or each token, as in PPO.
        pub ratio: RatioOf = RatioOf::Answer,
        /// Advantages to mean 0 and deviation 1.
        pub whiten: bool = false,
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
    /// What is one action.
    pub enum RatioOf { "answer" => Answer, "token" => Token }
}

struct Rloo {
    settings: RlooNode,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut settings = RlooNode::read_fields(fields, reader)?;
    let prompt = settings.verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    one_length(&mut settings.iterations, settings.episodes, settings.passes, reader);
    let stage = Rloo { settings, prompt };
    stage.practising().check(reader);
    stage.practising().check_group(reader);
    (reader.mistakes.len() == before).then(|| Box::new(stage) as Box<dyn Stage>)
}

impl Stage for Rloo {
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
        let shown = [&SHOWN[..], &["sampler_gap"]].concat();
        self.practising().run("rloo", &shown, inputs, context, |task, world, host| {
            let settings = self.training(task.prompts.len());
            train(task, &settings, world, host)
        })
    }
}

impl Rloo {
    fn practising(&self) -> Practising<'_> {
        let settings = &self.settings;
        practising!(settings, self.prompt.as_ref(), group: settings.group, idle: 0)
    }

    fn training(&self, problems: usize) -> RlooSettings {
        let ratio = if self.settings.ratio == RatioOf::Answer { Ratio::Answer } else { Ratio::Token };
        RlooSettings { practice: self.practising().practice(problems), ratio, whiten: self.settings.whiten }
    }
}

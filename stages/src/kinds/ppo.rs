//! `ppo`: a policy answers problems and learns from a verifier's reward, held near the model it started from.

use super::practising::{
    KL_HORIZON, KlPlace, Practising, Reward, SHOWN, is_kl_horizon, is_zero, one_length, practising,
};
use super::sft::{ScheduleShape, StoredPrecision, positive, question_need};
use super::verifier::Verifier;
use crate::columns::Need;
use crate::context::Context;
use crate::failure::Result;
use crate::prompt::Prompt;
use crate::settings::{Reader, Setting, Settings};
use crate::stage::{Input, Inputs, Kind, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use crate::train::ppo::{Critic, PpoSettings, train};
use serde_json::{Map, Value};

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
        pub reward: Reward = Reward::default(),
        /// β: the weight of the KL divergence from the starting model in the reward, a token.
        pub kl: f64 = 0.03,
        /// Where it counts: in each token's reward by k1, or in the loss by k3.
        #[serde(skip_serializing_if = "KlPlace::is_reward")]
        pub kl_as: KlPlace = KlPlace::Reward,
        /// β follows the divergence so that it stays near so many nats an answer (Ziegler 2019).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub kl_target: Option<f64> = None,
        /// Answers over which such a β adapts.
        #[serde(skip_serializing_if = "is_kl_horizon")]
        pub kl_horizon: f64 = KL_HORIZON,
        /// An iteration's further passes are left out once the policy is so many nats a token away from the one that answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub kl_stop: Option<f64> = None,
        /// The run stops as diverged once an answer is so many nats from the starting model in the mean.
        #[serde(skip)]
        pub kl_limit: Unkeyed<Option<f64>> = Unkeyed(None),
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
        /// Who says what is to be expected: a model of its own, or a second head on the policy.
        #[serde(skip_serializing_if = "CriticPlace::is_separate")]
        pub critic: CriticPlace = CriticPlace::Separate,
        /// The weight of a shared critic's loss.
        #[serde(skip_serializing_if = "is_one")]
        pub value_coefficient: f64 = 1.0,
        pub value_lr: f64 = 1e-3,
        /// The critic's passes over an iteration's answers; as many as the policy's when left out.
        pub value_epochs: Option<u64> = None,
        /// Answers an update of the critic; as many as the policy's when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value_minibatch: Option<usize> = None,
        /// First iterations in which only the critic learns.
        pub value_warmup: u64 = 2,
        /// γ
        pub gamma: f64 = 1.0,
        /// λ of generalised advantage estimation.
        pub lambda: f64 = 1.0,
        /// λ of the returns that the critic learns; the same when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub value_lambda: Option<f64> = None,
        /// ε of the clipped objective.
        pub clip: f64 = 0.2,
        /// ε above a ratio of 1, where it is another than below.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub clip_high: Option<f64> = None,
        /// How far a value may move in one iteration.
        pub value_clip: Option<f64> = Some(0.2),
        pub temperature: f64 = 1.0,
        pub max_new_tokens: usize = 256,
        /// Answers that ran into the length limit are kept out of the loss.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub mask_truncated: bool = false,
        /// The weight of the entropy in the loss: above 0 it keeps answers varied.
        #[serde(skip_serializing_if = "is_zero")]
        pub entropy: f64 = 0.0,
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

crate::choice! {
    /// Where values come from.
    pub enum CriticPlace { "separate" => Separate, "shared" => Shared }
}

impl CriticPlace {
    fn is_separate(&self) -> bool {
        *self == CriticPlace::Separate
    }
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

struct Ppo {
    settings: PpoNode,
    prompt: Option<Prompt>,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let mut settings = PpoNode::read_fields(fields, reader)?;
    let prompt = settings.verifier.prompt(fields, reader)?;
    let before = reader.mistakes.len();
    one_length(&mut settings.iterations, settings.episodes, settings.passes, reader);
    let ppo = Ppo { settings, prompt };
    ppo.practising().check(reader);
    for (key, value) in [
        ("value_lr", ppo.settings.value_lr),
        ("value_coefficient", ppo.settings.value_coefficient),
        ("value_minibatch", ppo.settings.value_minibatch.unwrap_or(1) as f64),
    ] {
        positive(key, value, reader);
    }
    (reader.mistakes.len() == before).then(|| Box::new(ppo) as Box<dyn Stage>)
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
        self.settings.verifier.calls(self.practising().answers(rows))
    }

    fn rows_out(&self, _: &[u64]) -> Vec<Outlook> {
        vec![Outlook::exactly(0)]
    }

    fn run(&self, inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let shown = [&SHOWN[..], &["explained_variance", "sampler_gap"]].concat();
        self.practising().run("ppo", &shown, inputs, context, |task, world, host| {
            let settings = self.training(task.prompts.len());
            train(task, &settings, world, host)
        })
    }
}

impl Ppo {
    fn practising(&self) -> Practising<'_> {
        let settings = &self.settings;
        practising!(settings, self.prompt.as_ref(), group: 1, idle: settings.value_warmup)
    }

    fn training(&self, problems: usize) -> PpoSettings {
        let (settings, practising) = (&self.settings, self.practising());
        PpoSettings {
            practice: practising.practice(problems),
            critic: match settings.critic {
                CriticPlace::Shared => Critic::Shared { coefficient: settings.value_coefficient as f32 },
                CriticPlace::Separate => Critic::Separate {
                    rate: settings.value_lr,
                    optimizer: practising.optimizer(),
                    epochs: settings.value_epochs.unwrap_or(settings.epochs),
                    minibatch: settings.value_minibatch.unwrap_or(settings.minibatch),
                },
            },
            discount: settings.gamma as f32,
            trace: settings.lambda as f32,
            value_trace: settings.value_lambda.map(|lambda| lambda as f32),
            value_clip: settings.value_clip.map(|clip| clip as f32),
            whiten: settings.whiten,
        }
    }
}

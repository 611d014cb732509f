//! `ppo`: a policy answers problems and learns from a verifier's reward, held near the model it started from.

use super::compute::Compute;
use super::lora::LoraSettings;
use super::practising::{self, Algorithm, KL_HORIZON, KlPlace, Practising, Reward, is_kl_horizon, is_zero, practising};
use super::sft::{ScheduleShape, StoredPrecision, positive};
use super::verifier::Verifier;
use crate::failure::Result;
use crate::model::Decoder;
use crate::prompt::Prompt;
use crate::settings::{Reader, Setting};
use crate::stage::{Kind, NodeRef, Unkeyed};
use crate::train::memory::CriticSizes;
use crate::train::ppo::{Critic, PpoSettings, train};
use crate::train::practice::{PracticeSettings, Task};
use crate::train::rollouts::Environment;
use crate::train::{Host, Metrics};

pub const KIND: Kind = Kind {
    name: "ppo",
    about: "Reinforcement learning: a verifier rewards the policy's answers, a KL penalty holds it near its start.",
    schema: PpoNode::schema,
    read: practising::read::<PpoNode>,
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
        /// Small matrices are learnt beside frozen weights, and the model to stay near takes no memory of its own; a critic learns such matrices, too.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub lora: Option<LoraSettings> = None,
        pub precision: StoredPrecision = StoredPrecision::F32,
        /// What products take of their factors: `bf16` rounds each to it, as mixed-precision training does; sums and weights stay f32.
        #[serde(skip_serializing_if = "Compute::is_f32")]
        pub compute: Compute = Compute::F32,
        /// Activations inside the layers are computed again on the way back, not kept: less memory, more time, the same result.
        #[serde(skip)]
        pub checkpointing: Unkeyed<bool> = Unkeyed(false),
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

impl Algorithm for PpoNode {
    const NAME: &'static str = "ppo";
    const SHOWN: &'static [&'static str] = &["explained_variance", "sampler_gap"];

    fn practising<'a>(&'a self, prompt: Option<&'a Prompt>) -> Practising<'a> {
        practising!(self, prompt, group: 1, idle: self.value_warmup)
    }

    fn length(&mut self) -> (&mut Option<u64>, Option<u64>, Option<f64>) {
        (&mut self.iterations, self.episodes, self.passes)
    }

    fn lora(&mut self) -> &mut Option<LoraSettings> {
        &mut self.lora
    }

    fn check(&self, _: &Practising, reader: &mut Reader) {
        for (key, value) in [
            ("value_lr", self.value_lr),
            ("value_coefficient", self.value_coefficient),
            ("value_minibatch", self.value_minibatch.unwrap_or(1) as f64),
        ] {
            positive(key, value, reader);
        }
    }

    fn critic(&self) -> CriticSizes {
        match self.critic {
            CriticPlace::Separate => CriticSizes::Model { minibatch: self.value_answers() },
            CriticPlace::Shared => CriticSizes::Nothing,
        }
    }

    fn train(
        &self,
        practising: &Practising,
        task: Task,
        world: &mut dyn Environment,
        host: &mut dyn Host,
    ) -> Result<(Decoder, Vec<Metrics>)> {
        let settings = self.training(practising.practice(task.prompts.len()));
        train(task, &settings, world, host)
    }
}

impl PpoNode {
    /// Answers an update of a critic of its own.
    fn value_answers(&self) -> usize {
        self.value_minibatch.unwrap_or(self.minibatch)
    }

    fn training(&self, practice: PracticeSettings) -> PpoSettings {
        PpoSettings {
            critic: match self.critic {
                CriticPlace::Shared => Critic::Shared { coefficient: self.value_coefficient as f32 },
                CriticPlace::Separate => Critic::Separate {
                    rate: self.value_lr,
                    optimizer: practice.optimizer,
                    epochs: self.value_epochs.unwrap_or(self.epochs),
                    minibatch: self.value_answers(),
                },
            },
            practice,
            discount: self.gamma as f32,
            trace: self.lambda as f32,
            value_trace: self.value_lambda.map(|lambda| lambda as f32),
            value_clip: self.value_clip.map(|clip| clip as f32),
            whiten: self.whiten,
        }
    }
}

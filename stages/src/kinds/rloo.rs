//! `rloo`: a policy gives several answers to each problem; each is measured by the mean reward of the others (REINFORCE, no critic).

use super::compute::Compute;
use super::lora::LoraSettings;
use super::practising::{self, Algorithm, KL_HORIZON, KlPlace, Practising, Reward, practising};
use super::sft::{ScheduleShape, StoredPrecision};
use super::verifier::Verifier;
use crate::failure::Result;
use crate::model::Decoder;
use crate::prompt::Prompt;
use crate::settings::{Reader, Setting};
use crate::stage::{Kind, NodeRef, Unkeyed};
use crate::train::policy::Ratio;
use crate::train::practice::{PracticeSettings, Task};
use crate::train::rloo::{RlooSettings, train};
use crate::train::rollouts::Environment;
use crate::train::{Host, Metrics};

pub const KIND: Kind = Kind {
    name: "rloo",
    about: "Reinforcement learning without a critic: REINFORCE, each answer measured by the mean of the others (RLOO).",
    schema: RlooNode::schema,
    read: practising::read::<RlooNode>,
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
        /// Small matrices are learnt beside frozen weights, and the model to stay near takes no memory of its own.
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
    /// What is one action.
    pub enum RatioOf { "answer" => Answer, "token" => Token }
}

impl Algorithm for RlooNode {
    const NAME: &'static str = "rloo";
    const SHOWN: &'static [&'static str] = &["sampler_gap"];

    fn practising<'a>(&'a self, prompt: Option<&'a Prompt>) -> Practising<'a> {
        practising!(self, prompt, group: self.group, idle: 0)
    }

    fn length(&mut self) -> (&mut Option<u64>, Option<u64>, Option<f64>) {
        (&mut self.iterations, self.episodes, self.passes)
    }

    fn lora(&mut self) -> &mut Option<LoraSettings> {
        &mut self.lora
    }

    fn check(&self, practising: &Practising, reader: &mut Reader) {
        practising.check_group(reader);
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

impl RlooNode {
    fn training(&self, practice: PracticeSettings) -> RlooSettings {
        let ratio = if self.ratio == RatioOf::Answer { Ratio::Answer } else { Ratio::Token };
        RlooSettings { practice, ratio, whiten: self.whiten }
    }
}

//! What practice will hold in memory: guessed from its settings for a plan, and worked out from its problems before the first answer.

use super::super::lora::LoraSettings;
use super::Practising;
use crate::context::{Context, Profile};
use crate::failure::Result;
use crate::model::DecoderConfig;
use crate::stage::MemoryOutlook;
use crate::train::memory::{CriticSizes, MemoryPlan, ModelSizes, PracticeSizes};

/// Tokens of a problem of which nothing is known.
pub const LIKELY_PROMPT_TOKENS: usize = 128;

impl Practising<'_> {
    pub fn memory_outlook(&self, config: &DecoderConfig, critic: CriticSizes, on: Profile) -> MemoryOutlook {
        let model = self.model(config, on);
        MemoryOutlook {
            likely: self.memory_plan(config, critic, LIKELY_PROMPT_TOKENS, on),
            because: format!("problems of {LIKELY_PROMPT_TOKENS} tokens, answers of {}", self.max_new_tokens),
            least: self.sizes(&model, critic, (1, [1, 1])).plan(),
            advice: self.advice(critic),
        }
    }

    /// With problems of at most so many tokens, and answers as long as they may be.
    pub fn memory_plan(&self, config: &DecoderConfig, critic: CriticSizes, prompt: usize, on: Profile) -> MemoryPlan {
        let model = self.model(config, on);
        let answer = self.max_new_tokens.min((config.max_position_embeddings + 1).saturating_sub(prompt)).max(1);
        self.sizes(&model, critic, (self.rollouts, [prompt, answer])).plan().with_folders(&model)
    }

    fn model(&self, config: &DecoderConfig, on: Profile) -> ModelSizes {
        let lora = self.lora.map(LoraSettings::of_model);
        ModelSizes::new(config, lora.as_ref(), self.compute.profile(on))
    }

    fn sizes<'a>(
        &self,
        model: &'a ModelSizes,
        critic: CriticSizes,
        (rollouts, [prompt_tokens, answer_tokens]): (usize, [usize; 2]),
    ) -> PracticeSizes<'a> {
        PracticeSizes {
            model,
            rollouts,
            minibatch: self.minibatch,
            critic,
            is_checkpointing: self.checkpointing,
            prompt_tokens,
            answer_tokens,
            keeps_checkpoints: true,
        }
    }

    /// Stops before the first answer where what is needed for these problems is not free.
    pub(super) fn check_memory(
        &self,
        config: &DecoderConfig,
        critic: CriticSizes,
        prompt: usize,
        context: &dyn Context,
    ) -> Result<()> {
        let plan = self.memory_plan(config, critic, prompt, context.device().profile());
        check(&plan, config, &self.advice(critic), context)
    }

    /// What to change, of what has not been done already.
    fn advice(&self, critic: CriticSizes) -> String {
        let again = if self.checkpointing { "" } else { "`checkpointing: true`, " };
        let small = LoraSettings::advice(self.lora);
        let shared =
            if critic == CriticSizes::Nothing { "" } else { "`critic: shared` in place of a model of its own, " };
        format!(
            "what takes less: {again}{small}a smaller `minibatch`, `rollouts` or `max_new_tokens`, {shared}a smaller model"
        )
    }
}

/// Stops where a plan does not fit beside the model, which is in memory already.
pub fn check(plan: &MemoryPlan, config: &DecoderConfig, advice: &str, context: &dyn Context) -> Result<()> {
    let held = 4 * ModelSizes::new(config, None, context.device().profile()).parameters as u64;
    plan.check(context.memory_available().map(|free| free + held), advice)
}

//! What learning from pairs will hold in memory: guessed from its settings for a plan, and worked out before the first answer or step.

use super::super::lora::LoraSettings;
use super::super::practising::{LIKELY_PROMPT_TOKENS, check_memory};
use super::Dpo;
use super::pairs::AT_ONCE;
use crate::context::{Context, Profile};
use crate::failure::Result;
use crate::model::DecoderConfig;
use crate::stage::MemoryOutlook;
use crate::train::batches::Example;
use crate::train::dpo::{Pair, steps_of};
use crate::train::memory::{DpoSizes, Lengths, MemoryPlan, ModelSizes, generation};

/// Tokens of an answer of which nothing is known.
const LIKELY_ANSWER_TOKENS: usize = 128;
/// Pairs that are likely enough to fill every lane.
const LIKELY_PAIRS: usize = 256;
/// Epochs whose steps are looked at: each cuts them another way.
const EPOCHS_LOOKED_AT: u64 = 8;

impl Dpo {
    pub(super) fn memory_outlook(&self, config: &DecoderConfig, on: Profile) -> MemoryOutlook {
        let most = self.length_max(config);
        let prompt = LIKELY_PROMPT_TOKENS.min(most - 1);
        let (likely, answer) = if self.samples_pairs() {
            (self.sampled_plan(config, LIKELY_PAIRS, prompt, on), self.answer_tokens(config, prompt))
        } else {
            let answer = LIKELY_ANSWER_TOKENS.min(most - prompt);
            (
                self.plan(
                    config,
                    &vec![[(prompt + answer, answer); 2]; LIKELY_PAIRS.max(self.settings.batch)],
                    &self.full_step(),
                    on,
                ),
                answer,
            )
        };
        MemoryOutlook {
            likely,
            because: format!("questions of {prompt} tokens, answers of {answer}"),
            least: self.sizes(&self.model(config, on), &[[(2, 1); 2]], &[vec![0]]).plan(),
            advice: self.advice(),
        }
    }

    /// Stops before the first step where what is needed for these pairs is not free.
    pub(super) fn check_given(&self, config: &DecoderConfig, pairs: &[Pair], context: &dyn Context) -> Result<()> {
        let lengths = |example: &Example| (example.tokens.len(), example.targets());
        let pairs: Vec<[Lengths; 2]> = pairs.iter().map(|pair| [&pair.chosen, &pair.rejected].map(lengths)).collect();
        let draw = context.draw().of("training");
        let epochs = 0..self.settings.epochs.min(EPOCHS_LOOKED_AT);
        let steps: Vec<Vec<usize>> =
            epochs.flat_map(|epoch| steps_of(pairs.len(), self.settings.batch, &draw, epoch)).collect();
        let plan = self.plan(config, &pairs, &steps, context.device().profile());
        check_memory(&plan, config, &self.advice(), context)
    }

    /// Stops before the first answer where the longest answers to these prompts would need more than is free: what is sampled would
    /// be lost.
    pub(super) fn check_sampled(
        &self,
        config: &DecoderConfig,
        prompts: &[Vec<u32>],
        context: &dyn Context,
    ) -> Result<()> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let plan = self.sampled_plan(config, prompts.len(), longest, context.device().profile());
        check_memory(&plan, config, &self.advice(), context)
    }

    fn sampled_plan(&self, config: &DecoderConfig, problems: usize, prompt: usize, on: Profile) -> MemoryPlan {
        let (model, answer) = (self.model(config, on), self.answer_tokens(config, prompt));
        let requests = problems.min(AT_ONCE) * self.settings.samples;
        let answers = generation(&model, requests, (prompt, answer));
        let pairs = vec![[(prompt + answer, answer); 2]; problems.max(self.settings.batch)];
        self.plan(config, &pairs, &self.full_step(), on).after_generation(&model, &answers)
    }

    /// As many pairs as a step has, of those that are all alike.
    fn full_step(&self) -> [Vec<usize>; 1] {
        [(0..self.settings.batch).collect()]
    }

    fn plan(&self, config: &DecoderConfig, pairs: &[[Lengths; 2]], steps: &[Vec<usize>], on: Profile) -> MemoryPlan {
        let model = self.model(config, on);
        self.sizes(&model, pairs, steps).plan().with_folders(&model)
    }

    fn model(&self, config: &DecoderConfig, on: Profile) -> ModelSizes {
        let lora = self.settings.lora.as_ref().map(LoraSettings::of_model);
        ModelSizes::new(config, lora.as_ref(), self.settings.compute.profile(on))
    }

    fn sizes<'a>(&self, model: &'a ModelSizes, pairs: &'a [[Lengths; 2]], steps: &'a [Vec<usize>]) -> DpoSizes<'a> {
        DpoSizes { model, steps, is_checkpointing: self.settings.checkpointing.0, pairs, keeps_checkpoints: true }
    }

    /// Of the longest answer that is sampled.
    fn answer_tokens(&self, config: &DecoderConfig, prompt: usize) -> usize {
        self.settings.max_new_tokens.min((self.length_max(config) + 1).saturating_sub(prompt)).max(1)
    }

    fn advice(&self) -> String {
        let again = if self.settings.checkpointing.0 { "" } else { "`checkpointing: true`, " };
        let small = LoraSettings::advice(self.settings.lora.as_ref());
        let sampled = if self.samples_pairs() { ", a smaller `max_new_tokens`" } else { "" };
        format!("what takes less: {again}{small}a smaller `batch`, a smaller `max_length`{sampled}, a smaller model")
    }
}

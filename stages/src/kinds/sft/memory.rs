//! What a fine-tuning will hold in memory: guessed from its settings for a plan, and worked out from its texts before the first step.

use super::{Base, Sft};
use crate::context::{Context, Profile};
use crate::failure::Result;
use crate::model::{Decoder, DecoderConfig};
use crate::stage::MemoryOutlook;
use crate::train::batches::{Example, epoch_order, packed};
use crate::train::memory::{Lengths, MemoryPlan, ModelSizes, SftSizes};
use crate::train::sft::{BatchSize, Duration, SftSettings, batches_of, usable};

const EPOCHS_MAX: u64 = 8;
/// Tokens of a text of which nothing is known.
const LIKELY_TOKENS: usize = 256;

/// Epochs whose steps are looked at: each cuts them another way.
fn epochs_looked_at(settings: &SftSettings) -> u64 {
    match settings.duration {
        Duration::Epochs(epochs) => (epochs.ceil() as u64).clamp(1, EPOCHS_MAX),
        _ => 1,
    }
}

impl Sft {
    /// The model's shape, as far as it stands before a run. A fresh model's vocabulary is at most what is asked for.
    pub(super) fn model_shape(&self, models: &[Option<DecoderConfig>]) -> Option<DecoderConfig> {
        match &self.0.base {
            Base::Fresh(fresh) => Some(fresh.config(fresh.tokenizer.size, 0)),
            Base::Folder(folder) => {
                let path = folder.join("config.json");
                let text = std::fs::read_to_string(&path).ok()?;
                DecoderConfig::from_json(&text, &path.display().to_string()).ok()
            }
            Base::Node(_) => models.first().cloned().flatten(),
        }
    }

    pub(super) fn memory_outlook(&self, models: &[Option<DecoderConfig>], on: Profile) -> Option<MemoryOutlook> {
        let config = self.model_shape(models)?;
        let settings = self.training(config.max_position_embeddings);
        let model = self.sizes(&config, on);
        let length = LIKELY_TOKENS.min(settings.length_max).max(2);
        let plan_of = |length: usize, texts: usize| {
            let lengths = vec![(length, length.div_ceil(2)); texts];
            let all: Vec<usize> = (0..texts).collect();
            let batches = match settings.batch {
                BatchSize::Tokens(tokens) => packed(&all, |_| length, tokens),
                BatchSize::Rows(rows) => vec![all[..rows.min(texts)].to_vec()],
            };
            self.plan(&model, &settings, &batches, &lengths, &[])
        };
        let texts = match settings.batch {
            BatchSize::Tokens(tokens) => (tokens / length).max(1),
            BatchSize::Rows(rows) => rows.max(1),
        };
        Some(MemoryOutlook {
            likely: plan_of(length, texts),
            because: format!("texts of {length} tokens"),
            least: plan_of(2, 1),
            advice: self.advice(),
        })
    }

    /// Stops before the first step where what is needed for these texts is not free.
    pub(super) fn check_memory(
        &self,
        decoder: &Decoder,
        [trained, held_out]: [&[Example]; 2],
        settings: &SftSettings,
        context: &dyn Context,
    ) -> Result<()> {
        let lengths_of = |examples: &[Example]| -> Vec<Lengths> {
            usable(examples, settings).iter().map(|example| (example.tokens.len(), example.targets())).collect()
        };
        let (lengths, held_out) = (lengths_of(trained), lengths_of(held_out));
        let (draw, epochs) = (context.draw().of("training"), epochs_looked_at(settings));
        let orders = (0..epochs).map(|epoch| epoch_order(lengths.len(), &draw, epoch));
        let batches: Vec<Vec<usize>> =
            orders.flat_map(|order| batches_of(settings.batch, &order, |text| lengths[text].0)).collect();
        let model = self.sizes(decoder.config(), context.device().profile());
        let plan = self.plan(&model, settings, &batches, &lengths, &held_out);
        // The parameters are in memory already.
        let held = decoder.layout().len as u64 * 4;
        plan.check(context.memory_available().map(|free| free + held), &self.advice())
    }

    fn sizes(&self, config: &DecoderConfig, on: Profile) -> ModelSizes {
        let lora = self.0.lora.as_ref().map(super::LoraSettings::of_model);
        ModelSizes::new(config, lora.as_ref(), self.0.compute.profile(on))
    }

    fn plan(
        &self,
        model: &ModelSizes,
        settings: &SftSettings,
        batches: &[Vec<usize>],
        lengths: &[Lengths],
        held_out: &[Lengths],
    ) -> MemoryPlan {
        SftSizes {
            model,
            is_checkpointing: settings.checkpointing,
            micro_batch_tokens: settings.micro_batch_tokens,
            batches,
            lengths,
            held_out,
            keeps_best: settings.evaluation.is_some_and(|evaluation| evaluation.best),
            keeps_checkpoints: true,
        }
        .plan()
        .with_folders(model)
    }

    /// What to change, of what has not been done already.
    fn advice(&self) -> String {
        let ways = [
            (!self.0.checkpointing.0, "`checkpointing: true`"),
            (true, "a smaller `micro_batch_tokens`"),
            (true, "a smaller `max_length`"),
            (self.0.lora.is_none(), "`lora: {}`, which learns a small part"),
            (true, "a smaller model"),
        ];
        let ways: Vec<&str> = ways.iter().filter(|(helps, _)| *helps).map(|(_, way)| *way).collect();
        format!("what takes less: {}", ways.join(", "))
    }
}

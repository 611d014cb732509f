//! What a training will hold in memory, worked out from sizes alone: told in a plan, and compared with the machine before anything is
//! spent. `stages/tests/memory.rs` holds it against what is really allocated.
//!
//! Everything is f32 in memory, whatever a file holds. Sizes of activations are [`Workspace::floats`]; how batches are cut is
//! [`Cut::lanes`]; logits are never stored.

use super::shards::Cut;
use crate::failure::{Failure, Result};
use crate::model::DecoderConfig;
use crate::model::generate::{Crew, Room};
use crate::model::lora::Lora;
use crate::model::parameters::Layout;
use crate::model::workspace::{Purpose, Workspace};
use serde::Serialize;
use std::collections::BTreeMap;

/// A number of f32, in bytes.
const FLOAT: u64 = 4;
/// Rows and columns of the logits' gradients that exist at once in a lane.
const LOGIT_PIECE: (usize, usize) = (1_024, 1_024);
/// Rows of logits that a thread has at once on the way there.
const LOGIT_ROWS: usize = 96;
/// What a product copies into order on a thread: rows, each as deep as the product but no deeper than this, and a panel.
const PRODUCT: (usize, usize, usize) = (192, 1_024, 8_208);

/// One thing that takes memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub what: &'static str,
    pub bytes: u64,
}

/// All that a training holds. What passes is never there together, so that only the most of it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    pub lasting: Vec<Part>,
    pub passing: Vec<Part>,
}

impl MemoryPlan {
    fn lasting(mut self, what: &'static str, floats: usize) -> MemoryPlan {
        self.lasting.push(Part { what, bytes: floats as u64 * FLOAT });
        self
    }

    fn passing(mut self, what: &'static str, floats: usize) -> MemoryPlan {
        self.passing.push(Part { what, bytes: floats as u64 * FLOAT });
        self
    }

    /// With the model written to a folder before and after: its weights once more, and as the file has them.
    pub fn with_export(self, model: &ModelSizes) -> MemoryPlan {
        let work: u64 = self.lasting.iter().map(|part| part.bytes).sum();
        let held_then = (model.parameters + 2 * model.parameters) as u64 * FLOAT;
        let beyond = held_then.saturating_sub(work);
        self.passing("the model while it is written", (beyond / FLOAT) as usize)
    }

    /// The most that is held at once, in bytes.
    pub fn total(&self) -> u64 {
        let passing = self.passing.iter().map(|part| part.bytes).max().unwrap_or(0);
        self.lasting.iter().map(|part| part.bytes).sum::<u64>() + passing
    }

    /// The parts that count, the largest first.
    pub fn parts(&self) -> Vec<&Part> {
        let most = self.passing.iter().max_by_key(|part| part.bytes);
        let mut parts: Vec<&Part> = self.lasting.iter().chain(most).filter(|part| part.bytes > 0).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        parts
    }

    /// An error with what to change, where `available` bytes are too few.
    ///
    /// # Errors
    /// If the total does not fit.
    pub fn check(&self, available: Option<u64>, advice: &str) -> Result<()> {
        let Some(available) = available.filter(|&available| self.total() > available) else { return Ok(()) };
        let parts: Vec<String> =
            self.parts().iter().take(4).map(|part| format!("{} {}", part.what, in_words(part.bytes))).collect();
        Err(Failure::recipe(format!(
            "this training needs about {}, and {} are free here ({}); {advice}",
            in_words(self.total()),
            in_words(available),
            parts.join(", ")
        )))
    }
}

/// Such as `1.2 GB` and `310 MB`.
pub fn in_words(bytes: u64) -> String {
    match bytes as f64 {
        few if few < 1e7 => format!("{:.1} MB", few / 1e6),
        some if some < 1e9 => format!("{:.0} MB", some / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}

/// The sizes of a model that learns.
#[derive(Debug, Clone)]
pub struct ModelSizes {
    pub config: DecoderConfig,
    /// All its numbers.
    pub parameters: usize,
    /// Those that are learnt.
    pub learnt: usize,
    /// Of its adapters; 0 without.
    pub rank: usize,
}

impl ModelSizes {
    pub fn new(config: &DecoderConfig, lora: Option<&Lora>) -> ModelSizes {
        let mut layout = Layout::new(config, false);
        let learnt = lora.map_or(layout.len, |lora| lora.lay_out(config, &mut layout));
        let rank = lora.map_or(0, |lora| lora.rank);
        ModelSizes { config: config.clone(), parameters: layout.len, learnt, rank }
    }

    fn workspace(&self, purpose: Purpose, (tokens, chosen): (usize, usize)) -> usize {
        let adapters = if self.rank > 0 { Workspace::adapter_floats(&self.config, self.rank, tokens) } else { 0 };
        // A batch itself: tokens and places, rows and targets.
        Workspace::floats(&self.config, purpose, tokens, chosen) + adapters + 2 * (tokens + chosen)
    }

    /// What answering `requests` prompts holds, where the longest has `prompt` tokens and each answer is as long as it may be.
    fn generation(&self, requests: usize, (prompt, answer): (usize, usize), threads: usize) -> usize {
        let (config, room) = (&self.config, Room::default());
        let crew = Crew::new((config, self.parameters), threads, &room, requests, (prompt, answer));
        let rows = crew.cache_bytes(config, &room) + crew.row_bytes(config, &room);
        let read = crew.tokens_read(prompt).max(crew.slots);
        crew.workers * (rows.div_ceil(FLOAT as usize) + self.workspace(Purpose::Inference, (read, crew.slots)))
    }

    /// What threads keep between operations: two pieces each, as large as the largest was.
    fn scratch(&self, lanes: &[(usize, usize)], threads: usize) -> usize {
        let tokens = lanes.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0);
        let (rows, depth_max, panel) = PRODUCT;
        let depth = tokens.max(self.config.intermediate_size).max(self.config.hidden_size).min(depth_max);
        let logits = LOGIT_ROWS * self.config.vocab_size.min(LOGIT_PIECE.1);
        2 * threads * (rows * depth + panel).max(logits).next_power_of_two()
    }

    /// The pieces of logits that lanes work on side by side.
    fn head(&self, lanes: &[(usize, usize)], threads: usize) -> usize {
        let columns = self.config.vocab_size.min(LOGIT_PIECE.1);
        let mut rows: Vec<usize> = lanes.iter().map(|(_, chosen)| *chosen.min(&LOGIT_PIECE.0)).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        rows.iter().take(threads).sum::<usize>() * columns
    }
}

/// A text's tokens and how many of them are targets.
pub type Lengths = (usize, usize);

/// The largest pass of each lane over some batches: tokens read and rows chosen.
pub fn lane_sizes<'a>(
    cut: Cut,
    batches: impl IntoIterator<Item = &'a [usize]>,
    lengths: &[Lengths],
) -> Vec<(usize, usize)> {
    let mut lanes: Vec<(usize, usize)> = Vec::new();
    for batch in batches {
        for (index, chunks) in cut.lanes(batch, |text| lengths[text].0).iter().enumerate() {
            if lanes.len() <= index {
                lanes.push((0, 0));
            }
            for chunk in chunks {
                // The last token of a text is not read.
                let tokens: usize = chunk.iter().map(|&text| lengths[text].0 - 1).sum();
                let chosen: usize = chunk.iter().map(|&text| lengths[text].1).sum();
                lanes[index] = (lanes[index].0.max(tokens), lanes[index].1.max(chosen));
            }
        }
    }
    lanes
}

/// What a supervised training is made of, as far as it takes memory.
pub struct SftSizes<'a> {
    pub model: &'a ModelSizes,
    pub is_checkpointing: bool,
    pub micro_batch_tokens: Option<usize>,
    pub batches: &'a [Vec<usize>],
    pub lengths: &'a [Lengths],
    pub held_out: &'a [Lengths],
    /// Whether the best weights are kept.
    pub keeps_best: bool,
    /// Whether checkpoints are written.
    pub keeps_checkpoints: bool,
    pub threads: usize,
}

impl SftSizes<'_> {
    pub fn plan(&self) -> MemoryPlan {
        let ModelSizes { parameters, learnt, .. } = *self.model;
        let cut = Cut { parameters, tokens_max: usize::MAX }.within(self.micro_batch_tokens);
        let purpose = Purpose::training(self.is_checkpointing);
        let lanes = lane_sizes(cut, self.batches.iter().map(Vec::as_slice), self.lengths);
        let all: Vec<usize> = (0..self.held_out.len()).collect();
        let reading = if all.is_empty() { Vec::new() } else { lane_sizes(cut, [&all[..]], self.held_out) };
        let work = |lanes: &[(usize, usize)], purpose| -> usize {
            lanes.iter().map(|&lane| self.model.workspace(purpose, lane)).sum()
        };
        let (kept, best) = (usize::from(self.keeps_checkpoints) * 3 * learnt, usize::from(self.keeps_best) * learnt);
        let head = self.model.head(&lanes, self.threads);
        let adapters = if learnt == parameters { 0 } else { learnt };
        MemoryPlan::default()
            .lasting("parameters", parameters)
            .lasting("adapters", adapters)
            .lasting("moments of the optimizer", 2 * learnt)
            .lasting("gradients", lanes.len() * learnt)
            .lasting("activations", work(&lanes, purpose))
            .lasting("evaluation", work(&reading, Purpose::Inference))
            .lasting("best weights", best)
            .lasting("scratch of threads", self.model.scratch(&lanes, self.threads))
            .passing("a piece of logits in the LM head", head)
            .passing("a checkpoint while it is written", kept)
    }
}

/// What a reinforcement learning is made of, as far as it takes memory; answers as long as they may be.
pub struct PracticeSizes<'a> {
    pub model: &'a ModelSizes,
    /// Answers an iteration, and an update.
    pub rollouts: usize,
    pub minibatch: usize,
    /// Answers an update of a critic of its own.
    pub critic_minibatch: Option<usize>,
    /// Tokens of the longest problem and of the longest answer.
    pub prompt_tokens: usize,
    pub answer_tokens: usize,
    pub keeps_checkpoints: bool,
    pub threads: usize,
}

impl PracticeSizes<'_> {
    pub fn plan(&self) -> MemoryPlan {
        let (model, parameters) = (self.model, self.model.parameters);
        let lengths = vec![(self.prompt_tokens + self.answer_tokens, self.answer_tokens); self.rollouts];
        let cut = Cut { parameters, tokens_max: usize::MAX };
        let lanes_of = |answers: usize| {
            let batch: Vec<usize> = (0..answers.min(self.rollouts)).collect();
            lane_sizes(cut, [&batch[..]], &lengths)
        };
        let work = |lanes: &[(usize, usize)], purpose| -> usize {
            lanes.iter().map(|&lane| model.workspace(purpose, lane)).sum()
        };
        let (policy, critic) = (lanes_of(self.minibatch), self.critic_minibatch.map(lanes_of).unwrap_or_default());
        let critics = usize::from(self.critic_minibatch.is_some());
        let all = lanes_of(self.rollouts);
        // Six columns a token: log-probabilities three times, values, advantages, returns; and the tokens.
        let rollouts = self.rollouts * (7 * self.answer_tokens + self.prompt_tokens);
        MemoryPlan::default()
            .lasting("parameters of the policy", parameters)
            .lasting("the model to stay near", parameters)
            .lasting("parameters of the critic", critics * parameters)
            .lasting("moments of the optimizer", 2 * (1 + critics) * parameters)
            .lasting("gradients", (policy.len() + critic.len()) * parameters)
            .lasting("activations", work(&policy, Purpose::Training) + work(&critic, Purpose::Training))
            .lasting("answers", rollouts)
            .lasting("scratch of threads", model.scratch(&policy, self.threads))
            .passing("keys, values and logits of the sampler", self.sampler())
            .passing("scoring of answers", work(&all, Purpose::Inference))
            .passing("a piece of logits in the LM head", model.head(&policy, self.threads))
            .passing(
                "a checkpoint while it is written",
                usize::from(self.keeps_checkpoints) * 3 * (1 + critics) * parameters,
            )
    }

    /// What `generate` holds while it answers.
    fn sampler(&self) -> usize {
        self.model.generation(self.rollouts, (self.prompt_tokens, self.answer_tokens), self.threads)
    }
}

/// Bytes that this process may still take: what the system says is available, and no more than its control group allows. `None` where
/// nobody tells.
pub fn available() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes: BTreeMap<&str, u64> = told
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let free = kilobytes.get("MemAvailable")? * 1024;
    Some(group_limit().map_or(free, |limit| limit.min(free)))
}

/// What the control group has left.
fn group_limit() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |limit: &str, used: &str| Some(number(limit)?.saturating_sub(number(used)?));
    left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
        .or_else(|| left("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"))
}

//! What a training will hold in memory, worked out from sizes alone: told in a plan, and compared with the machine before anything is
//! spent. `stages/tests/memory.rs` holds it against what is really allocated.
//!
//! Everything is f32 in memory, whatever a file holds. Sizes of activations are [`Workspace::floats`]; how batches are cut is
//! [`Cut::lanes`]; logits are never stored. On an accelerator its memory counts: what is in the host's beside it does not.

mod machine;
mod sizes;

pub use machine::{available, held};
pub use sizes::{CriticSizes, DpoSizes, PracticeSizes, SftSizes, generation};

use super::shards::Cut;
use crate::failure::{Failure, Result};
use crate::model::DecoderConfig;
use crate::model::decoder::{PREPARED_PARAMETERS_MAX, SHARED_PARAMETERS_MAX};
use crate::model::generate::{Crew, Room};
use crate::model::lora::Lora;
use crate::model::parameters;
use crate::model::workspace::{Purpose, Workspace};
use kernels::logprob::{self, Head};
use kernels::{Heads, Layout, Profile, attention, matmul, reduce};
use serde::Serialize;

/// A number of f32, in bytes.
const FLOAT: u64 = 4;
/// Rows and columns of the logits' gradients that exist at once in a lane.
const LOGIT_PIECE: (usize, usize) = (1_024, 1_024);
/// Rows of logits that a thread has at once on the way there.
const LOGIT_ROWS: usize = 96;

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    Parameters,
    Gradients,
    Optimizer,
    Activations,
    KvCache,
    Other,
}

impl Use {
    const ALL: [Use; 6] = [Use::Parameters, Use::Gradients, Use::Optimizer, Use::Activations, Use::KvCache, Use::Other];

    fn name(self) -> &'static str {
        match self {
            Use::Parameters => "parameters",
            Use::Gradients => "gradients",
            Use::Optimizer => "optimizer",
            Use::Activations => "activations",
            Use::KvCache => "KV cache",
            Use::Other => "other",
        }
    }
}

/// One thing that takes memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    #[serde(rename = "use")]
    pub of: Use,
    pub what: &'static str,
    pub bytes: u64,
}

/// All that a training holds. Of the phases that pass, one at a time, only the largest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    pub lasting: Vec<Part>,
    pub passing: Vec<Vec<Part>>,
}

fn part((of, what, floats): (Use, &'static str, usize)) -> Part {
    Part { of, what, bytes: floats as u64 * FLOAT }
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

impl MemoryPlan {
    fn lasting(mut self, of: Use, what: &'static str, floats: usize) -> MemoryPlan {
        self.lasting.push(part((of, what, floats)));
        self
    }

    fn passing<const N: usize>(mut self, parts: [(Use, &'static str, usize); N]) -> MemoryPlan {
        self.passing.push(parts.map(part).to_vec());
        self
    }

    /// With the model read from a folder before, and written to one after: its weights once more, and as a file has them.
    pub fn with_folders(self, model: &ModelSizes) -> MemoryPlan {
        if model.on.is_accelerator() {
            return self; // files pass through the host's memory
        }
        let beyond = (3 * model.parameters as u64 * FLOAT).saturating_sub(sum(&self.lasting));
        self.passing([(Use::Parameters, "the model while it is read or written", (beyond / FLOAT) as usize)])
    }

    /// With answers to so many prompts before, when there was but the model.
    pub fn after_generation(self, model: &ModelSizes, plan: &MemoryPlan) -> MemoryPlan {
        let own = sum(&self.lasting) - model.parameters as u64 * FLOAT;
        let beyond = (plan.total() - model.parameters as u64 * FLOAT).saturating_sub(own);
        self.passing([(Use::KvCache, "answers before", (beyond / FLOAT) as usize)])
    }

    /// The most that is held at once, in bytes.
    pub fn total(&self) -> u64 {
        sum(&self.parts())
    }

    /// The parts that make the total.
    pub fn parts(&self) -> Vec<Part> {
        let most = self.passing.iter().max_by_key(|phase| sum(phase));
        self.lasting.iter().chain(most.into_iter().flatten()).filter(|part| part.bytes > 0).cloned().collect()
    }

    /// Bytes for each use, all of them.
    pub fn uses(&self) -> Vec<(&'static str, u64)> {
        let parts = self.parts();
        let of = |wanted: Use| parts.iter().filter(|part| part.of == wanted).map(|part| part.bytes).sum();
        Use::ALL.map(|wanted| (wanted.name(), of(wanted))).to_vec()
    }

    /// Such as `parameters 12.4 MB, gradients 24.8 MB`, without what takes nothing.
    pub fn uses_in_words(&self) -> String {
        let uses = self.uses().into_iter().filter(|(_, bytes)| *bytes > 0);
        uses.map(|(name, bytes)| format!("{name} {}", in_words(bytes))).collect::<Vec<_>>().join(", ")
    }

    /// An error with what to change, where `available` bytes are too few.
    ///
    /// # Errors
    /// If the total does not fit.
    pub fn check(&self, available: Option<u64>, advice: &str) -> Result<()> {
        let Some(available) = available.filter(|&available| self.total() > available) else { return Ok(()) };
        Err(Failure::recipe(format!(
            "this training would hold about {} in memory ({}), and {} are free here; {advice}",
            in_words(self.total()),
            self.uses_in_words(),
            in_words(available),
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
    /// What computes.
    pub on: Profile,
}

impl ModelSizes {
    pub fn new(config: &DecoderConfig, lora: Option<&Lora>, on: Profile) -> ModelSizes {
        let mut layout = parameters::Layout::new(config, false);
        let learnt = lora.map_or(layout.len, |lora| lora.lay_out(config, &mut layout));
        let rank = lora.map_or(0, |lora| lora.rank);
        ModelSizes { config: config.clone(), parameters: layout.len, learnt, rank, on }
    }

    fn cut(&self) -> Cut {
        Cut { parameters: self.parameters, tokens_max: usize::MAX }
    }

    /// What lies in the host's memory counts where that is the device's.
    fn on_host(&self, floats: usize) -> usize {
        if self.on.is_accelerator() { 0 } else { floats }
    }

    /// Activations of each lane's largest pass.
    fn work(&self, lanes: &[(usize, usize)], purpose: Purpose) -> usize {
        lanes.iter().map(|&lane| self.workspace(purpose, lane)).sum()
    }

    fn workspace(&self, purpose: Purpose, (tokens, chosen): (usize, usize)) -> usize {
        let adapters = if self.rank > 0 { Workspace::adapter_floats(&self.config, self.rank, tokens) } else { 0 };
        // A batch itself: tokens and places, rows and targets.
        Workspace::floats(&self.config, purpose, tokens, chosen) + adapters + 2 * (tokens + chosen)
    }

    /// What answering `requests` prompts holds, where the longest has `prompt` tokens and each answer is as long as it may be: keys and
    /// values, and the rows at work.
    fn answers(&self, requests: usize, lengths: (usize, usize)) -> (usize, usize) {
        let (config, (crew, room)) = (&self.config, self.crew(requests, lengths));
        let floats = |bytes: usize| bytes.div_ceil(FLOAT as usize);
        let read = crew.tokens_read(lengths.0).max(crew.slots);
        let rows = floats(crew.row_bytes(config, &room)) + self.workspace(Purpose::Inference, (read, crew.slots));
        (crew.workers * floats(crew.cache_bytes(config, &room)), crew.workers * rows)
    }

    fn crew(&self, requests: usize, lengths: (usize, usize)) -> (Crew, Room) {
        let room = Room::default();
        (Crew::new((&self.config, self.parameters), self.on.threads(), &room, requests, lengths), room)
    }

    /// What threads keep between a generation's operations on so many tokens: its products find their weights prepared.
    fn scratch_of_generation(&self, tokens: usize) -> usize {
        let Profile::Cpu { threads } = self.on else { return 0 };
        let products = self.projections().map(|(outputs, inputs)| (tokens, outputs, inputs));
        matmul::scratch_floats(&products, self.config.vocab_size, threads)
    }

    /// What threads keep between a training's operations on so many tokens.
    fn scratch(&self, tokens: usize) -> usize {
        let Profile::Cpu { threads } = self.on else { return 0 };
        let DecoderConfig { hidden_size: d, vocab_size, .. } = self.config;
        let (rows, columns) = (tokens.min(LOGIT_PIECE.0), vocab_size.min(LOGIT_PIECE.1));
        let projections = self.projections().into_iter();
        let products = projections.chain([(columns, d)]).flat_map(|(outputs, inputs)| {
            [(tokens, outputs, inputs), (tokens, inputs, outputs), (outputs, inputs, tokens)]
        });
        let beside = (LOGIT_ROWS * columns).max(if rows > LOGIT_ROWS { columns.next_multiple_of(32) * d } else { 0 });
        matmul::scratch_floats(&products.collect::<Vec<_>>(), beside, threads)
    }

    /// Outputs and inputs of a layer's matrices.
    fn projections(&self) -> [(usize, usize); 4] {
        let DecoderConfig { hidden_size: d, intermediate_size: f, .. } = self.config;
        [(self.config.qkv_size(), d), (d, self.config.query_size()), (2 * f, d), (d, f)]
    }

    /// The matrices once more, in the order in which generation reads them.
    fn prepared(&self) -> usize {
        if self.parameters > PREPARED_PARAMETERS_MAX || self.on.is_accelerator() {
            return 0;
        }
        let floats = |(outputs, inputs)| matmul::prepared_floats(outputs, inputs);
        let layer: usize = self.projections().map(floats).iter().sum();
        self.config.num_hidden_layers * layer + floats((self.config.vocab_size, self.config.hidden_size))
    }

    /// The matrices twice more, in the orders in which lanes read them on both ways.
    fn shared(&self) -> usize {
        if self.parameters > SHARED_PARAMETERS_MAX || self.on.is_accelerator() {
            return 0;
        }
        let floats =
            |(outputs, inputs)| matmul::prepared_floats(outputs, inputs) + matmul::prepared_floats(inputs, outputs);
        self.config.num_hidden_layers * self.projections().map(floats).iter().sum::<usize>()
    }

    /// What an accelerator keeps for the operations of these passes: as much as the most wanting one takes, and what its library does.
    fn workspaces(&self, lanes: &[(usize, usize)], is_training: bool) -> usize {
        let lane = |&(tokens, chosen): &(usize, usize)| {
            let head = Head { vocabulary: self.config.vocab_size, width: self.config.hidden_size, temperature: 1.0 };
            let widest = self.config.hidden_size.max(self.config.qkv_size());
            let vectors = if is_training { reduce::workspace_bytes(self.on, tokens, widest) } else { 0 };
            self.products_workspace(tokens, is_training)
                .max(attention::workspace_bytes(self.on, self.heads(), tokens, is_training))
                .max(logprob::workspace_bytes(self.on, chosen, head, is_training))
                .max(vectors)
        };
        self.kept(lanes.iter().map(lane).max().unwrap_or(0))
    }

    /// The same for answers.
    fn workspaces_of_generation(&self, requests: usize, lengths: (usize, usize)) -> usize {
        let (crew, _) = self.crew(requests, lengths);
        let (slots, read) = (crew.slots, crew.tokens_read(lengths.0));
        let logits = (slots, self.config.vocab_size, self.config.hidden_size);
        let bytes = self
            .products_workspace(read, false)
            .max(attention::workspace_bytes(self.on, self.heads(), read, false))
            .max(attention::decode_workspace_bytes(self.on, self.heads(), slots, crew.longest))
            .max(matmul::workspace_bytes(self.on, Layout::Nt, logits));
        self.kept(bytes)
    }

    fn kept(&self, workspace_bytes: usize) -> usize {
        (workspace_bytes + self.on.library_bytes()).div_ceil(FLOAT as usize)
    }

    /// Of the widest product of a layer, and of its gradients.
    fn products_workspace(&self, tokens: usize, is_training: bool) -> usize {
        let bytes = |layout, shape| matmul::workspace_bytes(self.on, layout, shape);
        let of = |(outputs, inputs): (usize, usize)| {
            let forward = bytes(Layout::Nt, (tokens, outputs, inputs));
            let inward = bytes(Layout::Nn, (tokens, inputs, outputs));
            let of_weights = bytes(Layout::Tn, (outputs, inputs, tokens));
            if is_training { forward.max(inward).max(of_weights) } else { forward }
        };
        self.projections().map(of).into_iter().max().unwrap_or(0)
    }

    /// By which queries and keys are turned, for every position.
    fn angles(&self) -> usize {
        self.config.max_position_embeddings * self.config.head_size()
    }

    fn heads(&self) -> Heads {
        let DecoderConfig { num_attention_heads: query, num_key_value_heads: key_value, .. } = self.config;
        Heads { query, key_value, width: self.config.head_size() }
    }

    /// The pieces of logits that lanes work on side by side.
    fn head(&self, lanes: &[(usize, usize)]) -> usize {
        let Profile::Cpu { threads } = self.on else { return 0 };
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

/// Tokens of the longest pass.
fn longest(lanes: &[(usize, usize)]) -> usize {
    lanes.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0)
}

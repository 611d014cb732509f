//! The memory of one pass through a decoder, kept from step to step so that a step allocates nothing.

use super::config::DecoderConfig;
use kernels::{Buffer, Stream};

/// What a pass leaves behind: everything for a backward pass, or the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Training,
    /// Training that keeps what enters each layer, and computes the layer again on the way back: gradient checkpointing
    /// (Chen 2016). The same bits as [`Purpose::Training`].
    Recomputation,
    Inference,
}

impl Purpose {
    /// To learn, with or without gradient checkpointing.
    pub fn training(is_checkpointing: bool) -> Purpose {
        if is_checkpointing { Purpose::Recomputation } else { Purpose::Training }
    }

    pub fn is_training(self) -> bool {
        self != Purpose::Inference
    }

    /// Of how many layers the memory is kept, and how many rows `[T, d]` between layers.
    pub(crate) fn kept(self, layers: usize) -> (usize, usize) {
        match self {
            Purpose::Training => (layers, layers + 1),
            Purpose::Recomputation => (1, layers + 1),
            Purpose::Inference => (1, 2),
        }
    }
}

/// Activations of T tokens and N chosen rows.
pub struct Workspace {
    pub stream: Stream,
    purpose: Purpose,
    tokens: usize,
    chosen: usize,
    /// `[T, d]` what enters each layer, and last what leaves the stack. Inference alternates between two.
    pub(super) residuals: Vec<Buffer<f32>>,
    /// One layer's memory serves all where nothing is kept of them.
    pub(super) layers: Vec<LayerMemory>,
    /// `[T, d]` after the last norm.
    pub(super) normed: Buffer<f32>,
    /// `[T]`
    pub(super) scale: Buffer<f32>,
    pub(super) back: Option<BackwardMemory>,
    pub(super) heads: HeadMemory,
    pub(super) adapter: AdapterMemory,
}

/// What an adapter makes on its way, one at a time; empty without adapters.
pub(super) struct AdapterMemory {
    /// `[T, r]` x · Aᵀ, and its gradient.
    pub low: Buffer<f32>,
    pub dlow: Buffer<f32>,
    /// `[T, ·]` what an adapter adds to its rows of y, or what comes back to it; as wide as the widest.
    pub part: Buffer<f32>,
    /// `[·]` where gradients of frozen vectors go, as long as the longest.
    pub frozen: Buffer<f32>,
}

pub(super) struct LayerMemory {
    /// `[T, d]`, `[T]`
    pub attention_normed: Buffer<f32>,
    pub attention_scale: Buffer<f32>,
    /// Only where heads are normed.
    pub head_norms: Option<HeadNormMemory>,
    /// `[T, (H + 2K)·D]`
    pub qkv: Buffer<f32>,
    /// `[T, H·D]`, `[T, H]`
    pub attended: Buffer<f32>,
    pub log_sum: Buffer<f32>,
    /// `[T, d]` between attention and feed-forward.
    pub middle: Buffer<f32>,
    /// `[T, d]`, `[T]`
    pub feed_forward_normed: Buffer<f32>,
    pub feed_forward_scale: Buffer<f32>,
    /// `[T, 2F]`, `[T, F]`
    pub gate_up: Buffer<f32>,
    pub activated: Buffer<f32>,
}

/// What the norms of heads see and save.
pub(super) struct HeadNormMemory {
    /// `[T, (H + 2K)·D]` as projected.
    pub projected: Buffer<f32>,
    /// `[T, H + K]`
    pub scale: Buffer<f32>,
}

/// Gradients on their way back; each named after what it is the gradient of.
pub(super) struct BackwardMemory {
    pub residual: Buffer<f32>,
    pub normed: Buffer<f32>,
    pub qkv: Buffer<f32>,
    pub attended: Buffer<f32>,
    pub gate_up: Buffer<f32>,
    pub activated: Buffer<f32>,
    /// `[N, d]`
    pub hidden: Buffer<f32>,
}

/// What the heads see and say, a row for each chosen token.
pub(super) struct HeadMemory {
    /// `[N, d]`
    pub hidden: Buffer<f32>,
    /// `[N]` each
    pub logp: Buffer<f32>,
    pub log_sum: Buffer<f32>,
    pub entropy: Buffer<f32>,
    pub values: Buffer<f32>,
    pub gradient: Buffer<f32>,
}

impl Workspace {
    pub fn new(stream: Stream, purpose: Purpose) -> Workspace {
        let heads = HeadMemory::new(&stream, 0, 0);
        let (normed, scale) = (stream.uninit(0), stream.uninit(0));
        let (residuals, layers) = (Vec::new(), Vec::new());
        let adapter = AdapterMemory::new(&stream, 0, 0, 0, 0);
        Workspace {
            stream,
            purpose,
            tokens: 0,
            chosen: 0,
            residuals,
            layers,
            normed,
            scale,
            back: None,
            heads,
            adapter,
        }
    }

    /// Makes room for T tokens and N chosen rows; what is large enough is left as it is.
    pub fn fit(&mut self, config: &DecoderConfig, tokens: usize, chosen: usize) {
        if tokens > self.tokens || chosen > self.chosen {
            (self.tokens, self.chosen) = (self.tokens.max(tokens), self.chosen.max(chosen));
            self.allocate(config);
        }
    }

    /// Makes room for adapters of rank r over T tokens.
    pub(super) fn fit_adapters(&mut self, config: &DecoderConfig, rank: usize) {
        let (widest, vector) = AdapterMemory::widths(config);
        if self.adapter.low.len() < self.tokens * rank || self.adapter.part.len() < self.tokens * widest {
            self.adapter = AdapterMemory::new(&self.stream, self.tokens, rank, widest, vector);
        }
    }

    /// Numbers that adapters of rank r take beside [`Workspace::floats`].
    pub fn adapter_floats(config: &DecoderConfig, rank: usize, t: usize) -> usize {
        let (widest, vector) = AdapterMemory::widths(config);
        t * (2 * rank + widest) + vector
    }

    /// Numbers that a workspace holds for T tokens and N chosen rows: what [`Workspace::fit`] makes room for.
    pub fn floats(config: &DecoderConfig, purpose: Purpose, t: usize, n: usize) -> usize {
        let (d, f, qkv, queries) =
            (config.hidden_size, config.intermediate_size, config.qkv_size(), config.query_size());
        let heads = config.num_attention_heads;
        let head_norms = if config.has_head_norms() { qkv + heads + config.num_key_value_heads } else { 0 };
        let layer = 3 * d + 2 + head_norms + qkv + queries + heads + 3 * f;
        let back = if purpose.is_training() { t * (2 * d + qkv + queries + 3 * f) + n * d } else { 0 };
        let (layers, residuals) = purpose.kept(config.num_hidden_layers);
        t * (layers * layer + residuals * d + d + 1) + back + n * (d + 5)
    }

    fn allocate(&mut self, config: &DecoderConfig) {
        // What was there goes before the new comes: the two together would be the most that a run ever holds.
        (self.residuals, self.layers, self.back) = (Vec::new(), Vec::new(), None);
        let (stream, t, d) = (&self.stream, self.tokens, config.hidden_size);
        let (kept_layers, kept_residuals) = self.purpose.kept(config.num_hidden_layers);
        self.residuals = (0..kept_residuals).map(|_| stream.uninit(t * d)).collect();
        self.layers = (0..kept_layers).map(|_| LayerMemory::new(stream, config, t)).collect();
        (self.normed, self.scale) = (stream.uninit(t * d), stream.uninit(t));
        self.back = self.purpose.is_training().then(|| BackwardMemory::new(stream, config, t, self.chosen));
        self.heads = HeadMemory::new(stream, d, self.chosen);
    }
}

impl AdapterMemory {
    fn new(stream: &Stream, t: usize, rank: usize, widest: usize, vector: usize) -> AdapterMemory {
        let [low, dlow] = [(); 2].map(|()| stream.uninit(t * rank));
        // Gradients are added to what is there, which should be numbers.
        AdapterMemory { low, dlow, part: stream.uninit(t * widest), frozen: stream.zeros(vector) }
    }

    /// Of the widest adapted part, and of the longest vector.
    fn widths(config: &DecoderConfig) -> (usize, usize) {
        let widest = config.query_size().max(config.intermediate_size).max(config.hidden_size);
        (widest, config.hidden_size.max(2 * config.head_size()))
    }
}

impl LayerMemory {
    fn new(stream: &Stream, config: &DecoderConfig, t: usize) -> LayerMemory {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        LayerMemory {
            attention_normed: stream.uninit(t * d),
            attention_scale: stream.uninit(t),
            head_norms: config.has_head_norms().then(|| HeadNormMemory::new(stream, config, t)),
            qkv: stream.uninit(t * config.qkv_size()),
            attended: stream.uninit(t * config.query_size()),
            log_sum: stream.uninit(t * config.num_attention_heads),
            middle: stream.uninit(t * d),
            feed_forward_normed: stream.uninit(t * d),
            feed_forward_scale: stream.uninit(t),
            gate_up: stream.uninit(t * 2 * f),
            activated: stream.uninit(t * f),
        }
    }
}

impl HeadNormMemory {
    fn new(stream: &Stream, config: &DecoderConfig, t: usize) -> HeadNormMemory {
        let heads = config.num_attention_heads + config.num_key_value_heads;
        HeadNormMemory { projected: stream.uninit(t * config.qkv_size()), scale: stream.uninit(t * heads) }
    }
}

impl BackwardMemory {
    fn new(stream: &Stream, config: &DecoderConfig, t: usize, n: usize) -> BackwardMemory {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        BackwardMemory {
            residual: stream.uninit(t * d),
            normed: stream.uninit(t * d),
            qkv: stream.uninit(t * config.qkv_size()),
            attended: stream.uninit(t * config.query_size()),
            gate_up: stream.uninit(t * 2 * f),
            activated: stream.uninit(t * f),
            hidden: stream.uninit(n * d),
        }
    }
}

impl HeadMemory {
    fn new(stream: &Stream, d: usize, n: usize) -> HeadMemory {
        HeadMemory {
            hidden: stream.uninit(n * d),
            logp: stream.uninit(n),
            log_sum: stream.uninit(n),
            entropy: stream.uninit(n),
            values: stream.uninit(n),
            gradient: stream.uninit(n),
        }
    }
}

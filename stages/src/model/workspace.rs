//! The memory of one pass through a decoder, kept from step to step so that a step allocates nothing.

use super::config::DecoderConfig;
use kernels::{Buffer, Stream};

/// What a pass leaves behind: everything for a backward pass, or the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Training,
    Inference,
}

/// Activations of T tokens and N chosen rows.
pub struct Workspace {
    pub stream: Stream,
    purpose: Purpose,
    tokens: usize,
    chosen: usize,
    /// `[T, d]` what enters each layer, and last what leaves the stack. Inference alternates between two.
    pub(super) residuals: Vec<Buffer<f32>>,
    /// Inference uses one layer's memory for all.
    pub(super) layers: Vec<LayerMemory>,
    /// `[T, d]` after the last norm.
    pub(super) normed: Buffer<f32>,
    /// `[T]`
    pub(super) scale: Buffer<f32>,
    pub(super) back: Option<BackwardMemory>,
    pub(super) heads: HeadMemory,
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
        Workspace { stream, purpose, tokens: 0, chosen: 0, residuals, layers, normed, scale, back: None, heads }
    }

    /// Makes room for T tokens and N chosen rows; what is large enough is left as it is.
    pub fn fit(&mut self, config: &DecoderConfig, tokens: usize, chosen: usize) {
        if tokens > self.tokens || chosen > self.chosen {
            // A little more than asked for, as the next batch is seldom of the same size.
            let room = |had: usize, asked: usize| if asked > had { asked + asked / 8 } else { had };
            (self.tokens, self.chosen) = (room(self.tokens, tokens), room(self.chosen, chosen));
            self.allocate(config);
        }
    }

    fn allocate(&mut self, config: &DecoderConfig) {
        let (stream, t, d) = (&self.stream, self.tokens, config.hidden_size);
        let (kept_layers, kept_residuals) = match self.purpose {
            Purpose::Training => (config.num_hidden_layers, config.num_hidden_layers + 1),
            Purpose::Inference => (1, 2),
        };
        self.residuals = (0..kept_residuals).map(|_| stream.uninit(t * d)).collect();
        self.layers = (0..kept_layers).map(|_| LayerMemory::new(stream, config, t)).collect();
        (self.normed, self.scale) = (stream.uninit(t * d), stream.uninit(t));
        self.back = (self.purpose == Purpose::Training).then(|| BackwardMemory::new(stream, config, t, self.chosen));
        self.heads = HeadMemory::new(stream, d, self.chosen);
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

//! Where each weight lies in the one flat buffer that holds a decoder's parameters, and how weights start.
//!
//! Matrices come first and vectors last, so that weight decay is one range, and AdamW, norms and checkpoints are one call each.
//! Fused in memory: query|key|value and gate|up.

use super::config::DecoderConfig;
use super::lora::Adapter;
use std::ops::Range;

/// y = W x, + b where it has a bias, + s·B(A x) for rows of y that have an adapter.
#[derive(Debug, Clone)]
pub struct Projection {
    pub inputs: usize,
    pub outputs: usize,
    /// W `[outputs, inputs]`
    pub weight: Range<usize>,
    /// b `[outputs]`
    pub bias: Option<Range<usize>>,
    /// One a part of what is fused; none where the weight itself is learnt.
    pub adapters: Vec<Adapter>,
}

impl Projection {
    fn new(weight: Range<usize>, inputs: usize, bias: Option<Range<usize>>) -> Projection {
        Projection { inputs, outputs: weight.len() / inputs, weight, bias, adapters: Vec::new() }
    }
}

/// The ranges of one layer.
#[derive(Debug, Clone)]
pub struct LayerRanges {
    /// `[(H + 2K)·D, d]`
    pub qkv: Projection,
    /// `[d, H·D]`
    pub out: Projection,
    /// `[2F, d]`
    pub gate_up: Projection,
    /// `[d, F]`
    pub down: Projection,
    /// `[d]`
    pub attention_norm: Range<usize>,
    /// `[2, D]`: of query heads, then of key heads.
    pub head_norms: Option<Range<usize>>,
    /// `[d]`
    pub feed_forward_norm: Range<usize>,
}

impl LayerRanges {
    /// Everything that starts at 1.
    fn norms(&self) -> impl Iterator<Item = &Range<usize>> {
        [&self.attention_norm, &self.feed_forward_norm].into_iter().chain(&self.head_norms)
    }
}

/// The layout of all parameters, gradients and optimizer moments.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `[V, d]`
    pub embedding: Range<usize>,
    /// `[V, d]`; equal to `embedding` where the two are tied.
    pub head: Range<usize>,
    pub layers: Vec<LayerRanges>,
    /// `[d]`
    pub final_norm: Range<usize>,
    /// `[d]` and `[1]`: the value head of a critic. Where adapters are learnt it lies behind them, not in this buffer.
    pub value: Option<(Range<usize>, Range<usize>)>,
    /// How much of the buffer is matrices, which alone decay.
    pub matrices: usize,
    pub len: usize,
}

/// One tensor under its Hugging Face name. Rows are outputs, so each is one contiguous range.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

impl Layout {
    pub fn new(config: &DecoderConfig, value_head: bool) -> Layout {
        let (d, f, qkv) = (config.hidden_size, config.intermediate_size, config.qkv_size());
        let mut end = 0;
        let mut take = |len: usize| {
            end += len;
            end - len..end
        };
        let embedding = take(config.vocab_size * d);
        let head = if config.tie_word_embeddings { embedding.clone() } else { take(config.vocab_size * d) };
        let queries = config.query_size();
        let matrices: Vec<_> = (0..config.num_hidden_layers)
            .map(|_| (take(qkv * d), take(d * queries), take(2 * f * d), take(d * f)))
            .collect();
        let value_weight = value_head.then(|| take(d));
        let matrices_end = take(0).end;
        let layers = matrices
            .into_iter()
            .map(|(qkv_weight, out, gate_up, down)| {
                let attention_norm = take(d);
                let qkv_bias = config.has_qkv_bias().then(|| take(qkv));
                let head_norms = config.has_head_norms().then(|| take(2 * config.head_size()));
                let out_bias = config.has_out_bias().then(|| take(d));
                LayerRanges {
                    qkv: Projection::new(qkv_weight, d, qkv_bias),
                    out: Projection::new(out, queries, out_bias),
                    gate_up: Projection::new(gate_up, d, None),
                    down: Projection::new(down, f, None),
                    attention_norm,
                    head_norms,
                    feed_forward_norm: take(d),
                }
            })
            .collect();
        let final_norm = take(d);
        let value = value_weight.map(|weight| (weight, take(1)));
        Layout { embedding, head, layers, final_norm, value, matrices: matrices_end, len: take(0).end }
    }

    /// Every tensor under its Hugging Face name, in the order of the file.
    pub fn tensors(&self, config: &DecoderConfig) -> Vec<NamedTensor> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let mut tensors = vec![named("model.embed_tokens.weight", &[v, d], self.embedding.clone())];
        for (index, layer) in self.layers.iter().enumerate() {
            layer_tensors(&format!("model.layers.{index}"), layer, config, &mut tensors);
        }
        tensors.push(named("model.norm.weight", &[d], self.final_norm.clone()));
        if !config.tie_word_embeddings {
            tensors.push(named("lm_head.weight", &[v, d], self.head.clone()));
        }
        if let Some((weight, bias)) = &self.value {
            tensors.push(named("score.weight", &[1, d], weight.clone()));
            tensors.push(named("score.bias", &[1], bias.clone()));
        }
        tensors
    }
}

fn layer_tensors(prefix: &str, layer: &LayerRanges, config: &DecoderConfig, tensors: &mut Vec<NamedTensor>) {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let mut push = |name: &str, shape: &[usize], range: Range<usize>| {
        tensors.push(named(&format!("{prefix}.{name}"), shape, range));
    };
    push("input_layernorm.weight", &[d], layer.attention_norm.clone());
    attention_tensors(layer, config, &mut push);
    push("post_attention_layernorm.weight", &[d], layer.feed_forward_norm.clone());
    push("mlp.gate_proj.weight", &[f, d], part_of(&layer.gate_up.weight, 0, f * d));
    push("mlp.up_proj.weight", &[f, d], part_of(&layer.gate_up.weight, f * d, f * d));
    push("mlp.down_proj.weight", &[d, f], layer.down.weight.clone());
}

fn attention_tensors(layer: &LayerRanges, config: &DecoderConfig, push: &mut impl FnMut(&str, &[usize], Range<usize>)) {
    let (d, width) = (config.hidden_size, config.head_size());
    let (queries, keys) = (config.query_size(), config.num_key_value_heads * width);
    let mut row = 0;
    for (part, rows) in [("q", queries), ("k", keys), ("v", keys)] {
        push(&format!("self_attn.{part}_proj.weight"), &[rows, d], part_of(&layer.qkv.weight, row * d, rows * d));
        if let Some(bias) = &layer.qkv.bias {
            push(&format!("self_attn.{part}_proj.bias"), &[rows], part_of(bias, row, rows));
        }
        row += rows;
    }
    if let Some(norms) = &layer.head_norms {
        push("self_attn.q_norm.weight", &[width], part_of(norms, 0, width));
        push("self_attn.k_norm.weight", &[width], part_of(norms, width, width));
    }
    push("self_attn.o_proj.weight", &[d, queries], layer.out.weight.clone());
    if let Some(bias) = &layer.out.bias {
        push("self_attn.o_proj.bias", &[d], bias.clone());
    }
}

fn named(name: &str, shape: &[usize], range: Range<usize>) -> NamedTensor {
    NamedTensor { name: name.to_string(), shape: shape.to_vec(), range }
}

fn part_of(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start + start..range.start + start + len
}

/// Fresh weights: matrices normal with deviation 1/√(inputs), the embedding 1/√d, projections back into the residual
/// stream smaller by √(2 · layers) (Radford 2019), norms 1, biases 0, the value head 0.
/// Each weight is drawn by its own index, so that the start depends on `seed` and the shape alone.
pub fn initial(config: &DecoderConfig, layout: &Layout, seed: u64) -> Vec<f32> {
    let mut weights = vec![0.0; layout.len];
    let inputs = |size: usize| 1.0 / (size as f32).sqrt();
    let residual = 1.0 / (2.0 * config.num_hidden_layers as f32).sqrt();
    let mut normal = |range: &Range<usize>, deviation: f32| fill_normal(&mut weights, range, deviation, seed);
    normal(&layout.embedding, inputs(config.hidden_size));
    if !config.tie_word_embeddings {
        normal(&layout.head, inputs(config.hidden_size));
    }
    for layer in &layout.layers {
        normal(&layer.qkv.weight, inputs(config.hidden_size));
        normal(&layer.out.weight, inputs(config.query_size()) * residual);
        normal(&layer.gate_up.weight, inputs(config.hidden_size));
        normal(&layer.down.weight, inputs(config.intermediate_size) * residual);
    }
    for norm in layout.layers.iter().flat_map(LayerRanges::norms).chain([&layout.final_norm]) {
        weights[norm.clone()].fill(1.0);
    }
    weights
}

/// Box–Muller over pairs of draws; the pair is named by its place in the buffer.
pub(super) fn fill_normal(weights: &mut [f32], range: &Range<usize>, deviation: f32, seed: u64) {
    for (pair, two) in weights[range.clone()].chunks_mut(2).enumerate() {
        let words = kernels::philox::words(seed, (range.start + 2 * pair) as u64);
        let unit =
            |high: u32, low: u32| (((high as u64) << 21 ^ (low as u64) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let radius = (-2.0 * unit(words[0], words[1]).ln()).sqrt() * deviation as f64;
        let angle = std::f64::consts::TAU * unit(words[2], words[3]);
        two[0] = (radius * angle.cos()) as f32;
        if let Some(second) = two.get_mut(1) {
            *second = (radius * angle.sin()) as f32;
        }
    }
}

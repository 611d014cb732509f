//! The decoder of the Qwen2, Qwen3 and Llama families: forward and backward written out (no tape), over documents laid end to end.
//!
//! Legend: **T** tokens · **d** model width · **H** query heads · **K** key/value heads · **D** head width · **F** feed-forward
//! width · **V** vocabulary. `x → norm → qkv (+ bias) (→ norm of heads) → rope → attention → out (+ bias) → + x
//! → norm → gate|up → swiglu → down → +`; what stands in brackets only some families have.

use super::batch::Batch;
use super::config::DecoderConfig;
use super::parameters::{LayerRanges, Layout};
use super::prepared::Prepared;
use super::workspace::{LayerMemory, Workspace};
use kernels::Layout::{Nn, Nt, Tn};
use kernels::Write::{Accumulate, Overwrite};
use kernels::{
    Buffer, Device, Heads, Stream, View, ViewMut, attention, bias, embedding, head_norm, matmul, matmul_prepared, norm,
    rope, swiglu,
};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Attention of one layer: its index, the stream, rows `[T, (H + 2K)·D]` in, rows `[T, H·D]` and log-sums `[T, H]` out.
pub(in crate::model) type Attend<'a> =
    dyn FnMut(usize, &Stream, View<'_, f32>, ViewMut<'_, f32>, ViewMut<'_, f32>) + 'a;

/// Larger models are not given the memory for a second copy of their weights.
const PREPARED_PARAMETERS_MAX: usize = 1_000_000_000;

/// A decoder's weights on a device. What is the same for copies of it is shared.
pub struct Decoder {
    config: Arc<DecoderConfig>,
    layout: Arc<Layout>,
    device: Device,
    /// `[positions, D]`
    tables: Arc<Buffer<f32>>,
    parameters: Buffer<f32>,
    prepared: OnceLock<Prepared>,
}

impl Decoder {
    /// `weights` in the order of [`Layout`] without a value head.
    pub fn new(device: &Device, config: &DecoderConfig, weights: &[f32]) -> Decoder {
        let layout = Layout::new(config, false);
        assert_eq!(weights.len(), layout.len, "weights of another shape");
        let stream = device.stream();
        let tables = rope::tables(&stream, config.max_position_embeddings, &config.rope_frequencies());
        Decoder {
            config: Arc::new(config.clone()),
            layout: Arc::new(layout),
            device: device.clone(),
            tables: Arc::new(tables),
            parameters: stream.upload(weights),
            prepared: OnceLock::new(),
        }
    }

    /// Fresh weights, drawn from `seed`.
    pub fn fresh(device: &Device, config: &DecoderConfig, seed: u64) -> Decoder {
        Decoder::new(device, config, &super::parameters::initial(config, &Layout::new(config, false), seed))
    }

    /// The same weights once more.
    pub fn copy(&self) -> Decoder {
        let parameters = self.device.stream().upload(&self.weights());
        Decoder { parameters, ..self.sharing() }
    }

    /// The same weights with a value head that says 0.5 whatever it sees: halfway between wrong and right.
    pub fn with_value_head(&self) -> Decoder {
        let (from, to) = (&self.layout, Layout::new(&self.config, true));
        let (old, mut new) = (self.weights(), vec![0.0; to.len]);
        new[..from.matrices].copy_from_slice(&old[..from.matrices]);
        let vectors = from.len - from.matrices;
        new[to.matrices..to.matrices + vectors].copy_from_slice(&old[from.matrices..]);
        let (_, constant) = to.value.clone().expect("a layout with a value head");
        new[constant].fill(0.5);
        let parameters = self.device.stream().upload(&new);
        Decoder { layout: Arc::new(to), parameters, ..self.sharing() }
    }

    /// The same weights without their value head.
    pub fn without_value_head(&self) -> Decoder {
        let (from, to) = (&self.layout, Layout::new(&self.config, false));
        let old = self.weights();
        let vectors = from.matrices..from.matrices + (to.len - to.matrices);
        let weights = [&old[..to.matrices], &old[vectors]].concat();
        let parameters = self.device.stream().upload(&weights);
        Decoder { layout: Arc::new(to), parameters, ..self.sharing() }
    }

    fn sharing(&self) -> Decoder {
        Decoder {
            config: self.config.clone(),
            layout: self.layout.clone(),
            device: self.device.clone(),
            tables: self.tables.clone(),
            parameters: self.device.stream().zeros(0),
            prepared: OnceLock::new(),
        }
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn heads(&self) -> Heads {
        Heads {
            query: self.config.num_attention_heads,
            key_value: self.config.num_key_value_heads,
            width: self.config.head_size(),
        }
    }

    /// Heads that are normed where any are, H + K.
    fn normed_heads(&self) -> usize {
        self.config.num_attention_heads + self.config.num_key_value_heads
    }

    /// All weights, in the order of [`Layout`].
    pub fn weights(&self) -> Vec<f32> {
        self.device.stream().download(self.parameters.view())
    }

    pub fn parameters_mut(&mut self) -> &mut Buffer<f32> {
        self.prepared.take();
        &mut self.parameters
    }

    /// The weights at a range of [`Layout`].
    pub fn weight(&self, range: &Range<usize>) -> View<'_, f32> {
        self.parameters.slice(range.clone())
    }

    /// y = x · Wᵀ for rows x`[rows, inputs]` and W`[outputs, inputs]`.
    pub(super) fn linear(
        &self,
        stream: &Stream,
        x: View<'_, f32>,
        weight: &Range<usize>,
        [rows, inputs, outputs]: [usize; 3],
        write: kernels::Write,
        y: ViewMut<'_, f32>,
    ) {
        match self.prepared.get().and_then(|prepared| prepared.matrix(weight)) {
            Some(prepared) => matmul_prepared(stream, rows, x, prepared, write, y),
            None => matmul(stream, Nt, rows, outputs, inputs, x, self.weight(weight), write, y),
        }
    }

    /// Gets ready for many small forward passes, until the weights change.
    pub(super) fn prepare(&self) {
        if self.layout.len <= PREPARED_PARAMETERS_MAX {
            self.prepared.get_or_init(|| Prepared::new(self));
        }
    }

    /// logits`[rows, V]` of the last norm's output `[rows, d]`.
    pub(super) fn logits(&self, stream: &Stream, rows: usize, hidden: View<'_, f32>, logits: ViewMut<'_, f32>) {
        let sizes = [rows, self.config.hidden_size, self.config.vocab_size];
        self.linear(stream, hidden, &self.layout.head, sizes, Overwrite, logits);
    }

    /// Norms rows `[rows, d]`, and saves `[rows]` for the way back.
    fn norm(
        &self,
        stream: &Stream,
        x: View<'_, f32>,
        weight: &Range<usize>,
        normed: ViewMut<'_, f32>,
        scale: ViewMut<'_, f32>,
    ) {
        let (rows, epsilon) = (scale.len(), self.config.rms_norm_eps);
        norm::forward(stream, rows, self.config.hidden_size, epsilon, x, self.weight(weight), normed, scale);
    }

    /// Leaves the last norm's output `[T, d]` in the workspace, and what [`Decoder::backward`] wants.
    pub fn forward(&self, batch: &Batch, workspace: &mut Workspace) {
        workspace.fit(&self.config, batch.len(), batch.chosen());
        self.run(batch.tokens(), batch.positions(), workspace, &mut |_, stream, qkv, attended, log_sum| {
            attention::forward(stream, self.heads(), &batch.segments, qkv, attended, log_sum);
        });
    }

    /// The forward pass over rows of tokens at positions; how rows see each other is up to `attend`, so that a row's arithmetic is
    /// the same in training and in generation.
    pub(super) fn run(
        &self,
        tokens: View<'_, u32>,
        positions: View<'_, u32>,
        workspace: &mut Workspace,
        attend: &mut Attend<'_>,
    ) {
        let (t, d) = (tokens.len(), self.config.hidden_size);
        let input = workspace.residuals[0].slice_mut(0..t * d);
        embedding::forward(&workspace.stream, d, self.weight(&self.layout.embedding), tokens, input);
        for index in 0..self.layout.layers.len() {
            self.layer_forward(index, positions, workspace, attend);
        }
        let last = workspace.residuals[self.layout.layers.len() % workspace.residuals.len()].slice(0..t * d);
        let (normed, scale) = (workspace.normed.slice_mut(0..t * d), workspace.scale.slice_mut(0..t));
        self.norm(&workspace.stream, last, &self.layout.final_norm, normed, scale);
    }

    fn layer_forward(
        &self,
        index: usize,
        positions: View<'_, u32>,
        workspace: &mut Workspace,
        attend: &mut Attend<'_>,
    ) {
        let (slots, count) = (workspace.layers.len(), workspace.residuals.len());
        let (stream, memory) = (&workspace.stream, &mut workspace.layers[index % slots]);
        let (input, output) = two(&mut workspace.residuals, index % count, (index + 1) % count);
        let size = positions.len() * self.config.hidden_size;
        self.attention_forward(index, positions, stream, memory, input.slice(0..size), attend);
        self.feed_forward_forward(index, positions.len(), stream, memory, output.slice_mut(0..size));
    }

    fn attention_forward(
        &self,
        index: usize,
        positions: View<'_, u32>,
        stream: &Stream,
        memory: &mut LayerMemory,
        input: View<'_, f32>,
        attend: &mut Attend<'_>,
    ) {
        let (t, d, queries) = (positions.len(), self.config.hidden_size, self.config.query_size());
        let layer = &self.layout.layers[index];
        let (normed, scale) = (&mut memory.attention_normed, &mut memory.attention_scale);
        self.norm(stream, input, &layer.attention_norm, normed.slice_mut(0..t * d), scale.slice_mut(0..t));
        self.project_heads(index, t, stream, memory);
        let mut qkv = memory.qkv.slice_mut(0..t * self.config.qkv_size());
        rope::forward(stream, self.heads(), positions, self.tables.view(), qkv.reborrow());
        let mut attended = memory.attended.slice_mut(0..t * queries);
        let log_sum = memory.log_sum.slice_mut(0..t * self.config.num_attention_heads);
        attend(index, stream, qkv.view(), attended.reborrow(), log_sum);
        let mut middle = memory.middle.slice_mut(0..t * d);
        stream.copy(input, middle.reborrow());
        self.linear(stream, attended.view(), &layer.out, [t, queries, d], Accumulate, middle.reborrow());
        if let Some(range) = &layer.out_bias {
            bias::add(stream, t, d, self.weight(range), middle);
        }
    }

    /// Queries, keys and values `[T, (H + 2K)·D]` as they are before they turn.
    fn project_heads(&self, index: usize, t: usize, stream: &Stream, memory: &mut LayerMemory) {
        let (d, width) = (self.config.hidden_size, self.config.qkv_size());
        let layer = &self.layout.layers[index];
        let projected = memory.head_norms.as_mut().map_or(&mut memory.qkv, |norms| &mut norms.projected);
        let mut projected = projected.slice_mut(0..t * width);
        let input = memory.attention_normed.slice(0..t * d);
        self.linear(stream, input, &layer.qkv, [t, d, width], Overwrite, projected.reborrow());
        if let Some(range) = &layer.qkv_bias {
            bias::add(stream, t, width, self.weight(range), projected);
        }
        if let (Some(range), Some(norms)) = (&layer.head_norms, &mut memory.head_norms) {
            let (weight, epsilon) = (self.weight(range), self.config.rms_norm_eps);
            let (projected, qkv) = (norms.projected.slice(0..t * width), memory.qkv.slice_mut(0..t * width));
            let scale = norms.scale.slice_mut(0..t * self.normed_heads());
            head_norm::forward(stream, self.heads(), epsilon, projected, weight, qkv, scale);
        }
    }

    fn feed_forward_forward(
        &self,
        index: usize,
        t: usize,
        stream: &Stream,
        memory: &mut LayerMemory,
        mut output: ViewMut<'_, f32>,
    ) {
        let (d, f) = (self.config.hidden_size, self.config.intermediate_size);
        let layer = &self.layout.layers[index];
        let middle = memory.middle.slice(0..t * d);
        let (normed, scale) = (&mut memory.feed_forward_normed, &mut memory.feed_forward_scale);
        self.norm(stream, middle, &layer.feed_forward_norm, normed.slice_mut(0..t * d), scale.slice_mut(0..t));
        let mut gate_up = memory.gate_up.slice_mut(0..t * 2 * f);
        self.linear(stream, normed.slice(0..t * d), &layer.gate_up, [t, d, 2 * f], Overwrite, gate_up.reborrow());
        let mut activated = memory.activated.slice_mut(0..t * f);
        swiglu::forward(stream, t, f, gate_up.view(), activated.reborrow());
        stream.copy(middle, output.reborrow());
        self.linear(stream, activated.view(), &layer.down, [t, f, d], Accumulate, output);
    }

    /// Adds to `gradients` (in the order of [`Layout`]) what follows from the gradient of the last norm's output, which the
    /// heads left in the workspace.
    pub fn backward(&self, batch: &Batch, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (t, d, layers) = (batch.len(), self.config.hidden_size, self.layout.layers.len());
        {
            let Workspace { stream, residuals, scale, back, .. } = &mut *workspace;
            let back = back.as_mut().expect("a workspace for training");
            norm::backward(
                stream,
                t,
                d,
                residuals[layers].slice(0..t * d),
                self.weight(&self.layout.final_norm),
                scale.slice(0..t),
                back.normed.slice(0..t * d),
                Overwrite,
                back.residual.slice_mut(0..t * d),
                gradients.slice_mut(self.layout.final_norm.clone()),
            );
        }
        for index in (0..layers).rev() {
            self.feed_forward_backward(index, t, workspace, gradients);
            self.attention_backward(index, batch, workspace, gradients);
        }
        let back = workspace.back.as_ref().expect("a workspace for training");
        let table = gradients.slice_mut(self.layout.embedding.clone());
        embedding::backward(&workspace.stream, d, batch.tokens(), back.residual.slice(0..t * d), table);
    }

    fn feed_forward_backward(&self, index: usize, t: usize, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (d, f) = (self.config.hidden_size, self.config.intermediate_size);
        let layer: &LayerRanges = &self.layout.layers[index];
        let (stream, memory) = (&workspace.stream, &workspace.layers[index]);
        let back = workspace.back.as_mut().expect("a workspace for training");

        let residual = back.residual.slice(0..t * d);
        let mut activated = back.activated.slice_mut(0..t * f);
        let input = memory.activated.slice(0..t * f);
        self.linear_backward(stream, residual, input, &layer.down, [t, f, d], activated.reborrow(), gradients);
        let mut gate_up = back.gate_up.slice_mut(0..t * 2 * f);
        swiglu::backward(stream, t, f, memory.gate_up.slice(0..t * 2 * f), activated.view(), gate_up.reborrow());
        let (input, mut normed) = (memory.feed_forward_normed.slice(0..t * d), back.normed.slice_mut(0..t * d));
        let sizes = [t, d, 2 * f];
        self.linear_backward(stream, gate_up.view(), input, &layer.gate_up, sizes, normed.reborrow(), gradients);
        norm::backward(
            stream,
            t,
            d,
            memory.middle.slice(0..t * d),
            self.weight(&layer.feed_forward_norm),
            memory.feed_forward_scale.slice(0..t),
            normed.view(),
            Accumulate,
            back.residual.slice_mut(0..t * d),
            gradients.slice_mut(layer.feed_forward_norm.clone()),
        );
    }

    fn attention_backward(&self, index: usize, batch: &Batch, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (t, d, queries) = (batch.len(), self.config.hidden_size, self.config.query_size());
        let (width, layer) = (self.config.qkv_size(), &self.layout.layers[index]);
        let (stream, memory) = (&workspace.stream, &workspace.layers[index]);
        let back = workspace.back.as_mut().expect("a workspace for training");

        let residual = back.residual.slice(0..t * d);
        if let Some(range) = &layer.out_bias {
            bias::backward(stream, t, d, residual, gradients.slice_mut(range.clone()));
        }
        let (seen, mut attended) = (memory.attended.slice(0..t * queries), back.attended.slice_mut(0..t * queries));
        self.linear_backward(stream, residual, seen, &layer.out, [t, queries, d], attended.reborrow(), gradients);
        let mut qkv = back.qkv.slice_mut(0..t * width);
        attention::backward(
            stream,
            self.heads(),
            &batch.segments,
            memory.qkv.slice(0..t * width),
            seen,
            memory.log_sum.slice(0..t * self.config.num_attention_heads),
            attended.view(),
            qkv.reborrow(),
        );
        rope::backward(stream, self.heads(), batch.positions(), self.tables.view(), qkv.reborrow());
        let mut normed = back.normed.slice_mut(0..t * d);
        self.project_heads_backward(index, t, stream, memory, qkv, normed.reborrow(), gradients);
        norm::backward(
            stream,
            t,
            d,
            workspace.residuals[index].slice(0..t * d),
            self.weight(&layer.attention_norm),
            memory.attention_scale.slice(0..t),
            normed.view(),
            Accumulate,
            back.residual.slice_mut(0..t * d),
            gradients.slice_mut(layer.attention_norm.clone()),
        );
    }

    /// From the gradient of what is about to turn to that of the norm's output before the projection.
    fn project_heads_backward(
        &self,
        index: usize,
        t: usize,
        stream: &Stream,
        memory: &LayerMemory,
        mut qkv: ViewMut<'_, f32>,
        normed: ViewMut<'_, f32>,
        gradients: &mut Buffer<f32>,
    ) {
        let (d, width) = (self.config.hidden_size, self.config.qkv_size());
        let layer = &self.layout.layers[index];
        if let (Some(range), Some(norms)) = (&layer.head_norms, &memory.head_norms) {
            let (weight, gradient) = (self.weight(range), gradients.slice_mut(range.clone()));
            let (projected, scale) =
                (norms.projected.slice(0..t * width), norms.scale.slice(0..t * self.normed_heads()));
            head_norm::backward(stream, self.heads(), projected, weight, scale, qkv.reborrow(), gradient);
        }
        if let Some(range) = &layer.qkv_bias {
            bias::backward(stream, t, width, qkv.view(), gradients.slice_mut(range.clone()));
        }
        let input = memory.attention_normed.slice(0..t * d);
        self.linear_backward(stream, qkv.view(), input, &layer.qkv, [t, d, width], normed, gradients);
    }

    /// Of y = x · Wᵀ: dx`[rows, inputs]` = dy · W, and to the gradient of W`[outputs, inputs]` is added dyᵀ · x.
    fn linear_backward(
        &self,
        stream: &Stream,
        dy: View<'_, f32>,
        x: View<'_, f32>,
        weight: &Range<usize>,
        [rows, inputs, outputs]: [usize; 3],
        dx: ViewMut<'_, f32>,
        gradients: &mut Buffer<f32>,
    ) {
        matmul(stream, Nn, rows, inputs, outputs, dy, self.weight(weight), Overwrite, dx);
        matmul(stream, Tn, outputs, inputs, rows, dy, x, Accumulate, gradients.slice_mut(weight.clone()));
    }
}

/// One buffer to read and another to write.
fn two(buffers: &mut [Buffer<f32>], read: usize, write: usize) -> (&Buffer<f32>, &mut Buffer<f32>) {
    let [read, write] = buffers.get_disjoint_mut([read, write]).expect("a layer reads and writes different rows");
    (read, write)
}

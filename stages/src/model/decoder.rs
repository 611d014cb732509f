//! The decoder of the Qwen2, Qwen3 and Llama families: forward and backward written out (no tape), over documents laid end to end.
//!
//! Legend: **T** tokens · **d** model width · **H** query heads · **K** key/value heads · **D** head width · **F** feed-forward
//! width · **V** vocabulary. `x → norm → qkv (+ bias) (→ norm of heads) → rope → attention → out (+ bias) → + x
//! → norm → gate|up → swiglu → down → +`; what stands in brackets only some families have. Where adapters are learnt
//! ([`super::lora`]), everything else is frozen and gets no gradient.

mod backward;

use super::batch::Batch;
use super::config::DecoderConfig;
use super::lora::{Adapters, Lora};
use super::parameters::{Layout, Projection};
use super::prepared::Prepared;
use super::workspace::{AdapterMemory, LayerMemory, Workspace};
use kernels::Layout::Nt;
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
pub(crate) const PREPARED_PARAMETERS_MAX: usize = 1_000_000_000;
/// Larger models learn in one lane of many tokens, which makes up for copying their weights.
pub(crate) const SHARED_PARAMETERS_MAX: usize = 8_000_000;

/// A decoder's weights on a device. What is the same for copies of it is shared.
pub struct Decoder {
    config: Arc<DecoderConfig>,
    layout: Arc<Layout>,
    device: Device,
    /// `[positions, D]`
    tables: Arc<Buffer<f32>>,
    /// Shared only where they are frozen.
    parameters: Arc<Buffer<f32>>,
    /// Of `parameters`, while they do not change.
    prepared: OnceLock<Prepared>,
    /// The same for training; its memory outlives the changes.
    shared: Option<Prepared>,
    /// Where there are any, they alone are learnt.
    adapters: Option<Adapters>,
}

/// How many numbers a decoder learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// The first of them, which alone decay.
    pub matrices: usize,
    pub len: usize,
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
            parameters: Arc::new(stream.upload(weights)),
            prepared: OnceLock::new(),
            shared: None,
            adapters: None,
        }
    }

    /// Fresh weights, drawn from `seed`.
    pub fn fresh(device: &Device, config: &DecoderConfig, seed: u64) -> Decoder {
        Decoder::new(device, config, &super::parameters::initial(config, &Layout::new(config, false), seed))
    }

    /// The same model once more; what is frozen is shared.
    pub fn copy(&self) -> Decoder {
        match &self.adapters {
            Some(adapters) => self.beside(self.layout.clone(), Some(adapters.copy(&self.device.stream()))),
            None => self.of(self.layout.clone(), &self.weights()),
        }
    }

    /// The model as it is before it learns, which stays so: without adapters, or a copy.
    pub fn at_rest(&self) -> Decoder {
        assert!(self.layout.value.is_none(), "nothing has been learnt yet");
        match self.adapters {
            Some(_) => self.beside(Arc::new(Layout::new(&self.config, false)), None),
            None => self.copy(),
        }
    }

    /// The same model with adapters, which change nothing before they learn; all else is frozen.
    pub fn adapted(self, lora: &Lora, seed: u64) -> Decoder {
        let mut layout = (*self.layout).clone();
        let len = lora.lay_out(&self.config, &mut layout);
        let adapters = lora.fresh(&self.device.stream(), &layout, len, seed);
        Decoder { layout: Arc::new(layout), adapters: Some(adapters), ..self }
    }

    /// The same model with its adapters' work in its weights, and no adapters.
    pub fn merged(mut self) -> Decoder {
        if let Some(adapters) = self.adapters.take() {
            assert!(self.layout.value.is_none(), "a value head is no part of a model that is saved");
            let (stream, layout) = (self.device.stream(), self.layout.clone());
            adapters.merge(&stream, &layout, self.own_parameters());
            self.layout = Arc::new(Layout::new(&self.config, false));
        }
        self
    }

    /// The same model with a value head that says 0.5 whatever it sees: halfway between wrong and right. Beside adapters it lies
    /// behind them, as it is learnt too.
    pub fn with_value_head(&self) -> Decoder {
        if let Some(adapters) = &self.adapters {
            let (weight, constant) = (vec![0.0; self.config.hidden_size], [0.5]);
            let start = adapters.parameters.len();
            let end = start + weight.len();
            let layout = Layout { value: Some((start..end, end..end + 1)), ..(*self.layout).clone() };
            let adapters = adapters.followed_by(&self.device.stream(), &[&weight[..], &constant].concat());
            return self.beside(Arc::new(layout), Some(adapters));
        }
        let (from, to) = (&self.layout, Layout::new(&self.config, true));
        let (old, mut new) = (self.weights(), vec![0.0; to.len]);
        new[..from.matrices].copy_from_slice(&old[..from.matrices]);
        let vectors = from.len - from.matrices;
        new[to.matrices..to.matrices + vectors].copy_from_slice(&old[from.matrices..]);
        let (_, constant) = to.value.clone().expect("a layout with a value head");
        new[constant].fill(0.5);
        self.of(Arc::new(to), &new)
    }

    /// The same model without its value head.
    pub fn without_value_head(self) -> Decoder {
        let Some((weight, _)) = &self.layout.value else { return self };
        if let Some(adapters) = &self.adapters {
            let layout = Layout { value: None, ..(*self.layout).clone() };
            return self.beside(Arc::new(layout), Some(adapters.up_to(&self.device.stream(), weight.start)));
        }
        let (from, to) = (&self.layout, Layout::new(&self.config, false));
        let old = self.weights();
        let vectors = from.matrices..from.matrices + (to.len - to.matrices);
        let weights = [&old[..to.matrices], &old[vectors]].concat();
        self.of(Arc::new(to), &weights)
    }

    /// Other weights of this model.
    fn of(&self, layout: Arc<Layout>, weights: &[f32]) -> Decoder {
        Decoder { layout, parameters: Arc::new(self.device.stream().upload(weights)), ..self.sharing() }
    }

    /// Other adapters, or none, beside these frozen weights.
    fn beside(&self, layout: Arc<Layout>, adapters: Option<Adapters>) -> Decoder {
        Decoder { layout, parameters: self.parameters.clone(), adapters, ..self.sharing() }
    }

    fn sharing(&self) -> Decoder {
        Decoder {
            config: self.config.clone(),
            layout: self.layout.clone(),
            device: self.device.clone(),
            tables: self.tables.clone(),
            parameters: Arc::new(self.device.stream().zeros(0)),
            prepared: OnceLock::new(),
            shared: None,
            adapters: None,
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

    /// What is learnt: all weights, or the adapters alone, with a value head behind them where there is one.
    pub fn learnt(&self) -> Learnt {
        match &self.adapters {
            Some(Adapters { parameters, .. }) => {
                let constant = self.layout.value.as_ref().map_or(0, |(_, constant)| constant.len());
                Learnt { matrices: parameters.len() - constant, len: parameters.len() }
            }
            None => Learnt { matrices: self.layout.matrices, len: self.layout.len },
        }
    }

    fn learnt_parameters(&self) -> &Buffer<f32> {
        self.adapters.as_ref().map_or(&*self.parameters, |adapters| &adapters.parameters)
    }

    pub fn learnt_weights(&self) -> Vec<f32> {
        self.device.stream().download(self.learnt_parameters().view())
    }

    pub fn learnt_mut(&mut self) -> &mut Buffer<f32> {
        match self.adapters {
            Some(ref mut adapters) => &mut adapters.parameters,
            None => self.own_parameters(),
        }
    }

    /// The weights, to be changed; shared ones stay as they are.
    fn own_parameters(&mut self) -> &mut Buffer<f32> {
        self.forget_prepared();
        if Arc::get_mut(&mut self.parameters).is_none() {
            self.parameters = Arc::new(self.device.stream().upload(&self.weights()));
        }
        Arc::get_mut(&mut self.parameters).expect("nobody else has them")
    }

    /// The weights change.
    fn forget_prepared(&mut self) {
        self.prepared.take();
        self.shared.iter_mut().for_each(Prepared::outdate);
    }

    /// What lanes share of the weights as they are.
    fn shared(&self) -> Option<&Prepared> {
        self.shared.as_ref().filter(|shared| shared.is_current())
    }

    /// The weights at a range of [`Layout`].
    pub fn weight(&self, range: &Range<usize>) -> View<'_, f32> {
        self.parameters.slice(range.clone())
    }

    /// Weight and constant of the value head, which lies in what is learnt.
    pub(super) fn value_head(&self) -> (View<'_, f32>, View<'_, f32>) {
        let (weight, constant) = self.layout.value.clone().expect("a decoder with a value head");
        (self.learnt_parameters().slice(weight), self.learnt_parameters().slice(constant))
    }

    /// y`[rows, outputs]` (= | +=) what a projection makes of x`[rows, inputs]`.
    fn project(
        &self,
        stream: &Stream,
        projection: &Projection,
        rows: usize,
        x: View<'_, f32>,
        write: kernels::Write,
        mut y: ViewMut<'_, f32>,
        memory: &mut AdapterMemory,
    ) {
        let Projection { inputs, outputs, weight, bias, .. } = projection;
        self.linear(stream, x, weight, [rows, *inputs, *outputs], write, y.reborrow());
        if let Some(adapters) = &self.adapters {
            adapters.forward(stream, projection, rows, x, y.reborrow(), memory);
        }
        if let Some(range) = bias {
            bias::add(stream, rows, *outputs, self.weight(range), y);
        }
    }

    /// y`[rows, outputs]` (= | +=) x · Wᵀ for x`[rows, inputs]` and W`[outputs, inputs]`.
    pub(super) fn linear(
        &self,
        stream: &Stream,
        x: View<'_, f32>,
        weight: &Range<usize>,
        [rows, inputs, outputs]: [usize; 3],
        write: kernels::Write,
        y: ViewMut<'_, f32>,
    ) {
        match self.shared().or(self.prepared.get()).and_then(|prepared| prepared.forward(weight)) {
            Some(prepared) => matmul_prepared(stream, rows, x, prepared, write, y),
            None => matmul(stream, Nt, rows, outputs, inputs, x, self.weight(weight), write, y),
        }
    }

    /// Gets ready for many small forward passes, until the weights change, where the device gains from that.
    pub(super) fn prepare(&self) {
        if self.layout.len <= PREPARED_PARAMETERS_MAX && self.device.gains_from_prepared() {
            let width = self.config.hidden_size;
            self.prepared.get_or_init(|| Prepared::for_generation(&self.device, &self.layout, &self.parameters, width));
        }
    }

    /// Gets ready for passes of several lanes with the weights as they are, where that pays.
    pub fn share(&mut self) {
        let Decoder { device, layout, parameters, shared, .. } = self;
        if layout.len <= SHARED_PARAMETERS_MAX && device.gains_from_prepared() {
            let made = || Prepared::for_training(device, layout, parameters);
            shared.get_or_insert_with(made).renew(device, parameters);
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
        self.run(batch.tokens(), batch.positions(), workspace, &mut self.attend(batch));
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
        if let Some(adapters) = &self.adapters {
            workspace.fit_adapters(&self.config, adapters.rank());
        }
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
        let Workspace { stream, layers, residuals, adapter, .. } = workspace;
        let memory = &mut layers[index % slots];
        let (input, output) = two(residuals, index % count, (index + 1) % count);
        let size = positions.len() * self.config.hidden_size;
        self.attention_forward(index, positions, stream, memory, input.slice(0..size), adapter, attend);
        self.activate(index, positions.len(), stream, memory, adapter);
        self.feed_forward_out(index, positions.len(), stream, memory, output.slice_mut(0..size), adapter);
    }

    /// Computes again what the forward pass left of a layer, from what entered it.
    fn layer_again(&self, index: usize, batch: &Batch, workspace: &mut Workspace) {
        let size = batch.len() * self.config.hidden_size;
        let Workspace { stream, residuals, layers, adapter, .. } = workspace;
        let (memory, input) = (&mut layers[0], residuals[index].slice(0..size));
        self.attention_forward(index, batch.positions(), stream, memory, input, adapter, &mut self.attend(batch));
        self.activate(index, batch.len(), stream, memory, adapter);
    }

    /// Each document for itself.
    fn attend(&self, batch: &Batch) -> impl FnMut(usize, &Stream, View<'_, f32>, ViewMut<'_, f32>, ViewMut<'_, f32>) {
        |_, stream, qkv, attended, log_sum| {
            attention::forward(stream, self.heads(), &batch.segments, qkv, attended, log_sum);
        }
    }

    fn attention_forward(
        &self,
        index: usize,
        positions: View<'_, u32>,
        stream: &Stream,
        memory: &mut LayerMemory,
        input: View<'_, f32>,
        adapter: &mut AdapterMemory,
        attend: &mut Attend<'_>,
    ) {
        let (t, d, queries) = (positions.len(), self.config.hidden_size, self.config.query_size());
        let layer = &self.layout.layers[index];
        let (normed, scale) = (&mut memory.attention_normed, &mut memory.attention_scale);
        self.norm(stream, input, &layer.attention_norm, normed.slice_mut(0..t * d), scale.slice_mut(0..t));
        self.project_heads(index, t, stream, memory, adapter);
        let mut qkv = memory.qkv.slice_mut(0..t * self.config.qkv_size());
        rope::forward(stream, self.heads(), positions, self.tables.view(), qkv.reborrow());
        let mut attended = memory.attended.slice_mut(0..t * queries);
        let log_sum = memory.log_sum.slice_mut(0..t * self.config.num_attention_heads);
        attend(index, stream, qkv.view(), attended.reborrow(), log_sum);
        let mut middle = memory.middle.slice_mut(0..t * d);
        stream.copy(input, middle.reborrow());
        self.project(stream, &layer.out, t, attended.view(), Accumulate, middle, adapter);
    }

    /// Queries, keys and values `[T, (H + 2K)·D]` as they are before they turn.
    fn project_heads(
        &self,
        index: usize,
        t: usize,
        stream: &Stream,
        memory: &mut LayerMemory,
        adapter: &mut AdapterMemory,
    ) {
        let (d, width) = (self.config.hidden_size, self.config.qkv_size());
        let layer = &self.layout.layers[index];
        let projected = memory.head_norms.as_mut().map_or(&mut memory.qkv, |norms| &mut norms.projected);
        let input = memory.attention_normed.slice(0..t * d);
        self.project(stream, &layer.qkv, t, input, Overwrite, projected.slice_mut(0..t * width), adapter);
        if let (Some(range), Some(norms)) = (&layer.head_norms, &mut memory.head_norms) {
            let (weight, epsilon) = (self.weight(range), self.config.rms_norm_eps);
            let (projected, qkv) = (norms.projected.slice(0..t * width), memory.qkv.slice_mut(0..t * width));
            let scale = norms.scale.slice_mut(0..t * self.normed_heads());
            head_norm::forward(stream, self.heads(), epsilon, projected, weight, qkv, scale);
        }
    }

    /// The feed-forward layer up to its inner width, `[T, F]`.
    fn activate(&self, index: usize, t: usize, stream: &Stream, memory: &mut LayerMemory, adapter: &mut AdapterMemory) {
        let (d, f) = (self.config.hidden_size, self.config.intermediate_size);
        let layer = &self.layout.layers[index];
        let middle = memory.middle.slice(0..t * d);
        let (normed, scale) = (&mut memory.feed_forward_normed, &mut memory.feed_forward_scale);
        self.norm(stream, middle, &layer.feed_forward_norm, normed.slice_mut(0..t * d), scale.slice_mut(0..t));
        let mut gate_up = memory.gate_up.slice_mut(0..t * 2 * f);
        self.project(stream, &layer.gate_up, t, normed.slice(0..t * d), Overwrite, gate_up.reborrow(), adapter);
        swiglu::forward(stream, t, f, gate_up.view(), memory.activated.slice_mut(0..t * f));
    }

    /// And back into the residual stream.
    fn feed_forward_out(
        &self,
        index: usize,
        t: usize,
        stream: &Stream,
        memory: &LayerMemory,
        mut output: ViewMut<'_, f32>,
        adapter: &mut AdapterMemory,
    ) {
        let (d, f) = (self.config.hidden_size, self.config.intermediate_size);
        stream.copy(memory.middle.slice(0..t * d), output.reborrow());
        let activated = memory.activated.slice(0..t * f);
        self.project(stream, &self.layout.layers[index].down, t, activated, Accumulate, output, adapter);
    }
}

/// One buffer to read and another to write.
fn two(buffers: &mut [Buffer<f32>], read: usize, write: usize) -> (&Buffer<f32>, &mut Buffer<f32>) {
    let [read, write] = buffers.get_disjoint_mut([read, write]).expect("a layer reads and writes different rows");
    (read, write)
}

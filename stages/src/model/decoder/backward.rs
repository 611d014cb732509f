//! The way back, written out; what letters stand for is told in [`super`].

use super::{AdapterMemory, Batch, Decoder, LayerMemory, Projection, Workspace};
use kernels::Layout::{Nn, Tn};
use kernels::Write::{Accumulate, Overwrite};
use kernels::{
    Buffer, Stream, View, ViewMut, attention, bias, embedding, head_norm, matmul, matmul_prepared, norm, rope, swiglu,
};
use std::ops::Range;

impl Decoder {
    /// Adds to `gradients` (in the order of [`super::Layout`]) what follows from the gradient of the last norm's output, which the
    /// heads left in the workspace.
    pub fn backward(&self, batch: &Batch, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (t, d, layers) = (batch.len(), self.config.hidden_size, self.layout.layers.len());
        {
            let Workspace { stream, residuals, scale, back, adapter, .. } = &mut *workspace;
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
                self.gradient_or(&self.layout.final_norm, gradients, adapter),
            );
        }
        let again = workspace.layers.len() < layers;
        for index in (0..layers).rev() {
            // The last layer's memory is still as the forward pass left it.
            if again && index + 1 < layers {
                self.layer_again(index, batch, workspace);
            }
            self.feed_forward_backward(index, t, workspace, gradients);
            self.attention_backward(index, batch, workspace, gradients);
        }
        let back = workspace.back.as_ref().expect("a workspace for training");
        if let Some(table) = self.gradient(&self.layout.embedding, gradients) {
            embedding::backward(&workspace.stream, d, batch.tokens(), back.residual.slice(0..t * d), table);
        }
    }

    fn feed_forward_backward(&self, index: usize, t: usize, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (d, f) = (self.config.hidden_size, self.config.intermediate_size);
        let layer = &self.layout.layers[index];
        let Workspace { stream, layers, back, adapter, .. } = workspace;
        let (memory, back) = (&layers[index % layers.len()], back.as_mut().expect("a workspace for training"));

        let residual = back.residual.slice(0..t * d);
        let mut activated = back.activated.slice_mut(0..t * f);
        let input = memory.activated.slice(0..t * f);
        self.project_backward(stream, &layer.down, t, residual, input, activated.reborrow(), adapter, gradients);
        let mut gate_up = back.gate_up.slice_mut(0..t * 2 * f);
        swiglu::backward(stream, t, f, memory.gate_up.slice(0..t * 2 * f), activated.view(), gate_up.reborrow());
        let (input, mut normed) = (memory.feed_forward_normed.slice(0..t * d), back.normed.slice_mut(0..t * d));
        let (gate_up, into) = (gate_up.view(), normed.reborrow());
        self.project_backward(stream, &layer.gate_up, t, gate_up, input, into, adapter, gradients);
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
            self.gradient_or(&layer.feed_forward_norm, gradients, adapter),
        );
    }

    fn attention_backward(&self, index: usize, batch: &Batch, workspace: &mut Workspace, gradients: &mut Buffer<f32>) {
        let (t, d, queries) = (batch.len(), self.config.hidden_size, self.config.query_size());
        let (width, layer) = (self.config.qkv_size(), &self.layout.layers[index]);
        let Workspace { stream, layers, residuals, back, adapter, .. } = workspace;
        let (memory, back) = (&layers[index % layers.len()], back.as_mut().expect("a workspace for training"));

        let residual = back.residual.slice(0..t * d);
        let (seen, mut attended) = (memory.attended.slice(0..t * queries), back.attended.slice_mut(0..t * queries));
        self.project_backward(stream, &layer.out, t, residual, seen, attended.reborrow(), adapter, gradients);
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
        self.project_heads_backward(index, t, stream, memory, qkv, normed.reborrow(), adapter, gradients);
        norm::backward(
            stream,
            t,
            d,
            residuals[index].slice(0..t * d),
            self.weight(&layer.attention_norm),
            memory.attention_scale.slice(0..t),
            normed.view(),
            Accumulate,
            back.residual.slice_mut(0..t * d),
            self.gradient_or(&layer.attention_norm, gradients, adapter),
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
        adapter: &mut AdapterMemory,
        gradients: &mut Buffer<f32>,
    ) {
        let (d, width) = (self.config.hidden_size, self.config.qkv_size());
        let layer = &self.layout.layers[index];
        if let (Some(range), Some(norms)) = (&layer.head_norms, &memory.head_norms) {
            let (weight, gradient) = (self.weight(range), self.gradient_or(range, gradients, adapter));
            let (projected, scale) =
                (norms.projected.slice(0..t * width), norms.scale.slice(0..t * self.normed_heads()));
            head_norm::backward(stream, self.heads(), projected, weight, scale, qkv.reborrow(), gradient);
        }
        let input = memory.attention_normed.slice(0..t * d);
        self.project_backward(stream, &layer.qkv, t, qkv.view(), input, normed, adapter, gradients);
    }

    /// Where the gradient of a weight is added; nowhere where it is frozen.
    pub(in crate::model) fn gradient<'a>(
        &self,
        range: &Range<usize>,
        gradients: &'a mut Buffer<f32>,
    ) -> Option<ViewMut<'a, f32>> {
        self.adapters.is_none().then(|| gradients.slice_mut(range.clone()))
    }

    /// The same for operations that always make one.
    fn gradient_or<'a>(
        &self,
        range: &Range<usize>,
        gradients: &'a mut Buffer<f32>,
        memory: &'a mut AdapterMemory,
    ) -> ViewMut<'a, f32> {
        self.gradient(range, gradients).unwrap_or_else(|| memory.frozen.slice_mut(0..range.len()))
    }

    /// dx`[rows, inputs]` = dy · W, and to the gradients of what is learnt is added what follows from dy`[rows, outputs]`.
    fn project_backward(
        &self,
        stream: &Stream,
        projection: &Projection,
        rows: usize,
        dy: View<'_, f32>,
        x: View<'_, f32>,
        mut dx: ViewMut<'_, f32>,
        memory: &mut AdapterMemory,
        gradients: &mut Buffer<f32>,
    ) {
        let Projection { inputs, outputs, weight, bias, .. } = projection;
        match self.shared().and_then(|shared| shared.backward(weight)) {
            Some(shared) => matmul_prepared(stream, rows, dy, shared, Overwrite, dx.reborrow()),
            None => matmul(stream, Nn, rows, *inputs, *outputs, dy, self.weight(weight), Overwrite, dx.reborrow()),
        }
        if let Some(adapters) = &self.adapters {
            return adapters.backward(stream, projection, rows, dy, x, dx, memory, gradients);
        }
        matmul(stream, Tn, *outputs, *inputs, rows, dy, x, Accumulate, gradients.slice_mut(weight.clone()));
        if let Some(range) = bias {
            bias::backward(stream, rows, *outputs, dy, gradients.slice_mut(range.clone()));
        }
    }
}

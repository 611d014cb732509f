//! Low-rank adaptation (Hu 2021): beside a frozen weight W learns s·B·A, with A `[r, inputs]`, B `[outputs, r]` and s = α/r.
//!
//! An adapter has a part of its own for each of query, key, value, output, gate, up and down, fused in memory or not, as PEFT has.
//! All A and B lie in one flat buffer; gradients, moments and checkpoints have its layout, so nothing is kept for frozen weights.

mod peft;

pub use peft::PeftAdapter;

use super::config::DecoderConfig;
use super::parameters::{Layout, Projection, fill_normal};
use super::workspace::AdapterMemory;
use kernels::Layout::{Nn, Nt, Tn};
use kernels::Write::{Accumulate, Overwrite};
use kernels::{Buffer, Stream, View, ViewMut, columns, matmul};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What is adapted, and how far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// r
    pub rank: usize,
    /// α
    pub alpha: f32,
    pub targets: Vec<Target>,
}

/// A matrix of every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Target {
    pub const ALL: [Target; 7] = {
        use Target::{Down, Gate, Key, Output, Query, Up, Value};
        [Query, Key, Value, Output, Gate, Up, Down]
    };
}

/// Where one adapter lies, and which rows of its projection it adds to.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub target: Target,
    /// A `[r, inputs]`
    pub a: Range<usize>,
    /// B `[outputs.len(), r]`
    pub b: Range<usize>,
    pub outputs: Range<usize>,
}

/// All adapters of a decoder.
pub(super) struct Adapters {
    rank: usize,
    /// s
    scale: f32,
    /// Of a critic, its value head follows them.
    pub parameters: Buffer<f32>,
}

impl Lora {
    /// Gives the projections of `layout` their adapters; returns how many numbers they have.
    pub fn lay_out(&self, config: &DecoderConfig, layout: &mut Layout) -> usize {
        let mut end = 0;
        let mut take = |len: usize| {
            end += len;
            end - len..end
        };
        for layer in &mut layout.layers {
            for (projection, parts) in
                [&mut layer.qkv, &mut layer.out, &mut layer.gate_up, &mut layer.down].into_iter().zip(parts(config))
            {
                let adapted = parts.into_iter().filter(|(target, _)| self.targets.contains(target));
                let inputs = projection.inputs;
                let mut adapter = |(target, outputs): (Target, Range<usize>)| Adapter {
                    target,
                    a: take(self.rank * inputs),
                    b: take(outputs.len() * self.rank),
                    outputs,
                };
                projection.adapters = adapted.map(&mut adapter).collect();
            }
        }
        take(0).end
    }

    /// Fresh adapters that change nothing yet: B is 0, A normal with the variance of PEFT's uniform start, 1/(3 · inputs).
    pub(super) fn fresh(&self, stream: &Stream, layout: &Layout, len: usize, seed: u64) -> Adapters {
        let mut parameters = vec![0.0; len];
        for projection in projections(layout) {
            let deviation = 1.0 / (3.0 * projection.inputs as f32).sqrt();
            for adapter in &projection.adapters {
                fill_normal(&mut parameters, &adapter.a, deviation, seed);
            }
        }
        Adapters { rank: self.rank, scale: self.alpha / self.rank as f32, parameters: stream.upload(&parameters) }
    }
}

/// The rows of a layer's four projections that each target has.
fn parts(config: &DecoderConfig) -> [Vec<(Target, Range<usize>)>; 4] {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.query_size(), config.num_key_value_heads * config.head_size());
    [
        vec![
            (Target::Query, 0..queries),
            (Target::Key, queries..queries + keys),
            (Target::Value, queries + keys..queries + 2 * keys),
        ],
        vec![(Target::Output, 0..d)],
        vec![(Target::Gate, 0..f), (Target::Up, f..2 * f)],
        vec![(Target::Down, 0..d)],
    ]
}

/// All projections of a decoder.
pub(super) fn projections(layout: &Layout) -> impl Iterator<Item = &Projection> {
    layout.layers.iter().flat_map(|layer| [&layer.qkv, &layer.out, &layer.gate_up, &layer.down])
}

impl Adapters {
    pub fn copy(&self, stream: &Stream) -> Adapters {
        self.up_to(stream, self.parameters.len())
    }

    /// A copy of the first `end` numbers.
    pub fn up_to(&self, stream: &Stream, end: usize) -> Adapters {
        Adapters { parameters: stream.upload(&stream.download(self.parameters.slice(0..end))), ..*self }
    }

    /// A copy with more numbers behind.
    pub fn followed_by(&self, stream: &Stream, more: &[f32]) -> Adapters {
        let parameters = [&stream.download(self.parameters.view()), more].concat();
        Adapters { parameters: stream.upload(&parameters), ..*self }
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// y`[rows, outputs]` += s · x · Aᵀ · Bᵀ.
    pub fn forward(
        &self,
        stream: &Stream,
        projection: &Projection,
        rows: usize,
        x: View<'_, f32>,
        mut y: ViewMut<'_, f32>,
        memory: &mut AdapterMemory,
    ) {
        for adapter in &projection.adapters {
            let width = adapter.outputs.len();
            self.lower(stream, projection.inputs, adapter, rows, x, memory);
            let (low, mut part) = (memory.low.slice(0..rows * self.rank), memory.part.slice_mut(0..rows * width));
            matmul(stream, Nt, rows, width, self.rank, low, self.weight(&adapter.b), Overwrite, part.reborrow());
            columns::add(stream, projection.outputs, adapter.outputs.clone(), self.scale, part.view(), y.reborrow());
        }
    }

    /// x · Aᵀ, `[rows, r]`.
    fn lower(
        &self,
        stream: &Stream,
        inputs: usize,
        adapter: &Adapter,
        rows: usize,
        x: View<'_, f32>,
        memory: &mut AdapterMemory,
    ) {
        let low = memory.low.slice_mut(0..rows * self.rank);
        matmul(stream, Nt, rows, self.rank, inputs, x, self.weight(&adapter.a), Overwrite, low);
    }

    /// Adds to dx, and to the gradients of A and B: dB += (s·dy)ᵀ · (x·Aᵀ), dA += (s·dy·B)ᵀ · x, dx += s·dy·B · A.
    pub fn backward(
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
        let (r, inputs) = (self.rank, projection.inputs);
        for adapter in &projection.adapters {
            let width = adapter.outputs.len();
            // As far as a token's r numbers go, computing them again is cheaper than keeping them a layer.
            self.lower(stream, inputs, adapter, rows, x, memory);
            let mut part = memory.part.slice_mut(0..rows * width);
            columns::take(stream, projection.outputs, adapter.outputs.clone(), self.scale, dy, part.reborrow());
            let (part, low) = (part.view(), memory.low.slice(0..rows * r));
            matmul(stream, Tn, width, r, rows, part, low, Accumulate, gradients.slice_mut(adapter.b.clone()));
            let mut dlow = memory.dlow.slice_mut(0..rows * r);
            matmul(stream, Nn, rows, r, width, part, self.weight(&adapter.b), Overwrite, dlow.reborrow());
            let dlow = dlow.view();
            matmul(stream, Tn, r, inputs, rows, dlow, x, Accumulate, gradients.slice_mut(adapter.a.clone()));
            matmul(stream, Nn, rows, inputs, r, dlow, self.weight(&adapter.a), Accumulate, dx.reborrow());
        }
    }

    /// W += s · B · A for every projection.
    pub fn merge(&self, stream: &Stream, layout: &Layout, parameters: &mut Buffer<f32>) {
        for projection in projections(layout) {
            for adapter in &projection.adapters {
                let (width, inputs) = (adapter.outputs.len(), projection.inputs);
                let mut scaled = stream.uninit(adapter.b.len());
                columns::take(stream, self.rank, 0..self.rank, self.scale, self.weight(&adapter.b), scaled.view_mut());
                let start = projection.weight.start + adapter.outputs.start * inputs;
                let weight = parameters.slice_mut(start..start + width * inputs);
                let a = self.weight(&adapter.a);
                matmul(stream, Nn, width, inputs, self.rank, scaled.view(), a, Accumulate, weight);
            }
        }
    }

    fn weight(&self, range: &Range<usize>) -> View<'_, f32> {
        self.parameters.slice(range.clone())
    }
}

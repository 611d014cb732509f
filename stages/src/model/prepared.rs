//! A decoder's matrices in the order in which products read them: a step of generation has few rows to make up for copying them, and a
//! step of training has lanes that would each copy them anew.

use super::parameters::{LayerRanges, Layout, Projection};
use kernels::{Buffer, Device};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;

/// By where a matrix begins in [`Layout`].
pub(super) struct Prepared {
    forward: HashMap<usize, kernels::Prepared>,
    /// For the way back; empty where there is none.
    backward: HashMap<usize, kernels::Prepared>,
    /// Whether the weights are still those that were copied.
    is_current: bool,
}

fn projections(layer: &LayerRanges) -> [&Projection; 4] {
    [&layer.qkv, &layer.out, &layer.gate_up, &layer.down]
}

impl Prepared {
    /// All that generation reads.
    pub fn for_generation(device: &Device, layout: &Layout, weights: &Buffer<f32>, width: usize) -> Prepared {
        let stream = device.stream();
        let prepare = |range: &Range<usize>, inputs: usize| {
            let weight = weights.slice(range.clone());
            (range.start, kernels::Prepared::new(&stream, kernels::Layout::Nt, range.len() / inputs, inputs, weight))
        };
        let mut forward = HashMap::from([prepare(&layout.head, width)]);
        for layer in &layout.layers {
            forward.extend(projections(layer).map(|projection| prepare(&projection.weight, projection.inputs)));
        }
        Prepared { forward, backward: HashMap::new(), is_current: true }
    }

    /// What lanes of a training share: projections, for both ways. The head packs its own, piece by piece.
    pub fn for_training(device: &Device, layout: &Layout, weights: &Buffer<f32>) -> Prepared {
        let stream = device.stream();
        let (mut forward, mut backward) = (HashMap::new(), HashMap::new());
        for Projection { inputs, outputs, weight, .. } in layout.layers.iter().flat_map(projections) {
            let view = weights.slice(weight.clone());
            let prepare = |layout, n, k| kernels::Prepared::new(&stream, layout, n, k, view);
            forward.insert(weight.start, prepare(kernels::Layout::Nt, *outputs, *inputs));
            backward.insert(weight.start, prepare(kernels::Layout::Nn, *inputs, *outputs));
        }
        Prepared { forward, backward, is_current: true }
    }

    /// Copies the weights again where they have changed.
    pub fn renew(&mut self, device: &Device, weights: &Buffer<f32>) {
        if self.is_current {
            return;
        }
        let stream = device.stream();
        let matrices: Vec<_> = self.forward.iter_mut().chain(&mut self.backward).collect();
        device.install(|| {
            matrices.into_par_iter().with_max_len(1).for_each(|(&start, matrix)| {
                matrix.renew(&stream, weights.slice(start..start + matrix.numbers()));
            });
        });
        self.is_current = true;
    }

    /// The weights change.
    pub fn outdate(&mut self) {
        self.is_current = false;
    }

    pub fn is_current(&self) -> bool {
        self.is_current
    }

    pub fn forward(&self, range: &Range<usize>) -> Option<&kernels::Prepared> {
        self.forward.get(&range.start)
    }

    pub fn backward(&self, range: &Range<usize>) -> Option<&kernels::Prepared> {
        self.backward.get(&range.start)
    }
}

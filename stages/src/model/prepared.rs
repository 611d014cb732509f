//! A decoder's matrices in the order in which products read them, for generation: a step has few rows to make up for copying them.

use super::Decoder;
use std::collections::HashMap;
use std::ops::Range;

/// By where a matrix begins in [`super::parameters::Layout`].
pub(super) struct Prepared(HashMap<usize, kernels::Prepared>);

impl Prepared {
    pub fn new(decoder: &Decoder) -> Prepared {
        let (layout, stream) = (decoder.layout(), decoder.device().stream());
        let prepare = |range: &Range<usize>, inputs: usize| {
            let outputs = range.len() / inputs;
            (range.start, kernels::Prepared::new(&stream, outputs, inputs, decoder.weight(range)))
        };
        let mut matrices = HashMap::from([prepare(&layout.head, decoder.config().hidden_size)]);
        for layer in &layout.layers {
            let projections = [&layer.qkv, &layer.out, &layer.gate_up, &layer.down];
            matrices.extend(projections.map(|projection| prepare(&projection.weight, projection.inputs)));
        }
        Prepared(matrices)
    }

    pub fn matrix(&self, range: &Range<usize>) -> Option<&kernels::Prepared> {
        self.0.get(&range.start)
    }
}

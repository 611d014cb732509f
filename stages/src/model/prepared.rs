//! A decoder's matrices in the order in which products read them, for generation: a step has few rows to make up for copying them.

use super::Decoder;
use kernels::Stream;
use std::collections::HashMap;
use std::ops::Range;

/// By where a matrix begins in [`super::parameters::Layout`].
pub(super) struct Prepared(HashMap<usize, kernels::Prepared>);

impl Prepared {
    pub fn new(decoder: &Decoder) -> Prepared {
        let (config, layout, stream) = (decoder.config(), decoder.layout(), decoder.device().stream());
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let mut matrices = HashMap::from([prepare(decoder, &stream, &layout.head, d)]);
        for layer in &layout.layers {
            let of_layer = [(&layer.qkv, d), (&layer.out, config.query_size()), (&layer.gate_up, d), (&layer.down, f)];
            matrices.extend(of_layer.map(|(range, inputs)| prepare(decoder, &stream, range, inputs)));
        }
        Prepared(matrices)
    }

    pub fn matrix(&self, range: &Range<usize>) -> Option<&kernels::Prepared> {
        self.0.get(&range.start)
    }
}

fn prepare(decoder: &Decoder, stream: &Stream, range: &Range<usize>, inputs: usize) -> (usize, kernels::Prepared) {
    (range.start, kernels::Prepared::new(stream, range.len() / inputs, inputs, decoder.weight(range)))
}

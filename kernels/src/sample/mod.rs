//! Draws the next token of each row, greedily or at random, reproducibly.

mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut};

/// How tokens are drawn. The filters apply one after the other: top-k, top-p of what is left, min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the largest logit, the lowest index among equals.
    pub temperature: f32,
    /// Only the k likeliest; 0 keeps all.
    pub top_k: usize,
    /// The fewest likeliest tokens that hold this share of what top-k kept; 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
}

impl Sampling {
    /// The largest logit.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// The whole distribution at this temperature.
    pub fn at(temperature: f32) -> Sampling {
        Sampling { temperature, ..Sampling::GREEDY }
    }
}

/// tokens`[B]` and logp`[B]` of what was drawn under the whole distribution (before any filter) at the temperature
/// (at 1 where the temperature is 0), from logits`[B, V]`.
///
/// Row b draws with [`crate::philox::uniform`]`(seeds[b], counters[b])`, so neighbours never matter. Candidates are
/// laid side by side in the order of the vocabulary.
pub fn forward(
    stream: &Stream,
    vocabulary: usize,
    sampling: &Sampling,
    logits: View<'_, f32>,
    seeds: View<'_, u64>,
    counters: View<'_, u64>,
    tokens: ViewMut<'_, u32>,
    logp: ViewMut<'_, f32>,
) {
    let rows = tokens.len();
    assert_eq!(logits.len(), rows * vocabulary, "sample: logits are not {rows} × {vocabulary}");
    assert_eq!((seeds.len(), counters.len(), logp.len()), (rows, rows, rows), "sample: not {rows} keys or outputs");
    assert!(sampling.temperature >= 0.0 && vocabulary > 0, "sample: {sampling:?} over {vocabulary} tokens");
    if stream.is_accelerated() {
        return cuda::forward(stream, vocabulary, sampling, logits, (seeds, counters), tokens, logp);
    }
    let keys = (seeds.host(), counters.host());
    cpu::forward(stream, vocabulary, sampling, logits.host(), keys, tokens.host(), logp.host());
}

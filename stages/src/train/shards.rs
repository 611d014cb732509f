//! Work on a batch side by side: fixed lanes of documents, each with its own memory and gradients, summed in a fixed order.
//!
//! Lanes depend on the batch and the model's size alone, so the result is the same bits on one core and on sixteen.

use super::batches::{packed, shards};
use crate::model::Decoder;
use crate::model::decoder::SHARED_PARAMETERS_MAX;
use crate::model::workspace::{Purpose, Workspace};
use kernels::{Buffer, Device};
use rayon::prelude::*;

/// A lane of a small model holds about this many tokens: enough for efficient products, few enough for two lanes a step.
const SMALL_LANE_TOKENS: usize = 192;
/// A lane works on so many of its tokens at once.
const SMALL_CHUNK_TOKENS: usize = SMALL_LANE_TOKENS * 4 / 3;
/// More lanes than this would cost more in summing gradients than they gain.
const SMALL_LANES: usize = 8;
/// From this many parameters on one operation fills all cores, and further copies of the gradients cost too much.
const LARGE_PARAMETERS: usize = SHARED_PARAMETERS_MAX;
/// Tokens that a large model works on at once.
const LARGE_CHUNK_TOKENS: usize = 2_048;

/// One lane's memory.
pub struct Lane {
    pub workspace: Workspace,
    /// Flat, in the model's layout; empty where nothing is learnt.
    pub gradients: Buffer<f32>,
}

/// How batches are cut: by the model's size, and a bound on memory.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Of the whole model, learnt or not.
    pub parameters: usize,
    /// Tokens at work at once, over all lanes; a longer text is worked on whole.
    pub tokens_max: usize,
}

impl Cut {
    /// With at most so many tokens' activations in memory at once.
    pub fn within(self, tokens_max: Option<usize>) -> Cut {
        Cut { tokens_max: tokens_max.map_or(usize::MAX, |tokens| tokens.max(1)), ..self }
    }

    /// Lanes, each a list of chunks.
    pub fn lanes(&self, batch: &[usize], length: impl Fn(usize) -> usize) -> Vec<Vec<Vec<usize>>> {
        if self.parameters > LARGE_PARAMETERS {
            return vec![packed(batch, length, LARGE_CHUNK_TOKENS.min(self.tokens_max))];
        }
        let total: usize = batch.iter().map(|&example| length(example)).sum();
        let chunk_tokens = SMALL_CHUNK_TOKENS.min(self.tokens_max);
        let lanes_max = (self.tokens_max / chunk_tokens).clamp(1, SMALL_LANES);
        let lane_tokens = SMALL_LANE_TOKENS.max(total.div_ceil(lanes_max));
        let lanes = shards(batch, &length, lane_tokens);
        lanes.into_iter().map(|lane| packed(&lane, &length, chunk_tokens)).collect()
    }
}

/// All lanes of one model.
pub struct Lanes {
    device: Device,
    purpose: Purpose,
    cut: Cut,
    /// Numbers that are learnt.
    learnt: usize,
    lanes: Vec<Lane>,
}

impl Lanes {
    pub fn new(decoder: &Decoder, purpose: Purpose) -> Lanes {
        let cut = Cut { parameters: decoder.layout().len, tokens_max: usize::MAX };
        let learnt = if purpose.is_training() { decoder.learnt().len } else { 0 };
        Lanes { device: decoder.device().clone(), purpose, cut, learnt, lanes: Vec::new() }
    }

    /// With at most so many tokens' activations in memory at once: fewer lanes, then shorter chunks. Changes the order in which
    /// gradients are added, so it changes bits.
    pub fn within(mut self, tokens_max: Option<usize>) -> Lanes {
        self.cut = self.cut.within(tokens_max);
        self
    }

    /// Calls `work` with chunks of the batch that fit one pass, lanes side by side, and returns its results in a fixed order.
    /// Training leaves the sum of all gradients in [`Lanes::gradients`].
    pub fn run<R: Send>(
        &mut self,
        batch: &[usize],
        length: impl Fn(usize) -> usize,
        work: impl Fn(&[usize], &mut Lane) -> R + Sync,
    ) -> Vec<R> {
        let plan = self.cut.lanes(batch, length);
        self.open(plan.len());
        let (lanes, device, training) = (&mut self.lanes[..plan.len()], &self.device, self.purpose.is_training());
        let results = device.install(|| {
            let one = |(lane, chunks): (&mut Lane, &Vec<Vec<usize>>)| -> Vec<R> {
                if training {
                    lane.workspace.stream.fill(lane.gradients.view_mut(), 0.0);
                }
                chunks.iter().map(|chunk| work(chunk, lane)).collect()
            };
            lanes.par_iter_mut().zip(&plan).with_max_len(1).map(one).collect::<Vec<_>>()
        });
        if training {
            self.sum_gradients(plan.len());
        }
        results.into_iter().flatten().collect()
    }

    /// The sum over all lanes of the last run.
    pub fn gradients(&mut self) -> &mut Buffer<f32> {
        &mut self.lanes[0].gradients
    }

    fn open(&mut self, count: usize) {
        while self.lanes.len() < count {
            let stream = self.device.stream();
            let gradients = stream.zeros(self.learnt);
            self.lanes.push(Lane { workspace: Workspace::new(stream, self.purpose), gradients });
        }
    }

    fn sum_gradients(&mut self, count: usize) {
        let stream = self.device.stream();
        let (first, others) = self.lanes[..count].split_first_mut().expect("a batch has a lane");
        for other in others {
            kernels::elementwise::add(&stream, other.gradients.view(), first.gradients.view_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(parameters: usize, tokens_max: Option<usize>, lengths: &[usize]) -> Vec<Vec<Vec<usize>>> {
        let batch: Vec<usize> = (0..lengths.len()).collect();
        Cut { parameters, tokens_max: usize::MAX }.within(tokens_max).lanes(&batch, |example| lengths[example])
    }

    proptest! {
        #[test]
        fn a_bound_on_tokens_is_kept_and_every_text_is_read_once(
            lengths in prop::collection::vec(1usize..90, 1..80), tokens_max in 90usize..3_000, is_large: bool
        ) {
            let parameters = if is_large { LARGE_PARAMETERS + 1 } else { 1 };
            let lanes = plan(parameters, Some(tokens_max), &lengths);
            let tokens = |chunk: &Vec<usize>| chunk.iter().map(|&example| lengths[example]).sum::<usize>();
            // Each lane keeps the memory of its largest chunk.
            let at_once: usize = lanes.iter().map(|lane| lane.iter().map(tokens).max().unwrap_or(0)).sum();
            prop_assert!(at_once <= tokens_max, "{at_once} of {tokens_max}");
            let mut read = lanes.concat().concat();
            read.sort_unstable();
            prop_assert_eq!(read, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bound_that_is_not_reached_changes_nothing() {
        let lengths: Vec<usize> = (0..60).map(|index| 20 + index % 50).collect();
        for parameters in [1, LARGE_PARAMETERS + 1] {
            assert_eq!(
                plan(parameters, None, &lengths),
                plan(parameters, Some(SMALL_LANES * SMALL_CHUNK_TOKENS), &lengths)
            );
        }
    }
}

//! Which examples make up which step: shuffled anew each epoch, packed by tokens, and always the same for one seed.

use crate::draw::Draw;
use serde::{Deserialize, Serialize};

/// One text to learn from: the model reads `tokens[..prompt]` and learns to write `tokens[prompt..]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub tokens: Vec<u32>,
    pub prompt: usize,
}

impl Example {
    pub fn new(prompt: &[u32], target: &[u32]) -> Example {
        Example { tokens: [prompt, target].concat(), prompt: prompt.len() }
    }

    /// How many tokens are learnt.
    pub fn targets(&self) -> usize {
        self.tokens.len() - self.prompt
    }
}

/// The end of a too long text that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    #[default]
    Head,
    /// As the paper's code does: the answer stays, the question's start goes.
    Tail,
}

/// `example` cut to `length_max` tokens. `None` where nothing to learn, or nothing to read before it, would be left.
pub fn truncated(example: &Example, length_max: usize, keep: Keep) -> Option<Example> {
    let excess = example.tokens.len().saturating_sub(length_max);
    let (range, prompt) = match keep {
        Keep::Head => (0..example.tokens.len() - excess, example.prompt),
        Keep::Tail => (excess..example.tokens.len(), example.prompt.saturating_sub(excess).max(1)),
    };
    let tokens = example.tokens[range].to_vec();
    (0 < prompt && prompt < tokens.len()).then_some(Example { tokens, prompt })
}

/// The examples of one epoch in their order: a permutation drawn for (seed, epoch).
pub fn epoch_order(count: usize, draw: &Draw, epoch: u64) -> Vec<usize> {
    let draw = draw.of("epoch").at(epoch);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, draw.at(last as u64).below(last + 1));
    }
    order
}

/// `order` cut into batches of at most `tokens_max` tokens; a longer example is a batch of its own.
pub fn packed(order: &[usize], lengths: impl Fn(usize) -> usize, tokens_max: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &example in order {
        let length = lengths(example);
        if length > room || batches.is_empty() {
            batches.push(Vec::new());
            room = tokens_max;
        }
        batches.last_mut().expect("a batch was just opened").push(example);
        room = room.saturating_sub(length);
    }
    batches
}

/// A batch cut into even shards of about `tokens` tokens that can be worked on side by side. Depends on the lengths alone, never
/// on the machine, because gradients are summed shard by shard. Longest first, each to the shard with the fewest tokens.
pub fn shards(batch: &[usize], lengths: impl Fn(usize) -> usize, tokens: usize) -> Vec<Vec<usize>> {
    let total: usize = batch.iter().map(|&example| lengths(example)).sum();
    let count = ((total + tokens / 2) / tokens.max(1)).clamp(1, batch.len().max(1));
    let mut shards = vec![(0, Vec::new()); count];
    let mut longest_first: Vec<usize> = (0..batch.len()).collect();
    longest_first.sort_by_key(|&place| (std::cmp::Reverse(lengths(batch[place])), place));
    for place in longest_first {
        let least = shards.iter_mut().min_by_key(|(tokens, _)| *tokens).expect("at least one shard");
        least.0 += lengths(batch[place]);
        least.1.push(batch[place]);
    }
    shards.into_iter().map(|(_, shard)| shard).filter(|shard| !shard.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cut_keeps_the_named_end_and_something_to_learn() {
        let check = |length_max, keep, expected: Option<(&[u32], usize)>| {
            let cut = truncated(&Example::new(&[1, 2, 3], &[4, 5]), length_max, keep);
            assert_eq!(cut, expected.map(|(tokens, prompt)| Example { tokens: tokens.to_vec(), prompt }));
        };
        check(9, Keep::Tail, Some((&[1, 2, 3, 4, 5], 3)));
        check(4, Keep::Tail, Some((&[2, 3, 4, 5], 2)));
        check(4, Keep::Head, Some((&[1, 2, 3, 4], 3)));
        check(3, Keep::Head, None);
        check(2, Keep::Tail, Some((&[4, 5], 1)));
        check(1, Keep::Tail, None);
    }

    proptest! {
        #[test]
        fn every_example_is_seen_once_an_epoch(
            lengths in prop::collection::vec(1usize..200, 1..60), seed: u64, tokens_max in 1usize..400, shard in 1usize..300
        ) {
            let order = epoch_order(lengths.len(), &Draw::new(seed, "sft"), 3);
            let batches = packed(&order, |example| lengths[example], tokens_max);
            let mut seen = Vec::new();
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&example| lengths[example]).sum();
                prop_assert!(tokens <= tokens_max || batch.len() == 1);
                seen.extend(shards(batch, |example| lengths[example], shard).concat());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let draw = Draw::new(7, "sft");
        assert_eq!(epoch_order(50, &draw, 1), epoch_order(50, &draw, 1));
        assert_ne!(epoch_order(50, &draw, 1), epoch_order(50, &draw, 2));
    }
}

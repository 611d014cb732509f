//! The books of a worker's key/value pages: a sequence takes them as it grows and gives them back when it ends.

use crate::model::DecoderConfig;

/// What running sequences may take. It decides the speed and the memory, never a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Sequences that one worker keeps going at most.
    pub sequences: usize,
    /// Tokens of a page: a power of two from 16 to 256.
    pub page_tokens: usize,
    /// What the keys and values of one worker may take; one sequence of the longest possible length always may.
    pub cache_bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { sequences: 64, page_tokens: 32, cache_bytes: 4 << 30 }
    }
}

impl Room {
    /// Pages for `sequences` of at most `longest` tokens.
    pub(super) fn pages(&self, config: &DecoderConfig, sequences: usize, longest: usize) -> usize {
        let each = longest.div_ceil(self.page_tokens).max(1);
        (self.cache_bytes / self.page_bytes(config)).min(sequences * each).max(each)
    }

    /// Keys and values of one page in all layers.
    fn page_bytes(&self, config: &DecoderConfig) -> usize {
        8 * self.page_tokens * config.num_key_value_heads * config.head_size() * config.num_hidden_layers
    }

    /// What the keys and values of one worker take at most.
    pub fn bytes(&self, config: &DecoderConfig, sequences: usize, longest: usize) -> usize {
        self.pages(config, sequences, longest) * self.page_bytes(config)
    }
}

/// Which pages are free. The last that came back goes out first: what was touched is touched again, and a pool that was never
/// full never took its whole memory.
pub(super) struct Pool {
    free: Vec<u32>,
    page_tokens: usize,
}

impl Pool {
    pub fn new(pages: usize, page_tokens: usize) -> Pool {
        Pool { free: (0..pages as u32).rev().collect(), page_tokens }
    }

    /// Pages for that many tokens.
    pub fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// Adds to `pages` what `tokens` tokens need; nothing where there is not enough.
    pub fn give(&mut self, pages: &mut Vec<u32>, tokens: usize) -> bool {
        let more = self.needed(tokens).saturating_sub(pages.len());
        let Some(kept) = self.free.len().checked_sub(more) else { return false };
        pages.extend(self.free.drain(kept..).rev());
        true
    }

    pub fn take_back(&mut self, pages: &mut Vec<u32>) {
        self.free.extend(pages.drain(..).rev());
    }

    /// The row of the caches where the keys and values of a token lie.
    pub fn place(&self, pages: &[u32], token: usize) -> u32 {
        pages[token / self.page_tokens] * self.page_tokens as u32 + (token % self.page_tokens) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_out_once_and_come_back() {
        let mut pool = Pool::new(5, 16);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        assert!(pool.give(&mut one, 17) && one == [0, 1]);
        assert!(pool.give(&mut other, 48) && other == [2, 3, 4]);
        assert!(pool.give(&mut one, 32), "two pages hold 32 tokens");
        assert!(!pool.give(&mut one, 33) && one == [0, 1]);
        pool.take_back(&mut other);
        assert!(other.is_empty() && pool.give(&mut one, 33) && one == [0, 1, 2]);
        assert_eq!((pool.place(&one, 15), pool.place(&one, 16), pool.place(&one, 40)), (15, 16, 40));
    }

    #[test]
    fn a_pool_is_bounded_by_its_bytes_and_by_what_there_is_to_hold() {
        let config = r#"{"model_type": "qwen2", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8, "max_position_embeddings": 64}"#;
        let config = DecoderConfig::from_json(config, "config.json").unwrap();
        let page = 8 * 16 * 4 * 2;
        let room = |cache_bytes| Room { sequences: 8, page_tokens: 16, cache_bytes };
        let check = |pages: usize, sequences, longest, expected: usize| {
            assert_eq!(room(pages * page).bytes(&config, sequences, longest), expected * page);
        };
        check(100, 8, 33, 24);
        check(10, 8, 33, 10);
        check(1, 8, 33, 3);
    }
}

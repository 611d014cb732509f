//! How generation is manned: known from sizes alone, so that a plan of memory and the work itself cannot differ.

use super::pages::Room;
use crate::model::DecoderConfig;

/// From this many parameters on one operation fills all cores.
const LARGE_PARAMETERS: usize = 8_000_000;
/// Prompt tokens read at once.
pub(super) const PROMPT_TOKENS: usize = 2_048;

/// Tokens of a prompt with the longest answer that it can get.
pub(super) fn longest(config: &DecoderConfig, prompt: usize, answer: usize) -> usize {
    prompt.saturating_add(answer).min(config.max_position_embeddings).max(prompt)
}

/// Workers side by side, and what each has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crew {
    pub workers: usize,
    /// Sequences that one worker keeps going.
    pub slots: usize,
    /// Tokens of the longest sequence that can come.
    pub longest: usize,
}

impl Crew {
    /// For a model (shape and number of parameters) that answers `requests` prompts; tokens of the longest of them, and of an answer.
    pub fn new(
        (config, parameters): (&DecoderConfig, usize),
        threads: usize,
        room: &Room,
        requests: usize,
        (prompt, answer): (usize, usize),
    ) -> Crew {
        // Small models: whole sequences side by side. Large ones: one worker whose operations use all cores.
        let workers = if parameters > LARGE_PARAMETERS { 1 } else { threads.min(requests.div_ceil(8)).max(1) };
        let longest = longest(config, prompt, answer);
        Crew { workers, slots: room.sequences.min(requests.div_ceil(workers)).max(1), longest }
    }

    /// Tokens of prompts that a worker reads together, where each has so many.
    pub fn tokens_read(&self, prompt: usize) -> usize {
        self.slots.min(PROMPT_TOKENS.div_ceil(prompt.max(1))) * prompt
    }

    /// Bytes of a worker's keys and values, where every sequence grows to its longest.
    pub fn cache_bytes(&self, config: &DecoderConfig, room: &Room) -> usize {
        room.bytes(config, self.slots, self.longest)
    }

    /// Bytes of a worker's rows: what is drawn from, what was drawn, and where its keys and values lie.
    pub fn row_bytes(&self, config: &DecoderConfig, room: &Room) -> usize {
        let pages = (self.longest + 1).div_ceil(room.page_tokens);
        4 * self.slots * (config.vocab_size + config.hidden_size + 10 + pages)
    }
}

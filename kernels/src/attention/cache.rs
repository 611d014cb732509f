//! Keys and values of running sequences, and attention of one new row per sequence over them.

use super::cpu;
use crate::{Buffer, Heads, Stream, View, ViewMut};

/// Keys and values of `slots` sequences of at most `capacity` rows, one layer.
///
/// Keys lie as `[slot, K, D, capacity]` (scores of all positions are contiguous), values as `[slot, K, capacity, D]`.
#[derive(Debug)]
pub struct Cache {
    pub(super) heads: Heads,
    pub(super) slots: usize,
    pub(super) capacity: usize,
    pub(super) keys: Buffer<f32>,
    pub(super) values: Buffer<f32>,
}

impl Cache {
    /// An empty cache.
    pub fn new(stream: &Stream, heads: Heads, slots: usize, capacity: usize) -> Cache {
        let len = slots * heads.key_value * heads.width * capacity;
        Cache { heads, slots, capacity, keys: stream.zeros(len), values: stream.zeros(len) }
    }

    /// How many sequences fit.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// How many rows a sequence may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Elements of one slot, in keys and in values alike.
    pub(super) fn slot_len(&self) -> usize {
        self.heads.key_value * self.heads.width * self.capacity
    }
}

/// Writes keys and values of packed rows qkv`[T, (H+2K)·D]` (rotated already) at `(slots[t], positions[t])`.
/// No two rows may share a place; a place outside the cache panics.
pub fn append(stream: &Stream, cache: &mut Cache, qkv: View<'_, f32>, slots: View<'_, u32>, positions: View<'_, u32>) {
    let rows = slots.len();
    assert_eq!(positions.len(), rows, "cache: not {rows} positions");
    assert_eq!(
        qkv.len(),
        rows * cache.heads.packed_width(),
        "cache: qkv does not fit {rows} rows of {:?}",
        cache.heads
    );
    cpu::append(stream, cache, qkv.host(), slots.host(), positions.host());
}

/// Copies one sequence's rows into another slot: several answers to one prompt.
pub fn copy_slot(stream: &Stream, cache: &mut Cache, from: usize, to: usize) {
    assert!(from < cache.slots && to < cache.slots, "cache: slot {from} or {to} outside {} slots", cache.slots);
    cpu::copy_slot(stream, cache, from, to);
}

/// out`[B, H·D]`: the query of row b of qkv`[B, (H+2K)·D]` over the first `lengths[b]` rows of slot `slots[b]`, its own
/// row (put there by [`append`]) included. On the CPU the bits equal those of [`super::forward`]'s row.
pub fn decode(
    stream: &Stream,
    cache: &Cache,
    qkv: View<'_, f32>,
    slots: View<'_, u32>,
    lengths: View<'_, u32>,
    out: ViewMut<'_, f32>,
) {
    let rows = slots.len();
    assert_eq!(lengths.len(), rows, "cache: not {rows} lengths");
    assert_eq!(
        qkv.len(),
        rows * cache.heads.packed_width(),
        "cache: qkv does not fit {rows} rows of {:?}",
        cache.heads
    );
    assert_eq!(out.len(), rows * cache.heads.query_width(), "cache: out does not fit {rows} rows of {:?}", cache.heads);
    cpu::decode(stream, cache, qkv.host(), slots.host(), lengths.host(), out.host());
}

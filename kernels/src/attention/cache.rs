//! Keys and values of running sequences in pages of a pool, and attention of one new row per sequence over them
//! (Kwon et al., "PagedAttention", 2023).

use super::{paged, paged_cuda};
use crate::{Buffer, Heads, Stream, View, ViewMut};

/// Rows that a page may hold.
const PAGE_ROWS: std::ops::RangeInclusive<usize> = 16..=256;
/// Whole registers are read: the last row's last one reaches behind it.
const PADDING: usize = 16;

/// One layer's keys and values: `pages` pages of `page_rows` rows each, which belong to nobody here; who calls keeps books.
///
/// A page's keys lie as `[K, D, page_rows]` (scores of neighbouring rows are contiguous), its values as `[K, page_rows, D]`.
#[derive(Debug)]
pub struct Cache {
    pub(super) heads: Heads,
    pub(super) page_rows: usize,
    pub(super) pages: usize,
    pub(super) keys: Buffer<f32>,
    pub(super) values: Buffer<f32>,
}

impl Cache {
    /// An empty cache. `page_rows` is a power of two from 16 to 256.
    pub fn new(stream: &Stream, heads: Heads, pages: usize, page_rows: usize) -> Cache {
        let fits = page_rows.is_power_of_two() && PAGE_ROWS.contains(&page_rows);
        assert!(fits, "cache: pages of {page_rows} rows, not a power of two in {PAGE_ROWS:?}");
        let len = pages * heads.key_value * heads.width * page_rows;
        let (keys, values) = (stream.zeros(len), stream.zeros(len + PADDING));
        Cache { heads, page_rows, pages, keys, values }
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many rows a page holds.
    pub fn page_rows(&self) -> usize {
        self.page_rows
    }

    /// Elements of one page, in keys and in values alike.
    pub(super) fn page_len(&self) -> usize {
        self.heads.key_value * self.heads.width * self.page_rows
    }
}

/// Writes keys and values of packed rows qkv`[T, (H+2K)·D]` (rotated already) at `places[t]` = page · page_rows + row in it.
/// No two rows may share a place; a place outside the cache panics (on an accelerator it ends the work on it). An
/// accelerator whose products take bf16 keeps the nearest bf16 of each value.
pub fn append(stream: &Stream, cache: &mut Cache, qkv: View<'_, f32>, places: View<'_, u32>) {
    let (rows, heads) = (places.len(), cache.heads);
    assert_eq!(qkv.len(), rows * heads.packed_width(), "cache: qkv does not fit {rows} rows of {heads:?}");
    if stream.is_accelerated() {
        return paged_cuda::append(stream, cache, qkv, places);
    }
    paged::append(stream, cache, qkv.host(), places.host());
}

/// out`[B, H·D]`: the query of row b of qkv`[B, (H+2K)·D]` over the first `lengths[b]` rows of the sequence whose pages
/// are, in order, the first of row b of tables`[B, P]`; its own row (put there by [`append`]) included. On the CPU the
/// bits equal those of [`super::forward`]'s row, whatever the size of a page.
pub fn decode(
    stream: &Stream,
    cache: &Cache,
    qkv: View<'_, f32>,
    tables: View<'_, u32>,
    lengths: View<'_, u32>,
    out: ViewMut<'_, f32>,
) {
    let (rows, heads) = (lengths.len(), cache.heads);
    assert!(
        rows == 0 || tables.len().is_multiple_of(rows),
        "cache: {} pages are no table of {rows} rows",
        tables.len()
    );
    assert_eq!(qkv.len(), rows * heads.packed_width(), "cache: qkv does not fit {rows} rows of {heads:?}");
    assert_eq!(out.len(), rows * heads.query_width(), "cache: out does not fit {rows} rows of {heads:?}");
    if stream.is_accelerated() {
        return paged_cuda::decode(stream, cache, qkv, tables, lengths, out);
    }
    paged::decode(stream, cache, qkv.host(), tables.host(), lengths.host(), out.host());
}

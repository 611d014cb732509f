//! A paged cache on an accelerator, and one new row of each sequence against it.

use super::Cache;
use super::cuda::{scale, sizes};
use crate::accelerator::{Grid, Kernel, Source, arguments};
use crate::{Heads, Precision, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("paged", include_str!("paged.cu"));
static APPEND: Kernel = Kernel::new(&SOURCE, "attention_append");
static DECODE: Kernel = Kernel::new(&SOURCE, "attention_decode");
static COMBINE: Kernel = Kernel::new(&SOURCE, "attention_combine");

/// Rows of a sequence that a block takes: no less than the largest page, so that sums do not depend on pages.
const SPLIT_ROWS: usize = 256;
/// Query heads that a block takes.
const MOST_HEADS: usize = 8;
const THREADS: u32 = 128;
const WARPS: usize = 4;

/// Whether factors are to be rounded to bf16.
fn rounds(stream: &Stream) -> bool {
    stream.device().precision() == Precision::Bf16
}

pub(super) fn append(stream: &Stream, cache: &mut Cache, qkv: View<'_, f32>, places: View<'_, u32>) {
    let ([query, key_value, width], page_rows, rows) = (sizes(cache.heads), cache.page_rows as u32, places.len());
    let cache_rows = cache.pages * cache.page_rows;
    let (keys, values) = (cache.keys.view_mut(), cache.values.view_mut());
    let arguments =
        arguments![qkv, places, keys, values, cache_rows, query, key_value, width, page_rows, rounds(stream)];
    APPEND.launch(stream, Grid::blocks(rows, THREADS), arguments);
}

/// Parts of sequences with room for so many rows, and of their query heads.
fn parts(heads: Heads, sequences: usize, rows: usize) -> usize {
    sequences * rows.div_ceil(SPLIT_ROWS) * heads.query
}

/// Bytes of the workspace: what each part sums, its largest score and its sum of shares.
pub(super) fn workspace_bytes(heads: Heads, sequences: usize, rows: usize) -> usize {
    size_of::<f32>() * parts(heads, sequences, rows) * (heads.width + 2)
}

pub(super) fn decode(
    stream: &Stream,
    cache: &Cache,
    qkv: View<'_, f32>,
    tables: View<'_, u32>,
    lengths: View<'_, u32>,
    out: ViewMut<'_, f32>,
) {
    let (heads, rows, [query, key_value, width]) = (cache.heads, lengths.len(), sizes(cache.heads));
    if rows == 0 {
        return;
    }
    let (table_pages, page_rows) = (tables.len() / rows, cache.page_rows);
    let splits = (table_pages * page_rows).div_ceil(SPLIT_ROWS);
    let parts = parts(heads, rows, table_pages * page_rows);
    let (mut partial, mut statistics) =
        (stream.workspace::<f32>(parts * heads.width), stream.workspace::<f32>(2 * parts));

    let blocks = [heads.key_value * heads.group().div_ceil(MOST_HEADS), rows, splits];
    let floats = MOST_HEADS * (heads.width + SPLIT_ROWS + WARPS * heads.width);
    let grid = Grid::cube(blocks, THREADS).shared(floats * size_of::<f32>());
    let (keys, values, pages) = (cache.keys.view(), cache.values.view(), cache.pages);
    let (table_pages, page_rows, scale, rounds) = (table_pages as u32, page_rows as u32, scale(heads), rounds(stream));
    let (partials, sums) = (partial.view_mut(), statistics.view_mut());
    let arguments = arguments![
        qkv,
        keys,
        values,
        tables,
        lengths,
        partials,
        sums,
        pages,
        table_pages,
        page_rows,
        query,
        key_value,
        width,
        scale,
        rounds
    ];
    DECODE.launch(stream, grid, arguments);
    let arguments = arguments![partial.view(), statistics.view(), lengths, out, splits as u32, query, width];
    COMBINE.launch(stream, Grid::cube([heads.query, rows, 1], 32), arguments);
}

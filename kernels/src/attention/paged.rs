//! Attention against a paged cache on the CPU: the tiles of the matrix product, with a row of the second matrix found
//! through a table of pages. Sums run in the order of [`gemm`](crate::cpu::gemm), so bits are those of the whole pass.

use super::Cache;
use super::cpu::{padded, scale_row, softmax};
use crate::cpu::gemm::DEPTH;
use crate::cpu::parallel::{Disjoint, for_each_rows, for_each_task};
use crate::cpu::scratch;
use crate::cpu::simd::{Level, level};
use crate::cpu::vector::{Portable, Vector};
use crate::{Heads, Stream};

/// Pieces of a matrix that lies in one piece.
const IN_ORDER: [u32; 64] = {
    let mut order = [0; 64];
    let mut index = 0;
    while index < order.len() {
        order[index] = index as u32;
        index += 1;
    }
    order
};

pub(super) fn append(stream: &Stream, cache: &mut Cache, qkv: &[f32], places: &[u32]) {
    let Heads { query, key_value, width } = cache.heads;
    let (packed, page_rows, page_len) = (cache.heads.packed_width(), cache.page_rows, cache.page_len());
    let rows_max = cache.pages * page_rows;
    let (keys, values) = (Disjoint::new(cache.keys.view_mut().host()), Disjoint::new(cache.values.view_mut().host()));
    for_each_rows(stream, places.len(), 4 * key_value * width, |range| {
        for row in range {
            let place = places[row] as usize;
            assert!(place < rows_max, "cache: place {place} outside {rows_max} rows");
            let (page, offset) = (place / page_rows, place % page_rows);
            for head in 0..key_value {
                let key = &qkv[row * packed + (query + head) * width..][..width];
                let value = &qkv[row * packed + (query + key_value + head) * width..][..width];
                let first = page * page_len + head * width * page_rows;
                for (column, &key) in key.iter().enumerate() {
                    // SAFETY: inside the cache (checked above); the contract forbids two rows one place.
                    unsafe { *keys.address(first + column * page_rows + offset) = key };
                }
                // SAFETY: as above.
                unsafe { values.range(first + offset * width..first + (offset + 1) * width) }.copy_from_slice(value);
            }
        }
    });
}

pub(super) fn decode(stream: &Stream, cache: &Cache, qkv: &[f32], tables: &[u32], lengths: &[u32], out: &mut [f32]) {
    let key_value = cache.heads.key_value;
    let rows: usize = lengths.iter().map(|&length| length as usize).sum();
    let table_len = tables.len() / lengths.len().max(1);
    let out = Disjoint::new(out);
    for_each_task(stream, lengths.len() * key_value, 4 * rows * cache.heads.query_width(), |task| {
        let (row, head) = (task / key_value, task % key_value);
        let length = lengths[row] as usize;
        let used = length.div_ceil(cache.page_rows);
        assert!(length > 0 && used <= table_len, "cache: length {length} in {table_len} pages");
        let pages = &tables[row * table_len..][..used];
        assert!(pages.iter().all(|&page| (page as usize) < cache.pages), "cache: {pages:?} of {} pages", cache.pages);
        decode_place(cache, (pages, length), head, qkv, row, out);
    });
}

/// The query heads of one row that share one key/value head.
fn decode_place(
    cache: &Cache,
    (pages, length): (&[u32], usize),
    head: usize,
    qkv: &[f32],
    row: usize,
    out: Disjoint<'_, f32>,
) {
    let (heads, page_rows, width) = (cache.heads, cache.page_rows, cache.heads.width);
    let group = heads.group();
    let first = head * width * page_rows;
    let (keys, values) = (&cache.keys.view().host()[first..], &cache.values.view().host()[first..]);
    let queries = &qkv[row * heads.packed_width() + head * group * width..][..group * width];
    let stride = pages.len() * page_rows;
    let stride = stride.max(padded(length));
    scratch::with(group * (stride + 1), |memory| {
        let (scores, shares) = memory.split_at_mut(group * stride);
        for (place, &page) in pages.iter().enumerate() {
            let keys = &keys[page as usize * cache.page_len()..];
            let rows =
                Pieces { source: keys, pages: &IN_ORDER, distance: DEPTH * page_rows, rows: DEPTH, stride: page_rows };
            let target = scores[place * page_rows..].as_mut_ptr();
            // SAFETY: a page of scores for each query head; the keys of a page are `width` rows of whole registers.
            unsafe { product((group, page_rows, width), (queries, width), rows, (target, stride)) };
        }
        let first = row * heads.query_width() + head * group * width;
        // SAFETY: each task writes heads of its own.
        let out = unsafe { out.range(first..first + group * width) };
        let rows = Pieces { source: values, pages, distance: cache.page_len(), rows: page_rows, stride: width };
        for (scores, share) in scores.chunks_exact_mut(stride).zip(&mut *shares) {
            let scores = &mut scores[..padded(length)];
            *share = softmax(scores, padded(length), length, 1.0 / (width as f32).sqrt()).shares[0];
        }
        // SAFETY: the cache's padding holds what the last register reads too much.
        unsafe { product((group, width, length), (scores, stride), rows, (out.as_mut_ptr(), width)) };
        out.chunks_exact_mut(width).zip(shares).for_each(|(out, share)| scale_row(out, *share));
    });
}

/// A matrix of which `rows` rows at a time lie together, `stride` floats apart; the n-th such piece starts at
/// `pages[n] · distance`. A piece's end is never inside a chain of [`DEPTH`] terms but at a multiple of it or within it.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    source: &'a [f32],
    pages: &'a [u32],
    distance: usize,
    rows: usize,
    stride: usize,
}

impl Pieces<'_> {
    /// Where the piece that begins with row `first` lies.
    #[inline(always)]
    fn address(&self, first: usize) -> *const f32 {
        self.source.as_ptr().wrapping_add(self.pages[first / self.rows] as usize * self.distance)
    }
}

/// C[m, n] = A[m, k] · B[k, n]; A and C with their strides.
///
/// # Safety
/// All parts lie inside living memory, B with up to a register behind its columns; nobody else touches C meanwhile.
unsafe fn product(shape: (usize, usize, usize), a: (&[f32], usize), b: Pieces<'_>, c: (*mut f32, usize)) {
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: `level` found the instructions; the rest is the caller's promise.
        Level::Avx512 => return unsafe { avx512(shape, a, b, c) },
        Level::Avx2 => return unsafe { avx2(shape, a, b, c) },
        Level::Baseline => {}
    }
    // SAFETY: the caller's promise.
    unsafe { tiles::<Portable>(shape, a, b, c) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(shape: (usize, usize, usize), a: (&[f32], usize), b: Pieces<'_>, c: (*mut f32, usize)) {
    // SAFETY: the caller's promise.
    unsafe { tiles::<crate::cpu::vector::Avx512>(shape, a, b, c) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(shape: (usize, usize, usize), a: (&[f32], usize), b: Pieces<'_>, c: (*mut f32, usize)) {
    // SAFETY: the caller's promise.
    unsafe { tiles::<crate::cpu::vector::Avx2>(shape, a, b, c) }
}

/// Walks columns, as many registers at a time as there is room for beside the rows.
#[inline(always)]
unsafe fn tiles<V: Vector>(
    (m, n, k): (usize, usize, usize),
    (a, a_stride): (&[f32], usize),
    b: Pieces<'_>,
    (c, c_stride): (*mut f32, usize),
) {
    let mut column = 0;
    while column < n {
        let registers = (n - column).div_ceil(V::LANES);
        let part = (m, n - column, k);
        // SAFETY: C has columns from `column` on, and so has B.
        unsafe {
            let c = (c.add(column), c_stride);
            column += V::LANES
                * if registers >= 4 && (V::ROWS >= 12 || m <= 3) {
                    strip::<V, 4>(part, (a, a_stride), b, column, c)
                } else if registers == 3 && m <= 3 {
                    strip::<V, 3>(part, (a, a_stride), b, column, c)
                } else if registers >= 2 {
                    strip::<V, 2>(part, (a, a_stride), b, column, c)
                } else {
                    strip::<V, 1>(part, (a, a_stride), b, column, c)
                };
        }
    }
}

/// All rows of `WIDE` registers of columns; returns `WIDE`.
#[inline(always)]
unsafe fn strip<V: Vector, const WIDE: usize>(
    (m, columns, k): (usize, usize, usize),
    (a, a_stride): (&[f32], usize),
    b: Pieces<'_>,
    column: usize,
    (c, c_stride): (*mut f32, usize),
) -> usize {
    let mut row = 0;
    while row < m {
        let part = (columns, k);
        let a = (a[row * a_stride..].as_ptr(), a_stride);
        // SAFETY: as many rows of A and C exist from `row` on.
        unsafe {
            let c = (c.add(row * c_stride), c_stride);
            row += match m - row {
                4.. => tile::<V, 4, WIDE>(part, a, b, column, c),
                3 => tile::<V, 3, WIDE>(part, a, b, column, c),
                2 => tile::<V, 2, WIDE>(part, a, b, column, c),
                _ => tile::<V, 1, WIDE>(part, a, b, column, c),
            };
        }
    }
    WIDE
}

/// `ROWS` × `WIDE` registers of C, one chain of multiply-adds an element, restarted each [`DEPTH`] terms; returns `ROWS`.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const WIDE: usize>(
    (columns, k): (usize, usize),
    (a, a_stride): (*const f32, usize),
    b: Pieces<'_>,
    column: usize,
    c: (*mut f32, usize),
) -> usize {
    let mut first = 0;
    // SAFETY: the tile lies inside the matrices by the caller's promise.
    unsafe {
        while first < k {
            let (chain, end) = (first, k.min(first + DEPTH));
            let mut sums = [[V::splat(0.0); WIDE]; ROWS];
            while first < end {
                let piece = b.address(first).add(column);
                let count = b.rows.min(end - first);
                for term in 0..count {
                    // Values first: beside three rows of four sums they leave one register for a factor.
                    let mut values = [V::splat(0.0); ROWS];
                    for (row, value) in values.iter_mut().enumerate() {
                        *value = V::splat(*a.add(row * a_stride + first + term));
                    }
                    for register in 0..WIDE {
                        let factor = V::load(piece.add(term * b.stride + register * V::LANES));
                        for (value, sums) in values.iter().zip(&mut sums) {
                            sums[register] = value.multiply_add(factor, sums[register]);
                        }
                    }
                }
                first += count;
            }
            write::<V, ROWS, WIDE>(sums, columns, chain > 0, c);
        }
    }
    ROWS
}

/// Writes a tile's sums, or adds them to what earlier chains left.
#[inline(always)]
unsafe fn write<V: Vector, const ROWS: usize, const WIDE: usize>(
    sums: [[V; WIDE]; ROWS],
    columns: usize,
    accumulate: bool,
    (c, stride): (*mut f32, usize),
) {
    for (row, sums) in sums.iter().enumerate() {
        for (register, sum) in sums.iter().enumerate() {
            let count = V::LANES.min(columns - register * V::LANES);
            // SAFETY: `count` columns of C exist there.
            unsafe {
                let address = c.add(row * stride + register * V::LANES);
                let value = if accumulate { V::load_first(address, count).add(*sum) } else { *sum };
                if count == V::LANES { value.store(address) } else { value.store_first(address, count) }
            }
        }
    }
}

//! Attention on the CPU: for each document and key/value head, tiles of query rows against all visible keys.

use std::ops::Range;

use crate::cpu::gemm::{Factor, Matrix, Panels, Shape, copy_panels, gemm};
use crate::cpu::parallel::{Disjoint, for_each_task};
use crate::cpu::scratch;
use crate::cpu::simd::{LANES, dot, exp, exp_sum, max, multiversion};
use crate::{Heads, Precision, Segments, Stream, Write};

/// Query rows of a tile: two register tiles; more would compute more scores that causality throws away.
const TILE_ROWS: usize = 24;
/// Scores of a tile that backward has at once, of several heads where there is room: they stay in the second-level cache.
const TILE_SCORES: usize = 1 << 15;

/// What forward saw and wrote.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub qkv: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
}

/// Where one document's rows and one key/value head lie.
#[derive(Clone, Copy)]
struct Place {
    heads: Heads,
    first: usize,
    rows: usize,
    key_value: usize,
}

impl Place {
    fn scale(&self) -> f32 {
        1.0 / (self.heads.width as f32).sqrt()
    }

    /// Query heads served by this key/value head.
    fn queries(&self) -> Range<usize> {
        let group = self.heads.group();
        self.key_value * group..(self.key_value + 1) * group
    }

    /// Index in packed rows of a document row's query.
    fn query(&self, row: usize, head: usize) -> usize {
        (self.first + row) * self.heads.packed_width() + head * self.heads.width
    }

    fn key(&self, row: usize) -> usize {
        self.query(row, self.heads.query + self.key_value)
    }

    fn value(&self, row: usize) -> usize {
        self.query(row, self.heads.query + self.heads.key_value + self.key_value)
    }

    /// All keys `[rows, D]`, and all values.
    fn keys(&self, qkv: &[f32]) -> Matrix {
        Matrix::rows(&qkv[self.key(0)..], self.heads.packed_width())
    }

    fn values(&self, qkv: &[f32]) -> Matrix {
        Matrix::rows(&qkv[self.value(0)..], self.heads.packed_width())
    }

    /// Index in output rows.
    fn out(&self, row: usize, head: usize) -> usize {
        (self.first + row) * self.heads.query_width() + head * self.heads.width
    }

    fn lse(&self, row: usize, head: usize) -> usize {
        (self.first + row) * self.heads.query + head
    }
}

/// Calls `task` for each document and key/value head; `passes` is how many products of scores' size it makes.
fn for_each_place(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    passes: usize,
    task: impl Fn(Place) + Sync + Send,
) {
    let squares: usize = (0..segments.len()).map(|document| segments.range(document).len().pow(2)).sum();
    for_each_task(stream, segments.len() * heads.key_value, passes * squares * heads.query_width(), |index| {
        let range = segments.range(index / heads.key_value);
        if range.is_empty() {
            return;
        }
        task(Place { heads, first: range.start, rows: range.len(), key_value: index % heads.key_value });
    });
}

pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (out, lse) = (Disjoint::new(out), Disjoint::new(lse));
    for_each_place(stream, heads, segments, 2, |place| forward_place(place, qkv, out, lse));
}

fn forward_place(place: Place, qkv: &[f32], out: Disjoint<'_, f32>, lse: Disjoint<'_, f32>) {
    let (rows, width) = (place.rows, place.heads.width);
    let (keys, values) = (Panels::len(width, rows), Panels::len(rows, width));
    scratch::with(keys + values + TILE_ROWS * padded(rows), |memory| {
        let (keys, memory) = memory.split_at_mut(keys);
        let (values, scores) = memory.split_at_mut(values);
        // SAFETY: the document's rows lie inside qkv.
        let factors = unsafe {
            (
                copy_panels(place.keys(qkv).transposed(), (width, rows), keys),
                copy_panels(place.values(qkv), (rows, width), values),
            )
        };
        for first in (0..rows).step_by(TILE_ROWS) {
            for head in place.queries() {
                forward_tile(place, (first, head), qkv, factors, scores, out, lse);
            }
        }
    });
}

/// One tile of query rows of one head, given panels of all keys (transposed) and of all values.
fn forward_tile(
    place: Place,
    (first, head): (usize, usize),
    qkv: &[f32],
    (keys, values): (Panels, Panels),
    scores: &mut [f32],
    out: Disjoint<'_, f32>,
    lse: Disjoint<'_, f32>,
) {
    let (rows, width) = (place.rows, place.heads.width);
    let (tile, seen) = (TILE_ROWS.min(rows - first), rows.min(first + TILE_ROWS));
    let stride = padded(seen);
    let scores = &mut scores[..tile * stride];
    let queries = Matrix::rows(&qkv[place.query(first, head)..], place.heads.packed_width());
    // SAFETY: the parts lie inside qkv and scratch; this place alone writes its columns of out and lse.
    unsafe {
        multiply((tile, seen, width), queries, keys, Write::Overwrite, scores.as_mut_ptr(), stride);
        let Softmax { log_sums, shares } = softmax(scores, stride, first + 1, place.scale());
        (0..tile).for_each(|row| *lse.address(place.lse(first + row, head)) = log_sums[row]);
        let (target, scores) = (out.address(place.out(first, head)), Matrix::rows(scores, stride));
        multiply((tile, width, seen), scores, values, Write::Overwrite, target, place.heads.query_width());
        for (row, &share) in shares.iter().enumerate().take(tile) {
            let start = place.out(first + row, head);
            scale_row(out.range(start..start + width), share);
        }
    }
}

/// C (= | +=) A·B in f32, whatever the device's precision.
///
/// # Safety
/// As [`gemm`].
unsafe fn multiply(shape: Shape, a: Matrix, b: impl Into<Factor>, write: Write, c: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { gemm(shape, Precision::F32, a, b, write, c, stride) }
}

/// Rows of scores hold whole chunks.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// What is known of rows of scores once they are exponentials.
pub(super) struct Softmax {
    /// log Σ exp(scale · score).
    pub log_sums: [f32; TILE_ROWS],
    /// What makes probabilities of the exponentials; applied to what they weigh, of which there is less.
    pub shares: [f32; TILE_ROWS],
}

multiversion! {
    /// Turns rows of scores into exponentials, the largest 1; row r sees the first `visible + r` columns, the rest becomes 0.
    pub(super) fn softmax(scores: &mut [f32], stride: usize, visible: usize, scale: f32) -> Softmax {
        let mut softmax = Softmax { log_sums: [0.0; TILE_ROWS], shares: [0.0; TILE_ROWS] };
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            scores[(visible + row).min(stride)..].fill(f32::NEG_INFINITY);
            let shift = max(scores) * scale;
            let sum = exp_sum::<M>(scores, scale, shift);
            softmax.log_sums[row] = shift + sum.ln();
            softmax.shares[row] = 1.0 / sum;
        }
        softmax
    }
}

multiversion! {
    pub(super) fn scale_row(row: &mut [f32], factor: f32) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

pub(super) fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    saved: Saved<'_>,
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let dqkv = Disjoint::new(dqkv);
    for_each_place(stream, heads, segments, 5, |place| backward_place(place, saved, dout, dqkv));
}

fn backward_place(place: Place, saved: Saved<'_>, dout: &[f32], dqkv: Disjoint<'_, f32>) {
    let (rows, width) = (place.rows, place.heads.width);
    let stride = score_stride(rows);
    let together = (TILE_SCORES / (TILE_ROWS * stride)).clamp(1, place.heads.group());
    let tall = together * TILE_ROWS;
    let sizes = [
        Panels::len(width, rows),
        Panels::len(width, rows),
        Panels::len(rows, width),
        rows * width,
        rows * width,
        tall * stride,
        tall * stride,
        tall * width,
        tall * width,
    ];
    scratch::with(sizes.iter().sum(), |memory| {
        let [turned_keys, turned_values, keys, dkeys, dvalues, shares, dscores, queries, douts] = split(memory, sizes);
        // SAFETY: the document's rows lie inside qkv.
        let factors = unsafe {
            Factors {
                turned_keys: copy_panels(place.keys(saved.qkv).transposed(), (width, rows), turned_keys),
                turned_values: copy_panels(place.values(saved.qkv).transposed(), (width, rows), turned_values),
                keys: copy_panels(place.keys(saved.qkv), (rows, width), keys),
            }
        };
        dkeys.fill(0.0);
        dvalues.fill(0.0);
        let mut memory = Memory { dkeys, dvalues, shares, dscores, queries, douts };
        for first in (0..rows).step_by(TILE_ROWS) {
            for head in place.queries().step_by(together) {
                let heads = head..place.queries().end.min(head + together);
                backward_tile(place, (first, heads), saved, dout, factors, &mut memory, dqkv);
            }
        }
        for row in 0..rows {
            let (key, value, part) = (place.key(row), place.value(row), row * width..(row + 1) * width);
            // SAFETY: this place alone writes these columns.
            unsafe {
                dqkv.range(key..key + width).copy_from_slice(&memory.dkeys[part.clone()]);
                dqkv.range(value..value + width).copy_from_slice(&memory.dvalues[part]);
            }
        }
    });
}

/// Distance of rows of scores in backward: whole chunks and an odd number of cache lines, since columns are read too.
fn score_stride(seen: usize) -> usize {
    padded(seen) + LANES / 2
}

fn split<const N: usize>(mut memory: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (part, rest) = std::mem::take(&mut memory).split_at_mut(size);
        memory = rest;
        part
    })
}

/// What one place's tiles all read.
#[derive(Clone, Copy)]
struct Factors {
    /// `[D, rows]`
    turned_keys: Panels,
    turned_values: Panels,
    /// `[rows, D]`
    keys: Panels,
}

/// What they write.
struct Memory<'a> {
    /// `[rows, D]`
    dkeys: &'a mut [f32],
    dvalues: &'a mut [f32],
    /// Rows of one tile of each head, one head after the other.
    shares: &'a mut [f32],
    dscores: &'a mut [f32],
    /// `[·, D]`, in the same order.
    queries: &'a mut [f32],
    douts: &'a mut [f32],
}

/// One tile of query rows of some heads: its dq, and what it adds to dk and dv, over the heads' rows as one sum.
fn backward_tile(
    place: Place,
    (first, heads): (usize, Range<usize>),
    saved: Saved<'_>,
    dout: &[f32],
    factors: Factors,
    memory: &mut Memory<'_>,
    dqkv: Disjoint<'_, f32>,
) {
    let (rows, width) = (place.rows, place.heads.width);
    let (tile, seen) = (TILE_ROWS.min(rows - first), rows.min(first + TILE_ROWS));
    let (tall, stride) = (tile * heads.len(), score_stride(seen));
    let Memory { dkeys, dvalues, shares, dscores, queries, douts } = memory;
    let (shares, dscores) = (&mut shares[..tall * stride], &mut dscores[..tall * stride]);
    for (index, head) in heads.clone().enumerate() {
        let part = index * tile * width..(index + 1) * tile * width;
        take_rows(
            &saved.qkv[place.query(first, head)..],
            place.heads.packed_width(),
            width,
            &mut queries[part.clone()],
        );
        take_rows(&dout[place.out(first, head)..], place.heads.query_width(), width, &mut douts[part]);
    }
    let (queries, douts) = (Matrix::rows(queries, width), Matrix::rows(douts, width));
    // SAFETY: all parts lie inside scratch, which holds so many rows.
    unsafe {
        let shape = (tall, seen, width);
        multiply(shape, queries, factors.turned_keys, Write::Overwrite, shares.as_mut_ptr(), stride);
        multiply(shape, douts, factors.turned_values, Write::Overwrite, dscores.as_mut_ptr(), stride);
    }
    let parts = shares.chunks_exact_mut(tile * stride).zip(dscores.chunks_exact_mut(tile * stride));
    for (head, (shares, dscores)) in heads.clone().zip(parts) {
        let (mut lse, mut delta) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
        (0..tile).for_each(|row| lse[row] = saved.lse[place.lse(first + row, head)]);
        let at = place.out(first, head);
        dot_rows(&saved.out[at..], &dout[at..], place.heads.query_width(), width, &mut delta[..tile]);
        softmax_backward(shares, dscores, stride, first + 1, place.scale(), &lse, &delta);
    }
    let (shares, dscores) = (Matrix::rows(shares, stride), Matrix::rows(dscores, stride));
    // SAFETY: as above, and this place alone writes its columns of dqkv.
    unsafe {
        let shape = (seen, width, tall);
        multiply(shape, shares.transposed(), douts, Write::Accumulate, dvalues.as_mut_ptr(), width);
        multiply(shape, dscores.transposed(), queries, Write::Accumulate, dkeys.as_mut_ptr(), width);
        for (index, head) in heads.enumerate() {
            let (part, target) = (dscores.at(index * tile, 0), dqkv.address(place.query(first, head)));
            let packed = place.heads.packed_width();
            multiply((tile, width, seen), part, factors.keys, Write::Overwrite, target, packed);
        }
    }
}

multiversion! {
    /// Rows of `width` floats that lie `stride` floats apart, one behind the other.
    fn take_rows(source: &[f32], stride: usize, width: usize, target: &mut [f32]) {
        for (row, target) in target.chunks_exact_mut(width).enumerate() {
            for (target, source) in target.iter_mut().zip(&source[row * stride..]) {
                *target = *source;
            }
        }
    }
}

multiversion! {
    /// The products of rows of `width` floats that lie `stride` floats apart.
    fn dot_rows(a: &[f32], b: &[f32], stride: usize, width: usize, products: &mut [f32]) {
        for (row, product) in products.iter_mut().enumerate() {
            let part = row * stride..row * stride + width;
            *product = dot(&a[part.clone()], &b[part]);
        }
    }
}

multiversion! {
    /// Scores become probabilities p, and dp becomes the scores' gradient p·(dp − δ)·scale; hidden columns become 0.
    fn softmax_backward(
        scores: &mut [f32],
        dscores: &mut [f32],
        stride: usize,
        visible: usize,
        scale: f32,
        lse: &[f32; TILE_ROWS],
        delta: &[f32; TILE_ROWS],
    ) {
        for (row, (scores, dscores)) in scores.chunks_exact_mut(stride).zip(dscores.chunks_exact_mut(stride)).enumerate() {
            let visible = (visible + row).min(stride);
            let (lse, delta) = (lse[row], delta[row]);
            // Whole chunks, without a rest that would go value by value; what is hidden goes to 0 after.
            let end = visible.next_multiple_of(LANES);
            for (scores, dscores) in scores[..end].chunks_exact_mut(LANES).zip(dscores[..end].chunks_exact_mut(LANES)) {
                for (score, dscore) in scores.iter_mut().zip(dscores) {
                    *score = exp::<M>(*score * scale - lse);
                    *dscore = *score * (*dscore - delta) * scale;
                }
            }
            scores[visible..].fill(0.0);
            dscores[visible..].fill(0.0);
        }
    }
}

//! Attention on the CPU: for each document and key/value head, tiles of query rows against all visible keys.

use std::ops::Range;

use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::parallel::{Disjoint, for_each_task};
use crate::cpu::scratch;
use crate::cpu::simd::{LANES, dot, exp, exp_sum, max, multiversion};
use crate::cpu::transpose::transpose;
use crate::{Heads, Precision, Segments, Stream, Write};

/// Query rows of a tile: two register tiles; more would compute more scores that causality throws away.
const TILE_ROWS: usize = 24;

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
    let (rows, width, packed) = (place.rows, place.heads.width, place.heads.packed_width());
    let wide = padded(rows);
    scratch::with((width + TILE_ROWS) * wide, |memory| {
        let (keys, scores) = memory.split_at_mut(width * wide);
        transpose(&qkv[place.key(0)..], packed, (rows, width), keys, wide);
        for first in (0..rows).step_by(TILE_ROWS) {
            let (tile, seen) = (TILE_ROWS.min(rows - first), rows.min(first + TILE_ROWS));
            let (stride, keys) = (padded(seen), Matrix::rows(keys, wide));
            for head in place.queries() {
                let queries = Matrix::rows(&qkv[place.query(first, head)..], packed);
                let values = Matrix::rows(&qkv[place.value(0)..], packed);
                let scores = &mut scores[..tile * stride];
                // SAFETY: the parts lie inside qkv and scratch; this place alone writes its columns of out and lse.
                unsafe {
                    gemm(
                        (tile, seen, width),
                        Precision::F32,
                        queries,
                        keys,
                        Write::Overwrite,
                        scores.as_mut_ptr(),
                        stride,
                    );
                    let sums = softmax(scores, stride, first + 1, place.scale());
                    (0..tile).for_each(|row| *lse.address(place.lse(first + row, head)) = sums[row]);
                    let (target, scores) = (out.address(place.out(first, head)), Matrix::rows(scores, stride));
                    gemm(
                        (tile, width, seen),
                        Precision::F32,
                        scores,
                        values,
                        Write::Overwrite,
                        target,
                        place.heads.query_width(),
                    );
                }
            }
        }
    });
}

/// Rows of scores hold whole chunks.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

multiversion! {
    /// Turns rows of scores into probabilities and returns each row's log Σ exp(scale · score); row r sees the first
    /// `visible + r` columns, the rest becomes 0.
    pub(super) fn softmax(scores: &mut [f32], stride: usize, visible: usize, scale: f32) -> [f32; TILE_ROWS] {
        let mut lse = [0.0; TILE_ROWS];
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            scores[(visible + row).min(stride)..].fill(f32::NEG_INFINITY);
            let shift = max(scores) * scale;
            let sum = exp_sum(scores, scale, shift);
            let share = 1.0 / sum;
            scores.iter_mut().for_each(|value| *value *= share);
            lse[row] = shift + sum.ln();
        }
        lse
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
    let (rows, width, packed) = (place.rows, place.heads.width, place.heads.packed_width());
    for row in 0..rows {
        // SAFETY: this place alone writes these columns.
        unsafe { dqkv.range(place.key(row)..place.key(row) + width).fill(0.0) };
        // SAFETY: as above.
        unsafe { dqkv.range(place.value(row)..place.value(row) + width).fill(0.0) };
    }
    let wide = padded(rows);
    scratch::with(2 * (width + TILE_ROWS) * wide, |memory| {
        let (keys, memory) = memory.split_at_mut(width * wide);
        let (values, memory) = memory.split_at_mut(width * wide);
        let (shares, dscores) = memory.split_at_mut(TILE_ROWS * wide);
        transpose(&saved.qkv[place.key(0)..], packed, (rows, width), keys, wide);
        transpose(&saved.qkv[place.value(0)..], packed, (rows, width), values, wide);
        let transposed = (Matrix::rows(keys, wide), Matrix::rows(values, wide));
        for first in (0..rows).step_by(TILE_ROWS) {
            for head in place.queries() {
                backward_tile(place, (first, head), saved, dout, transposed, (shares, dscores), dqkv);
            }
        }
    });
}

/// One tile of query rows of one head: its dq, and what it adds to dk and dv.
fn backward_tile(
    place: Place,
    (first, head): (usize, usize),
    saved: Saved<'_>,
    dout: &[f32],
    (keys, values): (Matrix, Matrix),
    (shares, dscores): (&mut [f32], &mut [f32]),
    dqkv: Disjoint<'_, f32>,
) {
    let (rows, width, packed) = (place.rows, place.heads.width, place.heads.packed_width());
    let (tile, seen) = (TILE_ROWS.min(rows - first), rows.min(first + TILE_ROWS));
    let (shares, dscores) = (&mut shares[..tile * seen], &mut dscores[..tile * seen]);
    let queries = Matrix::rows(&saved.qkv[place.query(first, head)..], packed);
    let douts = Matrix::rows(&dout[place.out(first, head)..], place.heads.query_width());
    let (mut lse, mut delta) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
    for row in 0..tile {
        let at = place.out(first + row, head);
        lse[row] = saved.lse[place.lse(first + row, head)];
        delta[row] = dot_rows(&saved.out[at..at + width], &dout[at..at + width]);
    }
    // SAFETY: all parts lie inside qkv, dout and scratch, and this place alone writes its columns of dqkv.
    unsafe {
        gemm((tile, seen, width), Precision::F32, queries, keys, Write::Overwrite, shares.as_mut_ptr(), seen);
        gemm((tile, seen, width), Precision::F32, douts, values, Write::Overwrite, dscores.as_mut_ptr(), seen);
        softmax_backward(shares, dscores, seen, first + 1, place.scale(), &lse, &delta);
        let (shares, dscores) = (Matrix::rows(shares, seen), Matrix::rows(dscores, seen));
        let add = |factor: Matrix, other: Matrix, at: usize| {
            gemm(
                (seen, width, tile),
                Precision::F32,
                factor.transposed(),
                other,
                Write::Accumulate,
                dqkv.address(at),
                packed,
            )
        };
        add(shares, douts, place.value(0));
        add(dscores, queries, place.key(0));
        let target = dqkv.address(place.query(first, head));
        gemm(
            (tile, width, seen),
            Precision::F32,
            dscores,
            Matrix::rows(&saved.qkv[place.key(0)..], packed),
            Write::Overwrite,
            target,
            packed,
        );
    }
}

multiversion! {
    fn dot_rows(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
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
            for (score, dscore) in scores[..visible].iter_mut().zip(&mut dscores[..visible]) {
                *score = exp(*score * scale - lse);
                *dscore = *score * (*dscore - delta) * scale;
            }
            scores[visible..].fill(0.0);
            dscores[visible..].fill(0.0);
        }
    }
}

//! The fused head on the CPU: logits live as one tile of rows by one piece of the vocabulary.

use std::ops::Range;

use super::{EntropyGradient, Head};
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::parallel::{Disjoint, for_each_task};
use crate::cpu::scratch;
use crate::cpu::simd::{exp, multiversion};
use crate::cpu::softmax::{PIECE, RunningSoftmax};
use crate::matmul::cpu::product;
use crate::{Stream, Write};

/// Rows of a tile.
const TILE_ROWS: usize = 96;
/// Rows whose gradients of logits exist at once in backward: enough to keep all threads busy.
const BLOCK_ROWS: usize = 1024;

/// Where forward writes.
pub(super) struct Outputs<'a> {
    pub logp: &'a mut [f32],
    pub lse: &'a mut [f32],
    pub entropy: Option<&'a mut [f32]>,
}

/// What backward knows of each row.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub targets: &'a [u32],
    pub lse: &'a [f32],
    pub dlogp: &'a [f32],
    pub entropy: Option<EntropyGradient<'a>>,
}

/// Calls `task` with tiles of rows.
fn for_each_tile(stream: &Stream, head: Head, rows: Range<usize>, task: impl Fn(Range<usize>) + Sync + Send) {
    let work = 2 * rows.len() * head.vocabulary * head.width;
    for_each_task(stream, rows.len().div_ceil(TILE_ROWS), work, |tile| {
        let first = rows.start + tile * TILE_ROWS;
        task(first..rows.end.min(first + TILE_ROWS));
    });
}

pub(super) fn forward(
    stream: &Stream,
    head: Head,
    hidden: &[f32],
    weight: &[f32],
    targets: &[u32],
    outputs: Outputs<'_>,
) {
    let (logp, lse) = (Disjoint::new(outputs.logp), Disjoint::new(outputs.lse));
    let entropy = outputs.entropy.map(Disjoint::new);
    for_each_tile(stream, head, 0..targets.len(), |rows| {
        // SAFETY: tiles are disjoint.
        let (logp, lse) = unsafe { (logp.range(rows.clone()), lse.range(rows.clone())) };
        // SAFETY: as above.
        let entropy = entropy.map(|entropy| unsafe { entropy.range(rows.clone()) });
        let part = &hidden[rows.start * head.width..rows.end * head.width];
        forward_tile(head, part, weight, &targets[rows], Outputs { logp, lse, entropy });
    });
}

fn forward_tile(head: Head, hidden: &[f32], weight: &[f32], targets: &[u32], outputs: Outputs<'_>) {
    let (rows, scale) = (targets.len(), 1.0 / head.temperature);
    let mut running = vec![RunningSoftmax::new(); rows];
    scratch::with(rows * PIECE.min(head.vocabulary), |logits| {
        for first in (0..head.vocabulary).step_by(PIECE) {
            let columns = PIECE.min(head.vocabulary - first);
            let factor = Matrix::rows(&weight[first * head.width..], head.width).transposed();
            let shape = (rows, columns, head.width);
            // SAFETY: the parts lie inside hidden, weight and scratch.
            unsafe {
                gemm(shape, Matrix::rows(hidden, head.width), factor, Write::Overwrite, logits.as_mut_ptr(), columns)
            };
            for (row, logits) in logits.chunks_exact(columns).take(rows).enumerate() {
                running[row].push(logits, scale);
                if let Some(logit) = (targets[row] as usize).checked_sub(first).and_then(|column| logits.get(column)) {
                    outputs.logp[row] = *logit * scale;
                }
            }
        }
    });
    for (row, running) in running.iter().enumerate() {
        assert!((targets[row] as usize) < head.vocabulary, "logprob: target `{}` past the vocabulary", targets[row]);
        outputs.lse[row] = running.log_sum_exp();
        outputs.logp[row] -= outputs.lse[row];
    }
    for (entropy, running) in outputs.entropy.into_iter().flatten().zip(&running) {
        *entropy = running.entropy();
    }
}

pub(super) fn backward(
    stream: &Stream,
    head: Head,
    hidden: &[f32],
    weight: &[f32],
    saved: Saved<'_>,
    dhidden: &mut [f32],
    mut dweight: Option<&mut [f32]>,
) {
    let (rows, width) = (saved.targets.len(), head.width);
    let mut dlogits = vec![0.0f32; rows.min(BLOCK_ROWS) * PIECE.min(head.vocabulary)];
    for block in (0..rows).step_by(BLOCK_ROWS) {
        let block = block..rows.min(block + BLOCK_ROWS);
        let part = block.start * width..block.end * width;
        for first in (0..head.vocabulary).step_by(PIECE) {
            let piece = first..head.vocabulary.min(first + PIECE);
            let (m, columns) = (block.len(), piece.len());
            let dlogits = &mut dlogits[..m * columns];
            logit_gradients(stream, head, hidden, weight, saved, (block.clone(), piece.clone()), dlogits);
            let gradients = Matrix::rows(dlogits, columns);
            let weight = &weight[first * width..];
            let write = if first == 0 { Write::Overwrite } else { Write::Accumulate };
            let target = &mut dhidden[part.clone()];
            product(stream, (m, width, columns), gradients, Matrix::rows(weight, width), write, target, width);
            if let Some(dweight) = &mut dweight {
                let target = &mut dweight[first * width..piece.end * width];
                let rows = Matrix::rows(&hidden[part.clone()], width);
                product(stream, (columns, width, m), gradients.transposed(), rows, Write::Accumulate, target, width);
            }
        }
    }
}

/// dlogits of a block of rows by a piece of the vocabulary, computed again from hidden and weight.
fn logit_gradients(
    stream: &Stream,
    head: Head,
    hidden: &[f32],
    weight: &[f32],
    saved: Saved<'_>,
    (block, piece): (Range<usize>, Range<usize>),
    dlogits: &mut [f32],
) {
    let (columns, width, start) = (piece.len(), head.width, block.start);
    let target = Disjoint::new(dlogits);
    for_each_tile(stream, head, block, |rows| {
        // SAFETY: tiles are disjoint.
        let tile = unsafe { target.range((rows.start - start) * columns..(rows.end - start) * columns) };
        let part = Matrix::rows(&hidden[rows.start * width..], width);
        let factor = Matrix::rows(&weight[piece.start * width..], width).transposed();
        // SAFETY: the parts lie inside hidden, weight and the tile.
        unsafe { gemm((rows.len(), columns, width), part, factor, Write::Overwrite, tile.as_mut_ptr(), columns) };
        for (row, logits) in rows.zip(tile.chunks_exact_mut(columns)) {
            row_gradients(head, saved, row, piece.start, logits);
        }
    });
}

/// Turns one row's logits of a piece into their gradients.
fn row_gradients(head: Head, saved: Saved<'_>, row: usize, first: usize, logits: &mut [f32]) {
    let scale = 1.0 / head.temperature;
    let (lse, dlogp) = (saved.lse[row], saved.dlogp[row] * scale);
    match saved.entropy {
        None => softmax_gradient(logits, scale, lse, dlogp),
        Some(entropy) => {
            let (value, gradient) = (entropy.entropy.host()[row], entropy.dentropy.host()[row] * scale);
            entropy_gradient(logits, scale, lse, dlogp, value, gradient);
        }
    }
    let target = (saved.targets[row] as usize).checked_sub(first);
    if let Some(logit) = target.and_then(|column| logits.get_mut(column)) {
        *logit += dlogp;
    }
}

multiversion! {
    fn softmax_gradient(logits: &mut [f32], scale: f32, lse: f32, dlogp: f32) {
        for logit in logits {
            *logit = -dlogp * exp(*logit * scale - lse);
        }
    }
}

multiversion! {
    fn entropy_gradient(logits: &mut [f32], scale: f32, lse: f32, dlogp: f32, entropy: f32, dentropy: f32) {
        for logit in logits {
            let log_share = *logit * scale - lse;
            let share = exp(log_share);
            // A share of 0 has no gradient; its logarithm may be infinite.
            let slope = if share > 0.0 { log_share + entropy } else { 0.0 };
            *logit = -share * (dlogp + dentropy * slope);
        }
    }
}

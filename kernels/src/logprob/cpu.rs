//! The fused head on the CPU: logits live as one tile of rows by one piece of the vocabulary.

use std::ops::Range;

use super::{EntropyGradient, Head};
use crate::cpu::gemm::{Matrix, gemm, shared};
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

pub(super) fn forward(
    stream: &Stream,
    head: Head,
    hidden: &[f32],
    weight: &[f32],
    targets: &[u32],
    outputs: Outputs<'_>,
) {
    let mut running = vec![RunningSoftmax::new(); targets.len()];
    for piece in pieces(head) {
        let (states, logp) = (Disjoint::new(&mut running), Disjoint::new(&mut *outputs.logp));
        for_each_tile_of_logits(
            stream,
            head,
            hidden,
            weight,
            (0..targets.len(), piece.clone()),
            None,
            |rows, logits| {
                // SAFETY: tiles are disjoint.
                let (states, logp) = unsafe { (states.range(rows.clone()), logp.range(rows.clone())) };
                forward_tile(head, piece.start, logits, &targets[rows], states, logp);
            },
        );
    }
    for (row, running) in running.iter().enumerate() {
        assert!((targets[row] as usize) < head.vocabulary, "logprob: target `{}` past the vocabulary", targets[row]);
        outputs.lse[row] = running.log_sum_exp();
        outputs.logp[row] -= outputs.lse[row];
    }
    for (entropy, running) in outputs.entropy.into_iter().flatten().zip(&running) {
        *entropy = running.entropy();
    }
}

fn pieces(head: Head) -> impl Iterator<Item = Range<usize>> {
    (0..head.vocabulary).step_by(PIECE).map(move |first| first..head.vocabulary.min(first + PIECE))
}

/// Calls `task` with the logits of tiles of rows by one piece of the vocabulary; they stay in `kept` where that is given.
fn for_each_tile_of_logits(
    stream: &Stream,
    head: Head,
    hidden: &[f32],
    weight: &[f32],
    (rows, piece): (Range<usize>, Range<usize>),
    kept: Option<Disjoint<f32>>,
    task: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) {
    let (columns, width) = (piece.len(), head.width);
    let factor = Matrix::rows(&weight[piece.start * width..piece.end * width], width).transposed();
    let (tiles, precision) = (rows.len().div_ceil(TILE_ROWS), stream.device().precision());
    // SAFETY: the factor has the weights of the piece.
    unsafe {
        shared(stream, factor, (width, columns), tiles > 1, |factor| {
            for_each_task(stream, tiles, 2 * rows.len() * columns * width, |tile| {
                let (first, start) = (rows.start + tile * TILE_ROWS, tile * TILE_ROWS * columns);
                let rows = first..rows.end.min(first + TILE_ROWS);
                let len = rows.len() * columns;
                let work = |logits: &mut [f32]| {
                    let (shape, part) = ((rows.len(), columns, width), Matrix::rows(&hidden[first * width..], width));
                    // SAFETY: the parts lie inside hidden, the factor and the tile.
                    gemm(shape, precision, part, factor, Write::Overwrite, logits.as_mut_ptr(), columns);
                    task(rows, logits);
                };
                match kept {
                    // SAFETY: tiles are disjoint.
                    Some(kept) => work(kept.range(start..start + len)),
                    None => scratch::with(len, work),
                }
            });
        });
    }
}

fn forward_tile(
    head: Head,
    first: usize,
    logits: &[f32],
    targets: &[u32],
    states: &mut [RunningSoftmax],
    logp: &mut [f32],
) {
    let (scale, columns) = (1.0 / head.temperature, logits.len() / targets.len());
    for (row, logits) in logits.chunks_exact(columns).enumerate() {
        states[row].push(logits, scale);
        if let Some(logit) = (targets[row] as usize).checked_sub(first).and_then(|column| logits.get(column)) {
            logp[row] = *logit * scale;
        }
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
        for piece in pieces(head) {
            let (first, m, columns) = (piece.start, block.len(), piece.len());
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
    let (columns, first) = (piece.len(), piece.start);
    let kept = Some(Disjoint::new(dlogits));
    for_each_tile_of_logits(stream, head, hidden, weight, (block, piece), kept, |rows, logits| {
        for (row, logits) in rows.zip(logits.chunks_exact_mut(columns)) {
            row_gradients(head, saved, row, first, logits);
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
            *logit = -dlogp * exp::<M>(*logit * scale - lse);
        }
    }
}

multiversion! {
    fn entropy_gradient(logits: &mut [f32], scale: f32, lse: f32, dlogp: f32, entropy: f32, dentropy: f32) {
        for logit in logits {
            let log_share = *logit * scale - lse;
            let share = exp::<M>(log_share);
            // A share of 0 has no gradient; its logarithm may be infinite.
            let slope = if share > 0.0 { log_share + entropy } else { 0.0 };
            *logit = -share * (dlogp + dentropy * slope);
        }
    }
}

//! PPO's losses on an accelerator: rows of partial sums come back, and are added up in their order.

use super::{Clip, PolicyLoss, ValueLoss};
use crate::accelerator::{Grid, Kernel, Source, arguments, narrow};
use crate::{Buffer, Segments, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("ppo", include_str!("ppo.cu")).including(&[crate::accelerator::PACKS]);
static POLICY_LOSS: Kernel = Kernel::new(&SOURCE, "ppo_policy_loss");
static ANSWER_LOSS: Kernel = Kernel::new(&SOURCE, "ppo_answer_loss");
static KL_LOSS: Kernel = Kernel::new(&SOURCE, "ppo_kl_loss");
static VALUE_LOSS: Kernel = Kernel::new(&SOURCE, "ppo_value_loss");

/// Tokens of a block.
const TOKENS: usize = 256;
/// Answers of a block, one a warp.
const ANSWERS: usize = 4;

pub(super) fn policy_loss(
    stream: &Stream,
    clip: Clip,
    [logp, old_logp, advantages, weights]: [View<'_, f32>; 4],
    dlogp: ViewMut<'_, f32>,
) -> PolicyLoss {
    let (len, grid) = over_tokens(&logp);
    let mut partial = stream.workspace(5 * grid.blocks[0] as usize);
    let sums = partial.view_mut();
    let arguments = arguments![logp, old_logp, advantages, weights, dlogp, sums, len, clip.low, clip.high];
    POLICY_LOSS.launch(stream, grid, arguments);
    policy_sums(stream, &partial)
}

pub(super) fn answer_loss(
    stream: &Stream,
    clip: Clip,
    answers: &Segments,
    [logp, old_logp, advantages, weights]: [View<'_, f32>; 4],
    dlogp: ViewMut<'_, f32>,
) -> PolicyLoss {
    let (count, Clip { low, high }) = (answers.len(), clip);
    let mut partial = stream.workspace(5 * count);
    let (offsets, sums) = (answers.offsets(), partial.view_mut());
    let arguments = arguments![offsets, logp, old_logp, advantages, weights, dlogp, sums, narrow(count), low, high];
    ANSWER_LOSS.launch(stream, Grid::blocks(count.div_ceil(ANSWERS), 32 * ANSWERS as u32), arguments);
    policy_sums(stream, &partial)
}

pub(super) fn kl_loss(
    stream: &Stream,
    beta: f32,
    [logp, reference, weights]: [View<'_, f32>; 3],
    dlogp: ViewMut<'_, f32>,
) -> f64 {
    let (len, grid) = over_tokens(&logp);
    let mut partial = stream.workspace::<f64>(grid.blocks[0] as usize);
    KL_LOSS.launch(stream, grid, arguments![logp, reference, weights, dlogp, partial.view_mut(), len, beta]);
    stream.download(partial.view()).iter().sum()
}

pub(super) fn value_loss(
    stream: &Stream,
    clip: f32,
    [values, old_values, returns, weights]: [View<'_, f32>; 4],
    dvalues: ViewMut<'_, f32>,
) -> ValueLoss {
    let (len, grid) = over_tokens(&values);
    let mut partial = stream.workspace::<f64>(3 * grid.blocks[0] as usize);
    let sums = partial.view_mut();
    VALUE_LOSS.launch(stream, grid, arguments![values, old_values, returns, weights, dvalues, sums, len, clip]);
    let mut total = ValueLoss::default();
    for row in stream.download(partial.view()).chunks(3) {
        total.loss += row[0];
        total.clipped += row[1];
        total.weight += row[2];
    }
    total
}

fn over_tokens(view: &View<'_, f32>) -> (usize, Grid) {
    (view.len(), Grid::over(view.len(), TOKENS as u32))
}

/// Adds up rows of (loss, clipped, kl, weight, largest ratio).
fn policy_sums(stream: &Stream, partial: &Buffer<f64>) -> PolicyLoss {
    let mut total = PolicyLoss::default();
    for row in stream.download(partial.view()).chunks(5) {
        total.loss += row[0];
        total.clipped += row[1];
        total.kl += row[2];
        total.weight += row[3];
        total.ratio_max = total.ratio_max.max(row[4]);
    }
    total
}

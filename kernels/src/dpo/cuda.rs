//! The preference loss on an accelerator: a row of sums a pair comes back, and is added up in order.

use super::{DpoLoss, Preference};
use crate::accelerator::{Grid, Kernel, Source, arguments, narrow};
use crate::{Segments, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("dpo", include_str!("dpo.cu"));
static LOSS: Kernel = Kernel::new(&SOURCE, "dpo_loss");

/// Pairs of a block, one a warp.
const PAIRS: usize = 4;

pub(super) fn loss(
    stream: &Stream,
    preference: Preference,
    answers: &Segments,
    [logp, reference]: [View<'_, f32>; 2],
    weight: f32,
    dlogp: ViewMut<'_, f32>,
) -> DpoLoss {
    let (pairs, Preference { beta, smoothing }) = (answers.len() / 2, preference);
    let mut partial = stream.workspace::<f64>(4 * pairs);
    let (offsets, sums) = (answers.offsets(), partial.view_mut());
    let arguments = arguments![offsets, logp, reference, dlogp, sums, narrow(pairs), beta, smoothing, weight];
    LOSS.launch(stream, Grid::blocks(pairs.div_ceil(PAIRS), 32 * PAIRS as u32), arguments);
    let mut total = DpoLoss::default();
    for row in stream.download(partial.view()).chunks(4) {
        total.loss += row[0];
        total.chosen += row[1];
        total.rejected += row[2];
        total.right += row[3];
    }
    total
}

//! The reverse scan on an accelerator.

use super::Discounts;
use crate::accelerator::{Grid, Kernel, Source, arguments, narrow};
use crate::{Segments, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("gae", include_str!("gae.cu"));
static FORWARD: Kernel = Kernel::new(&SOURCE, "gae_forward");

/// Segments of a block, one a warp.
const SEGMENTS: usize = 4;

pub(super) fn forward(
    stream: &Stream,
    discounts: Discounts,
    segments: &Segments,
    rewards: View<'_, f32>,
    values: View<'_, f32>,
    advantages: ViewMut<'_, f32>,
    returns: ViewMut<'_, f32>,
) {
    let (count, Discounts { gamma, lambda }) = (segments.len(), discounts);
    let grid = Grid::blocks(count.div_ceil(SEGMENTS), 32 * SEGMENTS as u32);
    let offsets = segments.offsets();
    let arguments = arguments![offsets, rewards, values, advantages, returns, narrow(count), gamma, lambda];
    FORWARD.launch(stream, grid, arguments);
}

//! Elementwise sums and products on an accelerator: a thread a number.

use crate::accelerator::{Grid, Kernel, Source, arguments};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("elementwise", include_str!("elementwise.cu"));
static ADD: Kernel = Kernel::new(&SOURCE, "elementwise_add");
static SCALE: Kernel = Kernel::new(&SOURCE, "elementwise_scale");

const THREADS: u32 = 256;

pub(super) fn add(stream: &Stream, source: View<'_, f32>, target: ViewMut<'_, f32>) {
    let len = target.len();
    ADD.launch(stream, Grid::over(len, THREADS), arguments![source, target, len]);
}

pub(super) fn scale(stream: &Stream, factor: f32, target: ViewMut<'_, f32>) {
    let len = target.len();
    SCALE.launch(stream, Grid::over(len, THREADS), arguments![target, len, factor]);
}

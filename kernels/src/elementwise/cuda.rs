//! Elementwise sums and products on an accelerator.

use crate::accelerator::{Pack, PackedKernel, Source, arguments};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("elementwise", include_str!("elementwise.cu")).including(&[crate::accelerator::PACKS]);
static ADD: PackedKernel = PackedKernel::new(&SOURCE, "elementwise_add_4", "elementwise_add_1");
pub(crate) static SCALE: PackedKernel = PackedKernel::new(&SOURCE, "elementwise_scale_4", "elementwise_scale_1");

pub(super) fn add(stream: &Stream, source: View<'_, f32>, target: ViewMut<'_, f32>) {
    let (len, pack) = (target.len(), Pack::of(&[], &[source.address(), target.view().address()]));
    ADD.of(pack).launch(stream, pack.over(len), arguments![source, target, len]);
}

pub(super) fn scale(stream: &Stream, factor: f32, target: ViewMut<'_, f32>) {
    let (len, pack) = (target.len(), Pack::of(&[], &[target.view().address()]));
    SCALE.of(pack).launch(stream, pack.over(len), arguments![target, len, factor]);
}

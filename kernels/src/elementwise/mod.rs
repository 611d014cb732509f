//! Elementwise sums and products, whatever the shape.

mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut};

/// target += source; both of one length. The residual stream of a decoder.
pub fn add(stream: &Stream, source: View<'_, f32>, target: ViewMut<'_, f32>) {
    assert_eq!(source.len(), target.len(), "add: lengths differ");
    if stream.is_accelerated() {
        return cuda::add(stream, source, target);
    }
    cpu::add(stream, source.host(), target.host());
}

/// target *= factor.
pub fn scale(stream: &Stream, factor: f32, target: ViewMut<'_, f32>) {
    if stream.is_accelerated() {
        return cuda::scale(stream, factor, target);
    }
    cpu::scale(stream, factor, target.host());
}

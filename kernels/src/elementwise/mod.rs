//! Elementwise sums and products, whatever the shape.

mod cpu;

use crate::{Stream, View, ViewMut};

/// target += source; both of one length. The residual stream of a decoder.
pub fn add(stream: &Stream, source: View<'_, f32>, target: ViewMut<'_, f32>) {
    assert_eq!(source.len(), target.len(), "add: lengths differ");
    cpu::add(stream, source.host(), target.host());
}

/// target *= factor.
pub fn scale(stream: &Stream, factor: f32, target: ViewMut<'_, f32>) {
    cpu::scale(stream, factor, target.host());
}

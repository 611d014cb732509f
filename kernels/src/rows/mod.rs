//! Picks rows of a matrix and adds rows back: the positions whose loss counts.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Stream, View, ViewMut};

/// out`[N, d]`: row n is source`[T, d]`'s row `indices[n]`. An index past the last row is our mistake and panics.
pub fn gather(stream: &Stream, width: usize, source: View<'_, f32>, indices: View<'_, u32>, out: ViewMut<'_, f32>) {
    assert_eq!(out.len(), indices.len() * width, "gather: out is not {} × {width}", indices.len());
    if stream.is_accelerated() {
        return cuda::gather(stream, width, source, indices, out);
    }
    cpu::gather(stream, width, source.host(), indices.host(), out.host());
}

/// target`[T, d]`: row `indices[n]` += source`[N, d]`'s row n. Equal indices add in the order of n.
pub fn scatter_add(
    stream: &Stream,
    width: usize,
    source: View<'_, f32>,
    indices: View<'_, u32>,
    target: ViewMut<'_, f32>,
) {
    assert_eq!(source.len(), indices.len() * width, "scatter: source is not {} × {width}", indices.len());
    if stream.is_accelerated() {
        return cuda::scatter_add(stream, width, source, indices, target);
    }
    cpu::scatter_add(stream, width, source.host(), indices.host(), target.host());
}

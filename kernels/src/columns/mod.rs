//! Parts of a matrix's columns, scaled: what an adapter of one part of a fused projection adds, and what comes back to it.

mod cpu;
pub(crate) mod cuda;

use std::ops::Range;

use crate::{Stream, View, ViewMut};

/// target`[T, n]`: its columns `columns` += factor · source`[T, columns.len()]`.
pub fn add(
    stream: &Stream,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    source: View<'_, f32>,
    target: ViewMut<'_, f32>,
) {
    check(width, &columns, target.len(), source.len());
    if stream.is_accelerated() {
        return cuda::add(stream, width, columns, factor, source, target);
    }
    cpu::add(stream, width, columns, factor, source.host(), target.host());
}

/// out`[T, columns.len()]` = factor · those columns of source`[T, n]`.
pub fn take(
    stream: &Stream,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    source: View<'_, f32>,
    out: ViewMut<'_, f32>,
) {
    check(width, &columns, source.len(), out.len());
    if stream.is_accelerated() {
        return cuda::take(stream, width, columns, factor, source, out);
    }
    cpu::take(stream, width, columns, factor, source.host(), out.host());
}

fn check(width: usize, columns: &Range<usize>, whole: usize, part: usize) {
    assert!(columns.start < columns.end && columns.end <= width, "columns: {columns:?} are not among {width}");
    assert_eq!(whole * columns.len(), part * width, "columns: the matrices differ in rows");
}

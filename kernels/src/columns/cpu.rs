//! Parts of columns on the CPU.

use std::ops::Range;

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{add_scaled, multiversion};

multiversion! {
    fn add_row(target: &mut [f32], factor: f32, source: &[f32]) {
        add_scaled(target, factor, source);
    }
}

multiversion! {
    fn take_row(out: &mut [f32], factor: f32, source: &[f32]) {
        for (out, source) in out.iter_mut().zip(source) {
            *out = factor * source;
        }
    }
}

pub(super) fn add(
    stream: &Stream,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    source: &[f32],
    target: &mut [f32],
) {
    let target = Disjoint::new(target);
    for_each_rows(stream, source.len() / columns.len(), columns.len(), |rows| {
        for row in rows {
            // SAFETY: rows are disjoint.
            let part = unsafe { target.range(row * width + columns.start..row * width + columns.end) };
            add_row(part, factor, &source[row * columns.len()..(row + 1) * columns.len()]);
        }
    });
}

pub(super) fn take(stream: &Stream, width: usize, columns: Range<usize>, factor: f32, source: &[f32], out: &mut [f32]) {
    let rows = out.len() / columns.len();
    let out = Disjoint::new(out);
    for_each_rows(stream, rows, columns.len(), |rows| {
        for row in rows {
            // SAFETY: rows are disjoint.
            let part = unsafe { out.range(row * columns.len()..(row + 1) * columns.len()) };
            take_row(part, factor, &source[row * width + columns.start..row * width + columns.end]);
        }
    });
}

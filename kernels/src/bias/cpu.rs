//! Row sums and broadcasts on the CPU.

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{add_scaled, multiversion};
use crate::cpu::sums::ColumnSums;

multiversion! {
    fn add_to_rows(target: &mut [f32], bias: &[f32]) {
        for row in target.chunks_exact_mut(bias.len()) {
            add_scaled(row, 1.0, bias);
        }
    }
}

pub(super) fn add(stream: &Stream, bias: &[f32], target: &mut [f32]) {
    let width = bias.len();
    let rows = target.len().checked_div(width).unwrap_or(0);
    let target = Disjoint::new(target);
    for_each_rows(stream, rows, width, |range| {
        // SAFETY: ranges of tasks are disjoint.
        add_to_rows(unsafe { target.range(range.start * width..range.end * width) }, bias);
    });
}

pub(super) fn backward(stream: &Stream, dout: &[f32], dbias: &mut [f32]) {
    let width = dbias.len();
    let rows = dout.len().checked_div(width).unwrap_or(0);
    let term = |row: usize, sums: &mut [f32]| add_row(sums, &dout[row * width..(row + 1) * width]);
    ColumnSums { rows, width }.add_to(stream, dbias, term);
}

multiversion! {
    fn add_row(sums: &mut [f32], row: &[f32]) {
        add_scaled(sums, 1.0, row);
    }
}

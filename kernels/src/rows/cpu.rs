//! Row copies and sums on the CPU.

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows, for_each_task};
use crate::cpu::simd::{add_scaled, multiversion};

/// Columns of a task of [`scatter_add`]: whole cache lines.
const TASK_COLUMNS: usize = 64;

pub(crate) fn gather(stream: &Stream, width: usize, source: &[f32], indices: &[u32], out: &mut [f32]) {
    let out = Disjoint::new(out);
    for_each_rows(stream, indices.len(), width, |range| {
        for n in range {
            let from = indices[n] as usize * width;
            // SAFETY: rows of out are disjoint.
            unsafe { out.range(n * width..(n + 1) * width) }.copy_from_slice(&source[from..from + width]);
        }
    });
}

/// Each task owns some columns and takes the rows in order: equal rows always add up in one order.
pub(crate) fn scatter_add(stream: &Stream, width: usize, source: &[f32], indices: &[u32], target: &mut [f32]) {
    let target = Disjoint::new(target);
    for_each_task(stream, width.div_ceil(TASK_COLUMNS), source.len(), |task| {
        let (first, last) = (task * TASK_COLUMNS, width.min((task + 1) * TASK_COLUMNS));
        for (n, &row) in indices.iter().enumerate() {
            let row = row as usize * width;
            // SAFETY: columns of tasks are disjoint.
            add_row(unsafe { target.range(row + first..row + last) }, &source[n * width + first..n * width + last]);
        }
    });
}

multiversion! {
    fn add_row(target: &mut [f32], source: &[f32]) {
        add_scaled(target, 1.0, source);
    }
}

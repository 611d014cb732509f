//! Sums over rows: blocks of rows in f32, blocks together in f64, in one order.

use super::parallel::{Disjoint, for_each_task};
use crate::Stream;

/// Rows whose sum stays in f32: short enough for rounding not to matter.
const BLOCK_ROWS: usize = 64;

/// A sum over `rows` of vectors of `width`.
pub(crate) struct ColumnSums {
    pub rows: usize,
    pub width: usize,
}

impl ColumnSums {
    /// target`[width]` += Σ over rows; `term(row, sums)` adds one row to `sums`.
    pub(crate) fn add_to(&self, stream: &Stream, target: &mut [f32], term: impl Fn(usize, &mut [f32]) + Sync + Send) {
        let blocks = self.rows.div_ceil(BLOCK_ROWS);
        let mut partial = vec![0.0f32; blocks * self.width];
        let partials = Disjoint::new(&mut partial);
        for_each_task(stream, blocks, 2 * self.rows * self.width, |block| {
            // SAFETY: blocks are disjoint.
            let sums = unsafe { partials.range(block * self.width..(block + 1) * self.width) };
            (block * BLOCK_ROWS..self.rows.min((block + 1) * BLOCK_ROWS)).for_each(|row| term(row, sums));
        });
        for (column, target) in target.iter_mut().enumerate() {
            let total: f64 = (0..blocks).map(|block| f64::from(partial[block * self.width + column])).sum();
            *target = (f64::from(*target) + total) as f32;
        }
    }
}

//! Dense products on the CPU: tiles of C by shape alone, each on one thread.

use super::{Layout, Write};
use crate::Stream;
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::parallel::{Disjoint, for_each_task};

/// Rows of a task: enough that copying B into panels costs little beside using them.
const TASK_ROWS: usize = 192;
/// Columns of a task; where there are many, enough that copying A into tiles costs little as well.
const TASK_COLUMNS: usize = 64;
const TASK_COLUMNS_OF_MANY: usize = 256;

pub(super) fn matmul(
    stream: &Stream,
    layout: Layout,
    shape: (usize, usize, usize),
    a: &[f32],
    b: &[f32],
    write: Write,
    c: &mut [f32],
) {
    let (m, n, k) = shape;
    let a = if layout == Layout::Tn { Matrix::rows(a, m).transposed() } else { Matrix::rows(a, k) };
    let b = if layout == Layout::Nt { Matrix::rows(b, k).transposed() } else { Matrix::rows(b, n) };
    product(stream, shape, a, b, write, c, n);
}

/// C (= | +=) A·B for strided A and B; rows of C are `stride` floats apart.
pub(crate) fn product(
    stream: &Stream,
    (m, n, k): (usize, usize, usize),
    a: Matrix,
    b: Matrix,
    write: Write,
    c: &mut [f32],
    stride: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride && (m - 1) * stride + n <= c.len());
    let c = Disjoint::new(c);
    let wide = if n >= TASK_COLUMNS_OF_MANY { TASK_COLUMNS_OF_MANY } else { TASK_COLUMNS };
    let (down, across) = (m.div_ceil(TASK_ROWS), n.div_ceil(wide));
    for_each_task(stream, down * across, 2 * m * n * k, |task| {
        let (row, column) = (task / across * TASK_ROWS, task % across * wide);
        let part = (TASK_ROWS.min(m - row), wide.min(n - column), k);
        // SAFETY: callers checked A and B against the shape, C is checked above, tiles of C are disjoint.
        unsafe { gemm(part, a.at(row, 0), b.at(0, column), write, c.address(row * stride + column), stride) }
    });
}

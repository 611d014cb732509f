//! Dense products on the CPU: tiles of C by shape alone, each on one thread.

use super::{Layout, Write};
use crate::Stream;
use crate::cpu::gemm::{self, Factor, Matrix, Panels, Shape, gemm, pack_panels, shared};
use crate::cpu::parallel::{Disjoint, for_each_task};

/// Rows of a task, about: enough that copying B into panels costs little beside using them.
const TASK_ROWS: usize = 192;
/// Columns of a task; where there are many, enough that copying A into tiles costs little as well.
const TASK_COLUMNS: usize = 64;
const TASK_COLUMNS_OF_MANY: usize = 256;
/// From this many operations on B is copied once for all tasks.
const WORTH_SHARING: usize = 40_000_000;
/// Fewer rows than this make too little use of a panel.
const ROWS_LEAST: usize = 96;
/// Rows of the register tile are a divisor of this on every processor.
const TILE_ROWS: usize = 12;
/// Tasks for each thread: how evenly they can be dealt out.
const TASKS_PER_THREAD: usize = 4;

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

pub(super) fn prepare(stream: &Stream, (n, k): (usize, usize), weight: &[f32], panels: &mut [f32]) {
    // SAFETY: the caller checked the weights against the shape.
    unsafe { pack_panels(stream, Matrix::rows(weight, k).transposed(), (k, n), panels) };
}

pub(super) fn matmul_prepared(
    stream: &Stream,
    (m, n, k): Shape,
    a: &[f32],
    panels: &[f32],
    write: Write,
    c: &mut [f32],
) {
    if m == 0 || n == 0 {
        return;
    }
    let cut = Cut::of_prepared((m, n, k), stream.device().threads());
    let (a, panels, c) = (Matrix::rows(a, k), Panels::new(panels, k, n), Disjoint::new(c));
    by_tasks(stream, (m, n, k), cut, a, panels.into(), write, c, n);
}

/// Floats of scratch that a product takes at most: on the thread that begins it, and on each that takes part.
pub(super) fn scratch_floats((m, n, k): Shape, threads: usize) -> (usize, usize) {
    let cut = Cut::new((m, n, k), threads);
    (if cut.is_large { Panels::len(k, n) } else { 0 }, gemm::scratch_floats(cut.rows.min(m), k))
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
    let cut = Cut::new((m, n, k), stream.device().threads());
    let uses = if cut.is_large { m.div_ceil(cut.rows) } else { 1 };
    // SAFETY: callers checked B against the shape.
    unsafe { shared(stream, b, (k, n), uses, |b| by_tasks(stream, (m, n, k), cut, a, b, write, c, stride)) };
}

/// How a product is cut into tasks. No element's sum depends on it.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    columns: usize,
    is_large: bool,
}

impl Cut {
    fn new((m, n, k): Shape, threads: usize) -> Cut {
        let parts = m.div_ceil(TASK_ROWS).max(1);
        if m < 2 * TASK_ROWS || 2 * m * n * k < WORTH_SHARING {
            let columns = if n >= TASK_COLUMNS_OF_MANY { TASK_COLUMNS_OF_MANY } else { TASK_COLUMNS };
            return Cut { rows: even(m, parts), columns, is_large: false };
        }
        let wanted = TASKS_PER_THREAD * threads;
        let rows = even(m, parts.max(wanted.min(m / ROWS_LEAST)));
        let across = wanted.div_ceil(m.div_ceil(rows)).clamp(1, n.div_ceil(TASK_COLUMNS_OF_MANY));
        Cut { rows, columns: n.div_ceil(across).next_multiple_of(32), is_large: true }
    }

    /// Where B needs no copies, columns are cut as evenly as may be.
    fn of_prepared((m, n, k): Shape, threads: usize) -> Cut {
        let cut = Cut::new((m, n, k), threads);
        let across = (TASKS_PER_THREAD * threads).clamp(1, n.div_ceil(TASK_COLUMNS));
        if cut.is_large { cut } else { Cut { columns: n.div_ceil(across).next_multiple_of(32), ..cut } }
    }
}

/// Rows of a part where m are cut into so many, in whole register tiles.
fn even(m: usize, parts: usize) -> usize {
    m.div_ceil(parts).next_multiple_of(TILE_ROWS)
}

fn by_tasks(
    stream: &Stream,
    (m, n, k): Shape,
    Cut { rows, columns, .. }: Cut,
    a: Matrix,
    b: Factor,
    write: Write,
    c: Disjoint<f32>,
    stride: usize,
) {
    let (across, precision) = (n.div_ceil(columns), stream.device().precision());
    for_each_task(stream, m.div_ceil(rows) * across, 2 * m * n * k, |task| {
        let (row, column) = (task / across * rows, task % across * columns);
        let part = (rows.min(m - row), columns.min(n - column), k);
        // SAFETY: callers checked A and B against the shape and C too; tiles of C are disjoint.
        unsafe {
            let c = c.address(row * stride + column);
            gemm(part, precision, a.at(row, 0), b.columns_from(column), write, c, stride);
        }
    });
}

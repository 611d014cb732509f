//! Dense products on the CPU: tiles of C by shape alone, each on one thread.

use super::{Layout, Write};
use crate::Stream;
use crate::cpu::gemm::{self, Factor, Matrix, Panels, Shape, gemm, pack_panels, shared};
use crate::cpu::parallel::{Disjoint, for_each_task};

/// Rows of a task, about: its tiles of A stay in the second-level cache while panels of B pass by.
const TASK_ROWS: usize = 192;
/// Columns of a task at least; where B is copied panel by panel and has many, enough that copying A into tiles costs little.
const TASK_COLUMNS: usize = 64;
const TASK_COLUMNS_OF_MANY: usize = 256;
/// From this many operations on a product is cut finely enough for all threads to end together.
const WORTH_SHARING: usize = 40_000_000;
/// Of a smaller product, B is copied for all tasks up to this size; a larger one would not stay in the caches.
const SHARED_FLOATS: usize = 1 << 20;
/// Fewer rows than this make too little use of a panel.
const ROWS_LEAST: usize = 96;
/// Rows of the register tile are a divisor of this on every processor.
const TILE_ROWS: usize = 12;
/// Tasks for each thread, of large and of small products: how evenly they can be dealt out.
const TASKS_PER_THREAD: usize = 4;
const SMALL_TASKS_PER_THREAD: usize = 2;

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

pub(super) fn prepare(stream: &Stream, layout: Layout, (n, k): (usize, usize), b: &[f32], panels: &mut [f32]) {
    let b = if layout == Layout::Nt { Matrix::rows(b, k).transposed() } else { Matrix::rows(b, n) };
    // SAFETY: the caller checked B against the shape.
    unsafe { pack_panels(stream, b, (k, n), panels) };
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
    (if cut.is_shared { Panels::len(k, n) } else { 0 }, gemm::scratch_floats(cut.rows.min(m), k))
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
    // SAFETY: callers checked B against the shape.
    unsafe { shared(stream, b, (k, n), cut.is_shared, |b| by_tasks(stream, (m, n, k), cut, a, b, write, c, stride)) };
}

/// How a product is cut into tasks. No element's sum depends on it.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    columns: usize,
    /// Whether B is copied for all tasks before.
    is_shared: bool,
    is_large: bool,
}

impl Cut {
    fn new((m, n, k): Shape, threads: usize) -> Cut {
        let parts = m.div_ceil(TASK_ROWS).max(1);
        if m < 2 * TASK_ROWS || 2 * m * n * k < WORTH_SHARING {
            let is_shared = m >= gemm::ROWS_WORTH_PACKING && Panels::len(k, n) <= SHARED_FLOATS;
            let across = (SMALL_TASKS_PER_THREAD * threads).div_ceil(parts).clamp(1, n.div_ceil(TASK_COLUMNS).max(1));
            let columns = match is_shared {
                true => n.div_ceil(across).next_multiple_of(32),
                false if n >= TASK_COLUMNS_OF_MANY => TASK_COLUMNS_OF_MANY,
                false => TASK_COLUMNS,
            };
            return Cut { rows: even(m, parts), columns, is_shared, is_large: false };
        }
        let wanted = TASKS_PER_THREAD * threads;
        let rows = even(m, parts.max(wanted.min(m / ROWS_LEAST)));
        let across = wanted.div_ceil(m.div_ceil(rows)).clamp(1, n.div_ceil(TASK_COLUMNS_OF_MANY));
        Cut { rows, columns: n.div_ceil(across).next_multiple_of(32), is_shared: true, is_large: true }
    }

    /// Where B needs no copies, few rows are cut by columns as evenly as may be; of many each task copies its own.
    fn of_prepared((m, n, k): Shape, threads: usize) -> Cut {
        let cut = Cut::new((m, n, k), threads);
        let tasks = if m < ROWS_LEAST { TASKS_PER_THREAD * threads } else { SMALL_TASKS_PER_THREAD * threads };
        let across = tasks.div_ceil(m.div_ceil(cut.rows).max(1)).clamp(1, n.div_ceil(TASK_COLUMNS));
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

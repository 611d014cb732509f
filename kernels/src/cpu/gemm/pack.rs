//! Copies of factors in the order in which register tiles read them: panels of B, tiles of A.

use super::tile::height;
use super::{DEPTH, Factor, Matrix};
use crate::cpu::parallel::{Disjoint, for_each_task};
use crate::cpu::scratch;
use crate::cpu::simd::vectored;
use crate::cpu::transpose::squares;
use crate::cpu::vector::{Rounded, Vector};
use crate::{Precision, Stream};
use std::ops::Range;

/// Columns of the widest panel: memory for panels is measured in these, whatever the instruction set.
const COLUMNS: usize = 32;
/// Floats that one panel of one [`DEPTH`] takes.
pub(super) const PANEL: usize = DEPTH * COLUMNS;
/// Terms that are copied side by side from a factor that lies in rows, so that each row is read once, from end to end.
const SIDE_BY_SIDE: usize = 16;
/// Floats that one task copies.
const TASK_FLOATS: usize = 1 << 16;
/// The last tile's last term is written as a whole register.
pub(super) const TILES_PADDING: usize = 16;

/// B[k, n], copied whole: panels of columns one after the other, of each panel its rows.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    address: *const f32,
    /// k
    terms: usize,
}

// SAFETY: an address alone does nothing; who reads through it has promised that nobody writes there meanwhile.
unsafe impl Send for Panels {}
unsafe impl Sync for Panels {}

impl Panels {
    /// Floats that the panels of B[k, n] take.
    pub(crate) fn len(k: usize, n: usize) -> usize {
        k * n.next_multiple_of(COLUMNS)
    }

    /// Those of B[k, n], as [`pack_panels`] left them in `memory`.
    pub(crate) fn new(memory: &[f32], k: usize, n: usize) -> Panels {
        assert!(Panels::len(k, n) <= memory.len());
        Panels { address: memory.as_ptr(), terms: k }
    }

    /// Those from `column` on, a multiple of 32.
    pub(crate) fn columns_from(self, column: usize) -> Panels {
        debug_assert!(column.is_multiple_of(COLUMNS));
        Panels { address: self.address.wrapping_add(column * self.terms), ..self }
    }

    /// The rows of one panel from `term` on.
    #[inline(always)]
    pub(super) fn rows<V: Vector>(self, term: usize, column: usize) -> Matrix {
        let width = 2 * V::LANES;
        Matrix { address: self.address.wrapping_add(column * self.terms + term * width), row: width, column: 1 }
    }
}

/// Calls `work` with B[k, n], copied before where it is used often enough for that.
///
/// # Safety
/// B lies inside living memory that nobody writes meanwhile.
pub(crate) unsafe fn shared<R>(
    stream: &Stream,
    b: Matrix,
    (k, n): (usize, usize),
    is_copied: bool,
    work: impl FnOnce(Factor) -> R,
) -> R {
    if !is_copied {
        return work(b.into());
    }
    scratch::with(Panels::len(k, n), |memory| {
        // SAFETY: the caller's promise.
        unsafe { pack_panels(stream, b, (k, n), memory) };
        work(Panels::new(memory, k, n).into())
    })
}

/// Copies B[k, n] into `memory` on all threads.
///
/// # Safety
/// B lies inside living memory that nobody writes meanwhile.
pub(crate) unsafe fn pack_panels(stream: &Stream, b: Matrix, (k, n): (usize, usize), memory: &mut [f32]) {
    assert!(Panels::len(k, n) <= memory.len());
    let memory = Disjoint::new(memory);
    // By rows, so that a row is read from end to end; else by panels, whose columns are.
    let (parts, each) = match b.column == 1 {
        true => (k, (TASK_FLOATS / n.max(1)).next_multiple_of(SIDE_BY_SIDE)),
        false => (n, (TASK_FLOATS / k.max(1)).next_multiple_of(COLUMNS)),
    };
    for_each_task(stream, parts.div_ceil(each), 8 * k * n, |task| {
        let part = task * each..parts.min((task + 1) * each);
        let (terms, columns) = if b.column == 1 { (part, 0..n) } else { (0..k, part) };
        // SAFETY: tasks write different rows or different panels, inside the memory by the assertion; B by the caller's promise.
        unsafe { copy_part(b, k, (terms, columns), stream.device().precision(), memory.address(0)) }
    });
}

/// Copies B[k, n] as it is into `memory`, on this thread.
///
/// # Safety
/// B lies inside living memory that nobody writes meanwhile.
pub(crate) unsafe fn copy_panels(b: Matrix, (k, n): (usize, usize), memory: &mut [f32]) -> Panels {
    let panels = Panels::new(memory, k, n);
    // SAFETY: inside the memory by the assertion above; B by the caller's promise.
    unsafe { copy_part(b, k, (0..k, 0..n), Precision::F32, memory.as_mut_ptr()) };
    panels
}

/// Terms, columns.
type Part = (Range<usize>, Range<usize>);

vectored! {
    unsafe fn copy_part(b: Matrix, k: usize, part: Part, precision: Precision, memory: *mut f32) = copy_part_in
}

#[inline(always)]
unsafe fn copy_part_in<V: Vector>(b: Matrix, k: usize, part: Part, precision: Precision, memory: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match precision {
            Precision::F32 => copy_part_by::<V>(b, k, part, memory),
            Precision::Bf16 => copy_part_by::<Rounded<V>>(b, k, part, memory),
        }
    }
}

#[inline(always)]
pub(super) unsafe fn copy_part_by<V: Vector>(b: Matrix, k: usize, (terms, columns): Part, memory: *mut f32) {
    let width = 2 * V::LANES;
    let step = if b.column == 1 { SIDE_BY_SIDE } else { k.max(1) };
    for term in terms.clone().step_by(step) {
        for column in columns.clone().step_by(width) {
            let part = (step.min(terms.end - term), width.min(columns.end - column));
            // SAFETY: the caller's promise.
            unsafe { pack::<V>(b.at(term, column), part, width, memory.add(column * k + term * width)) };
        }
    }
}

/// Copies B[terms, columns] into rows of `width` floats, zeros behind them as far as their last register goes.
#[inline(always)]
pub(super) unsafe fn pack<V: Vector>(b: Matrix, (terms, columns): (usize, usize), width: usize, panel: *mut f32) {
    if b.column == 1 {
        for term in 0..terms {
            for register in (0..columns).step_by(V::LANES) {
                // SAFETY: row `term` of B has `columns` floats, and the panel's rows two whole registers.
                unsafe {
                    let (source, count) = (b.at(term, register).address, V::LANES.min(columns - register));
                    let values = if count == V::LANES { V::load(source) } else { V::load_first(source, count) };
                    values.factor().store(panel.add(term * width + register));
                }
            }
        }
        return;
    }
    // SAFETY: B by the caller's promise; the panel's rows hold two whole registers.
    unsafe { squares::<V>(b, (terms, columns), panel, width) };
}

/// Copies A[m, terms] tile by tile, the rows of a tile side by side for each term.
#[inline(always)]
pub(super) unsafe fn pack_tiles<V: Vector>(a: Matrix, m: usize, terms: usize, tiles: *mut f32) {
    if a.row == 1 {
        // SAFETY: the caller's promise.
        return unsafe { copy_tiles::<V>(a, m, terms, tiles) };
    }
    let mut row = 0;
    while row < m {
        let height = height::<V>(m - row);
        // SAFETY: A by the caller's promise. A term's register may reach over the terms behind it, which are written later, and over
        // the next tile or the padding.
        unsafe { pack::<V>(a.at(row, 0).transposed(), (terms, height), height, tiles.add(row * terms)) };
        row += height;
    }
}

/// The same of an A whose columns lie in memory one after the other: a few are read from end to end, and again.
#[inline(always)]
unsafe fn copy_tiles<V: Vector>(a: Matrix, m: usize, terms: usize, tiles: *mut f32) {
    for first in (0..terms).step_by(SIDE_BY_SIDE) {
        let mut row = 0;
        while row < m {
            let height = height::<V>(m - row);
            for term in first..terms.min(first + SIDE_BY_SIDE) {
                // SAFETY: A by the caller's promise; a tile has `height` floats for each term.
                unsafe {
                    let (source, target) = (a.at(row, term).address, tiles.add(row * terms + term * height));
                    // A whole register may reach over the tile's next terms, which are written later.
                    if row + V::LANES <= m && term * height + V::LANES <= terms * height {
                        V::load(source).factor().store(target);
                        continue;
                    }
                    match height {
                        12 => copy_column::<V, 12>(source, target),
                        8 => copy_column::<V, 8>(source, target),
                        6 => copy_column::<V, 6>(source, target),
                        4 => copy_column::<V, 4>(source, target),
                        2 => copy_column::<V, 2>(source, target),
                        _ => copy_column::<V, 1>(source, target),
                    }
                }
            }
            row += height;
        }
    }
}

/// One term of a tile of `HEIGHT` rows.
#[inline(always)]
unsafe fn copy_column<V: Vector, const HEIGHT: usize>(source: *const f32, target: *mut f32) {
    for register in (0..HEIGHT).step_by(V::LANES) {
        let count = V::LANES.min(HEIGHT - register);
        // SAFETY: the caller's promise; no more than `HEIGHT` floats are touched.
        unsafe { V::load_first(source.add(register), count).factor().store_first(target.add(register), count) };
    }
}

//! One thread's matrix product over strided memory: register tiles, packed panels, one order of summation.
//!
//! Every element of C is one chain of multiply-adds over k in ascending order, restarted each [`DEPTH`] terms, whatever
//! its place in a tile. So a row's result does not depend on how many rows are computed beside it.

mod pack;
mod tile;

use super::scratch;
use super::simd::vectored;
use super::vector::{Rounded, Vector};
use crate::Precision;
use crate::matmul::Write;
use pack::{PANEL, TILES_PADDING, pack, pack_tiles};
pub(crate) use pack::{Panels, copy_panels, pack_panels, shared};
use tile::{strip, tiled_strip};

/// Terms of a chain: a packed panel of this depth stays in the first-level cache.
pub(crate) const DEPTH: usize = 256;
/// Fewer rows than this do not pay for copying B into a panel.
pub(crate) const ROWS_WORTH_PACKING: usize = 48;
/// Fewer columns than this do not pay for copying A into tiles.
const COLUMNS_WORTH_TILING: usize = 128;
/// Nor do these, of few rows that each lie in one piece.
const FEW_ROWS: usize = 128;
const COLUMNS_WORTH_TILING_FEW_ROWS: usize = 512;
/// Terms of which tiles of A are made at once, at most; a block of C as wide as a panel stays in the cache meanwhile.
const REACH: usize = 4 * DEPTH;
/// Floats of those tiles: more would not stay in the second-level cache beside the panels that pass by.
const TILES_FLOATS: usize = 96 << 10;

/// m, n, k.
pub(crate) type Shape = (usize, usize, usize);

/// A matrix in memory: element (i, j) lies at `address + i · row + j · column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub address: *const f32,
    pub row: usize,
    pub column: usize,
}

// SAFETY: an address alone does nothing; who reads through it has promised that nobody writes there meanwhile.
unsafe impl Send for Matrix {}
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Rows of `stride` floats.
    pub(crate) fn rows(values: &[f32], stride: usize) -> Matrix {
        Matrix { address: values.as_ptr(), row: stride, column: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Matrix {
        Matrix { address: self.address, row: self.column, column: self.row }
    }

    /// The part that starts at (row, column).
    #[inline(always)]
    pub(crate) fn at(self, row: usize, column: usize) -> Matrix {
        Matrix { address: self.address.wrapping_add(row * self.row + column * self.column), ..self }
    }
}

/// B of a product.
#[derive(Clone, Copy)]
pub(crate) enum Factor {
    /// As it lies; copied panel by panel on the way, where that pays.
    Strided(Matrix),
    /// Copied before, for many products or many threads.
    Panels(Panels),
}

impl Factor {
    /// The part from `column` on; of panels a multiple of 32.
    pub(crate) fn columns_from(self, column: usize) -> Factor {
        match self {
            Factor::Strided(matrix) => Factor::Strided(matrix.at(0, column)),
            Factor::Panels(panels) => Factor::Panels(panels.columns_from(column)),
        }
    }
}

impl From<Matrix> for Factor {
    fn from(matrix: Matrix) -> Factor {
        Factor::Strided(matrix)
    }
}

impl From<Panels> for Factor {
    fn from(panels: Panels) -> Factor {
        Factor::Panels(panels)
    }
}

/// C[m, n] (= | +=) A[m, k] · B[k, n] on this thread; C has rows of `stride` floats. Panels of B are of the same precision.
///
/// # Safety
/// The three matrices lie inside living memory, C overlaps neither A nor B, and nobody else touches C meanwhile.
pub(crate) unsafe fn gemm(
    shape: Shape,
    precision: Precision,
    a: Matrix,
    b: impl Into<Factor>,
    write: Write,
    c: *mut f32,
    stride: usize,
) {
    let ((m, n, k), b) = (shape, b.into());
    // Values are rounded while they are copied.
    let is_exact = precision == Precision::F32;
    let (panel, is_copied) = match b {
        Factor::Panels(_) => (0, true),
        Factor::Strided(b) => {
            debug_assert!(b.column == 1 || b.row == 1, "B is strided both ways");
            if is_exact && b.column == 1 && m < ROWS_WORTH_PACKING { (0, false) } else { (PANEL, true) }
        }
    };
    let is_direct = a.column == 1 && m < FEW_ROWS;
    let worth = if is_direct { COLUMNS_WORTH_TILING_FEW_ROWS } else { COLUMNS_WORTH_TILING };
    let is_tiled = !is_exact || (is_copied && n >= worth);
    let tiles = if is_tiled { m * reach_of(m).min(k) + TILES_PADDING } else { 0 };
    scratch::with(panel + tiles, |memory| {
        let memory = memory.split_at_mut(panel);
        // SAFETY: the caller's promise.
        unsafe { product(shape, precision, a, b, write, c, stride, memory) }
    });
}

/// Floats of scratch that a product of so many rows and terms takes at most.
pub(crate) fn scratch_floats(m: usize, k: usize) -> usize {
    PANEL + m * reach_of(m).min(k) + TILES_PADDING
}

/// Terms of which tiles of `m` rows are made at once, in whole depths.
fn reach_of(m: usize) -> usize {
    (TILES_FLOATS / m.max(1) / DEPTH * DEPTH).clamp(DEPTH, REACH)
}

/// A panel of B, and the tiles of A of one reach. An empty part: that matrix is read where it lies.
type Memory<'a> = (&'a mut [f32], &'a mut [f32]);

vectored! {
    unsafe fn product(
        shape: Shape,
        precision: Precision,
        a: Matrix,
        b: Factor,
        write: Write,
        c: *mut f32,
        stride: usize,
        memory: Memory<'_>,
    ) = any
}

#[inline(always)]
unsafe fn any<V: Vector>(
    shape: Shape,
    precision: Precision,
    a: Matrix,
    b: Factor,
    write: Write,
    c: *mut f32,
    stride: usize,
    (panel, tiles): Memory,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (precision, tiles.is_empty()) {
            (Precision::F32, true) => blocks::<V>(shape, a, b, write, c, stride, panel),
            (Precision::F32, false) => reaches::<V>(shape, a, b, write, c, stride, (panel, tiles)),
            (Precision::Bf16, _) => reaches::<Rounded<V>>(shape, a, b, write, c, stride, (panel, tiles)),
        }
    }
}

/// B[terms, columns] from `(term, column)` on, in rows of a panel unless there is no memory for one.
#[inline(always)]
unsafe fn panel_at<V: Vector>(
    b: Factor,
    (term, column): (usize, usize),
    part: (usize, usize),
    memory: &mut [f32],
) -> Matrix {
    let width = 2 * V::LANES;
    match b {
        Factor::Panels(panels) => panels.rows::<V>(term, column),
        Factor::Strided(b) if memory.is_empty() => b.at(term, column),
        Factor::Strided(b) => {
            // SAFETY: the caller's promise; the memory holds DEPTH · width.
            unsafe { pack::<V>(b.at(term, column), part, width, memory.as_mut_ptr()) };
            Matrix::rows(memory, width)
        }
    }
}

/// Both matrices are copied: walks reaches, in each panels of columns, in each depth. All that the tiles read lies in one stream,
/// whatever the strides of A, and C goes through the caches once a reach.
#[inline(always)]
unsafe fn reaches<V: Vector>(
    (m, n, k): Shape,
    a: Matrix,
    b: Factor,
    write: Write,
    c: *mut f32,
    stride: usize,
    (panel, tiles): Memory,
) {
    let (width, tiles, reach_most) = (2 * V::LANES, tiles.as_mut_ptr(), reach_of(m));
    let mut first = 0;
    // A product over nothing still writes its zeros.
    while first < k || first == 0 {
        let reach = reach_most.min(k - first);
        // SAFETY: all parts lie inside A, B and C by the bounds of the loops; the tiles have room for m rows of a reach.
        unsafe {
            for depth in (0..reach).step_by(DEPTH) {
                pack_tiles::<V>(a.at(0, first + depth), m, DEPTH.min(reach - depth), tiles.add(depth * m));
            }
            for column in (0..n).step_by(width) {
                let columns = width.min(n - column);
                let mut depth = 0;
                while depth < reach || depth == 0 {
                    let terms = DEPTH.min(reach - depth);
                    let accumulate = first + depth > 0 || write == Write::Accumulate;
                    let panel = panel_at::<V>(b, (first + depth, column), (terms, columns), panel);
                    let (part, tiles, c) = ((m, columns, terms), tiles.add(depth * m), c.add(column));
                    match (columns == width, columns > V::LANES) {
                        (true, _) => tiled_strip::<V, 2, true>(part, tiles, panel, accumulate, c, stride),
                        (_, true) => tiled_strip::<V, 2, false>(part, tiles, panel, accumulate, c, stride),
                        _ => tiled_strip::<V, 1, false>(part, tiles, panel, accumulate, c, stride),
                    }
                    depth += DEPTH;
                }
            }
        }
        first += reach_most;
    }
}

/// A is read where it lies: walks depth, then panels of columns.
///
/// No closure may stand between here and the tiles: a closure would not inherit the instruction set.
#[inline(always)]
unsafe fn blocks<V: Vector>(
    (m, n, k): Shape,
    a: Matrix,
    b: Factor,
    write: Write,
    c: *mut f32,
    stride: usize,
    panel: &mut [f32],
) {
    let (width, direct) = (2 * V::LANES, panel.is_empty() && matches!(b, Factor::Strided(_)));
    let mut depth = 0;
    // A product over nothing still writes its zeros.
    while depth < k || depth == 0 {
        let terms = DEPTH.min(k - depth);
        let accumulate = depth > 0 || write == Write::Accumulate;
        for column in (0..n).step_by(width) {
            let columns = width.min(n - column);
            // SAFETY: all parts lie inside A, B and C by the bounds of the loops.
            unsafe {
                let b = panel_at::<V>(b, (depth, column), (terms, columns), panel);
                let (part, a, c) = ((m, columns, terms), a.at(0, depth), c.add(column));
                match (columns == width, columns > V::LANES, direct) {
                    (true, _, _) => strip::<V, 2, true, true>(part, a, b, accumulate, c, stride),
                    (_, true, false) => strip::<V, 2, true, false>(part, a, b, accumulate, c, stride),
                    (_, true, true) => strip::<V, 2, false, false>(part, a, b, accumulate, c, stride),
                    (_, false, false) => strip::<V, 1, true, false>(part, a, b, accumulate, c, stride),
                    (_, false, true) => strip::<V, 1, false, false>(part, a, b, accumulate, c, stride),
                }
            }
        }
        depth += DEPTH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};
    use crate::cpu::vector::Portable;
    #[cfg(target_arch = "x86_64")]
    use crate::cpu::vector::{Avx2, Avx512};

    /// A product, B's panels made before where there is memory for them.
    type Product = unsafe fn(Shape, Matrix, Matrix, *mut f32, usize, Memory, &mut [f32]);

    #[inline(always)]
    unsafe fn with<V: Vector>(
        (m, n, k): Shape,
        a: Matrix,
        b: Matrix,
        c: *mut f32,
        stride: usize,
        memory: Memory,
        panels: &mut [f32],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut factor = Factor::Strided(b);
            if !panels.is_empty() {
                pack::copy_part_by::<V>(b, k, (0..k, 0..n), panels.as_mut_ptr());
                factor = Panels::new(panels, k, n).into();
            }
            any::<V>((m, n, k), Precision::F32, a, factor, Write::Overwrite, c, stride, memory);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512(
        shape: Shape,
        a: Matrix,
        b: Matrix,
        c: *mut f32,
        stride: usize,
        memory: Memory,
        panels: &mut [f32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { with::<Avx512>(shape, a, b, c, stride, memory, panels) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(shape: Shape, a: Matrix, b: Matrix, c: *mut f32, stride: usize, memory: Memory, panels: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { with::<Avx2>(shape, a, b, c, stride, memory, panels) }
    }

    /// Every instruction set that this processor has.
    fn products() -> Vec<Product> {
        let mut products: Vec<Product> = vec![with::<Portable>];
        #[cfg(target_arch = "x86_64")]
        {
            if level() != Level::Baseline {
                products.push(avx2);
            }
            if level() == Level::Avx512 {
                products.push(avx512);
            }
        }
        products
    }

    fn value(row: usize, column: usize) -> f32 {
        ((row * 31 + column * 17) % 23) as f32 / 7.0 - 1.5
    }

    /// Which matrices are stored by columns, and which are copied before they are used.
    #[derive(Clone, Copy)]
    struct Way {
        a_transposed: bool,
        b_transposed: bool,
        panel: bool,
        tiles: bool,
        panels: bool,
    }

    fn check(m: usize, n: usize, k: usize, way: Way) {
        let Way { a_transposed, b_transposed, panel, tiles, panels } = way;
        let stride = n + 3;
        let a_values: Vec<f32> =
            (0..m * k).map(|i| if a_transposed { value(i % m, i / m) } else { value(i / k, i % k) }).collect();
        let a = if a_transposed { Matrix::rows(&a_values, m).transposed() } else { Matrix::rows(&a_values, k) };
        let b = |p: usize, j: usize| value(p + 5, j);
        let b_values: Vec<f32> =
            (0..k * n).map(|i| if b_transposed { b(i % k, i / k) } else { b(i / n, i % n) }).collect();
        let b_matrix = if b_transposed { Matrix::rows(&b_values, k).transposed() } else { Matrix::rows(&b_values, n) };
        for product in products() {
            let (mut c, mut panel) = (vec![f32::NAN; m * stride], vec![f32::NAN; if panel { PANEL } else { 0 }]);
            let mut tiles = vec![f32::NAN; if tiles { m * reach_of(m).min(k) + TILES_PADDING } else { 0 }];
            let memory = (&mut panel[..], &mut tiles[..]);
            let mut panels = vec![f32::NAN; if panels { Panels::len(k, n) } else { 0 }];
            // SAFETY: the processor has the instructions, and all three matrices hold the shape.
            unsafe { product((m, n, k), a, b_matrix, c.as_mut_ptr(), stride, memory, &mut panels) };
            for (index, &actual) in c.iter().enumerate() {
                let (i, j) = (index / stride, index % stride);
                let expected: f64 = (0..k).map(|p| f64::from(value(i, p)) * f64::from(b(p, j))).sum();
                assert!(j < n || actual.is_nan(), "{m} × {n} × {k} wrote past its columns");
                assert!(
                    j >= n || (f64::from(actual) - expected).abs() < 1e-3,
                    "{m} × {n} × {k}: {actual} for {expected}"
                );
            }
        }
    }

    #[test]
    fn every_instruction_set_and_every_edge() {
        for m in [1, 2, 3, 5, 6, 7, 11, 12, 13, 23, 31] {
            for n in [1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 70] {
                for k in [1, 4, 19, 257, REACH + 3] {
                    for bits in 0..32 {
                        let [a_transposed, b_transposed, panel, tiles, panels] =
                            [1, 2, 4, 8, 16].map(|bit| bits & bit > 0);
                        // Only rows of B can be read where they lie, and only beside an A that is.
                        if panel != panels || !(panel || b_transposed || tiles) {
                            check(m, n, k, Way { a_transposed, b_transposed, panel, tiles, panels });
                        }
                    }
                }
            }
        }
    }
}

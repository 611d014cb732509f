//! One thread's matrix product over strided memory: register tiles, packed panels, one order of summation.
//!
//! Every element of C is one chain of multiply-adds over k in ascending order, restarted each [`DEPTH`] terms, whatever
//! its place in a tile. So a row's result does not depend on how many rows are computed beside it.

use super::scratch;
use super::simd::{Level, level};
use super::transpose::squares;
use super::vector::{Portable, Vector};
use crate::matmul::Write;

/// Terms of a chain: a packed panel of this depth stays in the first-level cache.
const DEPTH: usize = 256;
/// Floats of a panel: at most 32 columns are taken at once.
const PANEL: usize = DEPTH * 32;
/// Fewer rows than this do not pay for copying B into a panel.
const ROWS_WORTH_PACKING: usize = 48;

/// m, n, k.
type Shape = (usize, usize, usize);

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

/// C[m, n] (= | +=) A[m, k] · B[k, n] on this thread; C has rows of `stride` floats.
///
/// # Safety
/// The three matrices lie inside living memory, C overlaps neither A nor B, and nobody else touches C meanwhile.
pub(crate) unsafe fn gemm(shape: Shape, a: Matrix, b: Matrix, write: Write, c: *mut f32, stride: usize) {
    debug_assert!(b.column == 1 || b.row == 1, "B is strided both ways");
    let direct = b.column == 1 && shape.0 < ROWS_WORTH_PACKING;
    scratch::with(if direct { 0 } else { PANEL }, |panel| {
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` found the instructions; the rest is the caller's promise.
            Level::Avx512 => return unsafe { avx512(shape, a, b, write, c, stride, panel) },
            Level::Avx2 => return unsafe { avx2(shape, a, b, write, c, stride, panel) },
            Level::Baseline => {}
        }
        // SAFETY: the caller's promise.
        unsafe { blocks::<Portable>(shape, a, b, write, c, stride, panel) }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(shape: Shape, a: Matrix, b: Matrix, write: Write, c: *mut f32, stride: usize, panel: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<super::vector::Avx512>(shape, a, b, write, c, stride, panel) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(shape: Shape, a: Matrix, b: Matrix, write: Write, c: *mut f32, stride: usize, panel: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<super::vector::Avx2>(shape, a, b, write, c, stride, panel) }
}

/// Walks depth, then panels of columns. An empty panel: B is read where it lies.
///
/// No closure may stand between here and [`tile`]: a closure would not inherit the instruction set.
#[inline(always)]
unsafe fn blocks<V: Vector>(
    (m, n, k): Shape,
    a: Matrix,
    b: Matrix,
    write: Write,
    c: *mut f32,
    stride: usize,
    panel: &mut [f32],
) {
    let (width, direct) = (2 * V::LANES, panel.is_empty());
    let mut depth = 0;
    // A product over nothing still writes its zeros.
    while depth < k || depth == 0 {
        let terms = DEPTH.min(k - depth);
        let accumulate = depth > 0 || write == Write::Accumulate;
        for column in (0..n).step_by(width) {
            let columns = width.min(n - column);
            let mut source = b.at(depth, column);
            // SAFETY: all parts lie inside A, B and C by the bounds of the loops, and the panel holds DEPTH · width.
            unsafe {
                if !direct {
                    pack::<V>(source, terms, columns, width, panel);
                    source = Matrix::rows(panel, width);
                }
                let (part, a, c) = ((m, columns, terms), a.at(0, depth), c.add(column));
                match (columns == width, columns > V::LANES, direct) {
                    (true, _, _) => strip::<V, 2, true, true>(part, a, source, accumulate, c, stride),
                    (_, true, false) => strip::<V, 2, true, false>(part, a, source, accumulate, c, stride),
                    (_, true, true) => strip::<V, 2, false, false>(part, a, source, accumulate, c, stride),
                    (_, false, false) => strip::<V, 1, true, false>(part, a, source, accumulate, c, stride),
                    (_, false, true) => strip::<V, 1, false, false>(part, a, source, accumulate, c, stride),
                }
            }
        }
        depth += DEPTH;
    }
}

/// Copies B[terms, columns] into rows of `width` floats, zeros behind them as far as their last register goes.
#[inline(always)]
unsafe fn pack<V: Vector>(b: Matrix, terms: usize, columns: usize, width: usize, panel: &mut [f32]) {
    if b.column == 1 {
        for term in 0..terms {
            for register in (0..columns).step_by(V::LANES) {
                // SAFETY: row `term` of B has `columns` floats, and the panel's rows two whole registers.
                unsafe {
                    let (source, count) = (b.at(term, register).address, V::LANES.min(columns - register));
                    let values = if count == V::LANES { V::load(source) } else { V::load_first(source, count) };
                    values.store(panel.as_mut_ptr().add(term * width + register));
                }
            }
        }
        return;
    }
    // SAFETY: B by the caller's promise; the panel's rows hold two whole registers.
    unsafe { squares::<V>(b, (terms, columns), panel, width) };
}

/// All rows of one panel of columns, as many at a time as registers hold.
#[inline(always)]
unsafe fn strip<V: Vector, const WIDE: usize, const PADDED: bool, const WHOLE: bool>(
    (m, columns, terms): Shape,
    a: Matrix,
    b: Matrix,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) {
    let mut row = 0;
    while row < m {
        let left = m - row;
        // SAFETY: `rows` of A and C exist from `row` on.
        unsafe {
            let (a, c) = (a.at(row, 0), c.add(row * stride));
            let part = (columns, terms);
            row += if left >= 12 && V::ROWS >= 12 {
                tile::<V, 12, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            } else if left >= 8 && V::ROWS >= 8 {
                tile::<V, 8, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            } else if left >= 6 && V::ROWS >= 6 {
                tile::<V, 6, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            } else if left >= 4 {
                tile::<V, 4, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            } else if left >= 2 {
                tile::<V, 2, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            } else {
                tile::<V, 1, WIDE, PADDED, WHOLE>(part, a, b, accumulate, c, stride)
            };
        }
    }
}

/// `ROWS` × `WIDE` registers of C; returns `ROWS`. `PADDED`: rows of B may be read in full; `WHOLE`: rows of C too.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const WIDE: usize, const PADDED: bool, const WHOLE: bool>(
    (columns, terms): (usize, usize),
    a: Matrix,
    b: Matrix,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) -> usize {
    let count =
        |register: usize| if WHOLE { V::LANES } else { columns.min((register + 1) * V::LANES) - register * V::LANES };
    // SAFETY: the tile lies inside the matrices by the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); WIDE]; ROWS];
        for term in 0..terms {
            let row = b.address.add(term * b.row);
            let mut factors = [V::splat(0.0); WIDE];
            for (register, factor) in factors.iter_mut().enumerate() {
                let address = row.add(register * V::LANES);
                *factor = if PADDED { V::load(address) } else { V::load_first(address, count(register)) };
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*a.address.add(index * a.row + term * a.column));
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = value.multiply_add(factor, *sum);
                }
            }
        }
        for (index, sums) in sums.iter().enumerate() {
            for (register, sum) in sums.iter().enumerate() {
                let (address, count) = (c.add(index * stride + register * V::LANES), count(register));
                let before = if !accumulate {
                    V::splat(0.0)
                } else if WHOLE {
                    V::load(address)
                } else {
                    V::load_first(address, count)
                };
                let value = if accumulate { before.add(*sum) } else { *sum };
                if WHOLE { value.store(address) } else { value.store_first(address, count) }
            }
        }
    }
    ROWS
}

#[cfg(test)]
mod tests {
    use super::*;

    type Product = unsafe fn(Shape, Matrix, Matrix, Write, *mut f32, usize, &mut [f32]);

    /// Every instruction set that this processor has.
    fn products() -> Vec<Product> {
        let mut products: Vec<Product> = vec![blocks::<Portable>];
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

    fn check(m: usize, n: usize, k: usize, b_transposed: bool, direct: bool) {
        let (a, stride) = ((0..m * k).map(|i| value(i / k, i % k)).collect::<Vec<_>>(), n + 3);
        let b = |p: usize, j: usize| value(p + 5, j);
        let b_values: Vec<f32> =
            (0..k * n).map(|i| if b_transposed { b(i % k, i / k) } else { b(i / n, i % n) }).collect();
        let b_matrix = if b_transposed { Matrix::rows(&b_values, k).transposed() } else { Matrix::rows(&b_values, n) };
        for product in products() {
            let (mut c, mut panel) = (vec![f32::NAN; m * stride], vec![f32::NAN; if direct { 0 } else { PANEL }]);
            let a = Matrix::rows(&a, k);
            // SAFETY: the processor has the instructions, and all three matrices hold the shape.
            unsafe { product((m, n, k), a, b_matrix, Write::Overwrite, c.as_mut_ptr(), stride, &mut panel) };
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
        for m in [1, 2, 3, 5, 6, 7, 11, 12, 13, 16, 23, 31] {
            for n in [1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 70] {
                for k in [1, 4, 8, 19, 257] {
                    check(m, n, k, false, false);
                    check(m, n, k, false, true);
                    check(m, n, k, true, false);
                }
            }
        }
    }
}

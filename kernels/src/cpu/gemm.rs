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
pub(crate) const DEPTH: usize = 256;
/// Floats of a panel: at most 32 columns are taken at once.
const PANEL: usize = DEPTH * 32;
/// Fewer rows than this do not pay for copying B into a panel.
const ROWS_WORTH_PACKING: usize = 48;
/// Fewer columns than this do not pay for copying A into tiles.
const COLUMNS_WORTH_TILING: usize = 128;
/// Terms of which tiles of A are made at once; a block of C as wide as a panel stays in the cache meanwhile.
const REACH: usize = 4 * DEPTH;
/// The last tile's last term is written as a whole register.
const TILES_PADDING: usize = 16;

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
    let (m, n, k) = shape;
    let direct = b.column == 1 && m < ROWS_WORTH_PACKING;
    let panel = if direct { 0 } else { PANEL };
    let tiles = if direct || n < COLUMNS_WORTH_TILING { 0 } else { m * REACH.min(k) + TILES_PADDING };
    scratch::with(panel + tiles, |memory| {
        let memory = memory.split_at_mut(panel);
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` found the instructions; the rest is the caller's promise.
            Level::Avx512 => return unsafe { avx512(shape, a, b, write, c, stride, memory) },
            Level::Avx2 => return unsafe { avx2(shape, a, b, write, c, stride, memory) },
            Level::Baseline => {}
        }
        // SAFETY: the caller's promise.
        unsafe { any::<Portable>(shape, a, b, write, c, stride, memory) }
    });
}

/// A panel of B, and the tiles of A of one reach. An empty part: that matrix is read where it lies.
type Memory<'a> = (&'a mut [f32], &'a mut [f32]);

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(shape: Shape, a: Matrix, b: Matrix, write: Write, c: *mut f32, stride: usize, memory: Memory) {
    // SAFETY: the caller's promise.
    unsafe { any::<super::vector::Avx512>(shape, a, b, write, c, stride, memory) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(shape: Shape, a: Matrix, b: Matrix, write: Write, c: *mut f32, stride: usize, memory: Memory) {
    // SAFETY: the caller's promise.
    unsafe { any::<super::vector::Avx2>(shape, a, b, write, c, stride, memory) }
}

#[inline(always)]
unsafe fn any<V: Vector>(
    shape: Shape,
    a: Matrix,
    b: Matrix,
    write: Write,
    c: *mut f32,
    stride: usize,
    (panel, tiles): Memory,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match tiles.is_empty() {
            true => blocks::<V>(shape, a, b, write, c, stride, panel),
            false => reaches::<V>(shape, a, b, write, c, stride, (panel, tiles)),
        }
    }
}

/// Both matrices are copied: walks reaches, in each panels of columns, in each depth. All that the tiles read lies in one stream,
/// whatever the strides of A, and C goes through the caches once a reach.
#[inline(always)]
unsafe fn reaches<V: Vector>(
    (m, n, k): Shape,
    a: Matrix,
    b: Matrix,
    write: Write,
    c: *mut f32,
    stride: usize,
    (panel, tiles): Memory,
) {
    let width = 2 * V::LANES;
    let mut first = 0;
    // A product over nothing still writes its zeros.
    while first < k || first == 0 {
        let reach = REACH.min(k - first);
        // SAFETY: all parts lie inside A, B and C by the bounds of the loops; the tiles have room for m rows of a reach, the panel for
        // DEPTH · width.
        unsafe {
            let mut depth = 0;
            while depth < reach {
                let part = &mut tiles[depth * m..];
                pack_tiles::<V>(a.at(0, first + depth), m, DEPTH.min(reach - depth), part);
                depth += DEPTH;
            }
            for column in (0..n).step_by(width) {
                let columns = width.min(n - column);
                depth = 0;
                while depth < reach || depth == 0 {
                    let terms = DEPTH.min(reach - depth);
                    let accumulate = first + depth > 0 || write == Write::Accumulate;
                    pack::<V>(b.at(first + depth, column), terms, columns, width, panel);
                    let (part, tiles, c) = ((m, columns, terms), tiles.as_ptr().add(depth * m), c.add(column));
                    match (columns == width, columns > V::LANES) {
                        (true, _) => tiled_strip::<V, 2, true>(part, tiles, panel.as_ptr(), accumulate, c, stride),
                        (_, true) => tiled_strip::<V, 2, false>(part, tiles, panel.as_ptr(), accumulate, c, stride),
                        _ => tiled_strip::<V, 1, false>(part, tiles, panel.as_ptr(), accumulate, c, stride),
                    }
                    depth += DEPTH;
                }
            }
        }
        first += REACH;
    }
}

/// Rows of the next tile where `left` are left.
#[inline(always)]
fn height<V: Vector>(left: usize) -> usize {
    match left {
        12.. if V::ROWS >= 12 => 12,
        8.. if V::ROWS >= 8 => 8,
        6.. if V::ROWS >= 6 => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Copies A[m, terms] tile by tile, the rows of a tile side by side for each term.
#[inline(always)]
unsafe fn pack_tiles<V: Vector>(a: Matrix, m: usize, terms: usize, tiles: &mut [f32]) {
    let mut row = 0;
    while row < m {
        let height = height::<V>(m - row);
        let target = &mut tiles[row * terms..];
        // SAFETY: A by the caller's promise. A term's register may reach over the terms behind it, which are written later, and over
        // the next tile or the padding.
        unsafe { pack::<V>(a.at(row, 0).transposed(), terms, height, height, target) };
        row += height;
    }
}

/// All tiles against one panel.
#[inline(always)]
unsafe fn tiled_strip<V: Vector, const WIDE: usize, const WHOLE: bool>(
    (m, columns, terms): Shape,
    tiles: *const f32,
    panel: *const f32,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) {
    let part = (columns, terms);
    let b = Matrix { address: panel, row: 2 * V::LANES, column: 1 };
    let mut row = 0;
    while row < m {
        let height = height::<V>(m - row);
        // SAFETY: `height` rows of the tiles and of C exist from `row` on.
        unsafe {
            let (a, c) = (Matrix { address: tiles.add(row * terms), row: 1, column: height }, c.add(row * stride));
            match height {
                12 => tile::<V, 12, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
                8 => tile::<V, 8, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
                6 => tile::<V, 6, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
                4 => tile::<V, 4, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
                2 => tile::<V, 2, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
                _ => tile::<V, 1, WIDE, true, WHOLE, true>(part, a, b, accumulate, c, stride),
            };
        }
        row += height;
    }
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
                tile::<V, 12, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            } else if left >= 8 && V::ROWS >= 8 {
                tile::<V, 8, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            } else if left >= 6 && V::ROWS >= 6 {
                tile::<V, 6, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            } else if left >= 4 {
                tile::<V, 4, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            } else if left >= 2 {
                tile::<V, 2, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            } else {
                tile::<V, 1, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride)
            };
        }
    }
}

/// `ROWS` × `WIDE` registers of C; returns `ROWS`. `PADDED`: rows of B may be read in full; `WHOLE`: rows of C too;
/// `TILED`: A's rows lie side by side.
#[inline(always)]
unsafe fn tile<
    V: Vector,
    const ROWS: usize,
    const WIDE: usize,
    const PADDED: bool,
    const WHOLE: bool,
    const TILED: bool,
>(
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
                let place = if TILED { index + term * ROWS } else { index * a.row + term * a.column };
                let value = V::splat(*a.address.add(place));
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

    type Product = unsafe fn(Shape, Matrix, Matrix, Write, *mut f32, usize, Memory);

    /// Every instruction set that this processor has.
    fn products() -> Vec<Product> {
        let mut products: Vec<Product> = vec![any::<Portable>];
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
    }

    fn check(m: usize, n: usize, k: usize, way: Way) {
        let Way { a_transposed, b_transposed, panel, tiles } = way;
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
            let mut tiles = vec![f32::NAN; if tiles { m * REACH.min(k) + TILES_PADDING } else { 0 }];
            let memory = (&mut panel[..], &mut tiles[..]);
            // SAFETY: the processor has the instructions, and all three matrices hold the shape.
            unsafe { product((m, n, k), a, b_matrix, Write::Overwrite, c.as_mut_ptr(), stride, memory) };
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
                    for bits in 0..16 {
                        let [a_transposed, b_transposed, panel, tiles] = [1, 2, 4, 8].map(|bit| bits & bit > 0);
                        // Only rows of B can be read where they lie, and only beside an A that is.
                        if panel || !(b_transposed || tiles) {
                            check(m, n, k, Way { a_transposed, b_transposed, panel, tiles });
                        }
                    }
                }
            }
        }
    }
}

//! Register tiles of C: the innermost loops of every product.

use super::{Matrix, Shape};
use crate::cpu::vector::Vector;
use std::hint::black_box;

/// Floats of a cache line.
const LINE: usize = 16;

/// Rows of the next tile where `left` are left.
#[inline(always)]
pub(super) fn height<V: Vector>(left: usize) -> usize {
    match left {
        12.. if V::ROWS >= 12 => 12,
        8.. if V::ROWS >= 8 => 8,
        // Twice four: a tile of two rows has too few sums to keep the multipliers busy.
        8 => 4,
        6.. if V::ROWS >= 6 => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// All tiles against one panel. Meanwhile the panel behind it is fetched, a part beside each tile.
#[inline(always)]
pub(super) unsafe fn tiled_strip<V: Vector, const WIDE: usize, const WHOLE: bool>(
    (m, columns, terms): Shape,
    tiles: *const f32,
    b: Matrix,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) {
    // What the compiler does not know of this number it cannot work out again in the innermost loop.
    let part = (columns, black_box(terms));
    let next = b.address.wrapping_add(terms * b.row);
    let mut row = 0;
    while row < m {
        let height = height::<V>(m - row);
        for place in (row * terms / m * b.row..(row + height) * terms / m * b.row).step_by(LINE) {
            // SAFETY: a prefetch may be of any address.
            unsafe { V::prefetch(next.wrapping_add(place)) };
        }
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

/// All rows of one panel of columns, as many at a time as registers hold.
#[inline(always)]
pub(super) unsafe fn strip<V: Vector, const WIDE: usize, const PADDED: bool, const WHOLE: bool>(
    (m, columns, terms): Shape,
    a: Matrix,
    b: Matrix,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) {
    let part = (columns, black_box(terms));
    let mut row = 0;
    while row < m {
        let left = m - row;
        // SAFETY: `rows` of A and C exist from `row` on.
        unsafe {
            let (a, c) = (a.at(row, 0), c.add(row * stride));
            row += match height::<V>(left) {
                12 => tile::<V, 12, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
                8 => tile::<V, 8, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
                6 => tile::<V, 6, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
                4 => tile::<V, 4, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
                2 => tile::<V, 2, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
                _ => tile::<V, 1, WIDE, PADDED, WHOLE, false>(part, a, b, accumulate, c, stride),
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
        for row in 0..ROWS {
            V::prefetch_near(c.wrapping_add(row * stride));
        }
        let (mut a_at, mut b_at) = (a.address, b.address);
        let (a_row, a_step, b_step) = if TILED { (1, ROWS, 2 * V::LANES) } else { (a.row, a.column, b.row) };
        for _ in 0..terms {
            let mut factors = [V::splat(0.0); WIDE];
            for (register, factor) in factors.iter_mut().enumerate() {
                let address = b_at.add(register * V::LANES);
                *factor = if PADDED { V::load(address) } else { V::load_first(address, count(register)) };
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*a_at.add(index * a_row));
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = value.multiply_add(factor, *sum);
                }
            }
            (a_at, b_at) = (a_at.wrapping_add(a_step), b_at.wrapping_add(b_step));
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

//! Exchanges rows and columns in squares of registers, padding with zeros.

use super::gemm::Matrix;
use super::vector::Vector;

/// Lanes of the widest register.
const LANES_MOST: usize = 16;

/// Copies B`[terms, columns]`, whose columns are contiguous, into rows of `stride` floats, zeros behind the last column
/// as far as its register goes.
///
/// # Safety
/// B lies inside living memory; `target` holds `terms` rows of `columns` rounded up to whole registers.
#[inline(always)]
pub(crate) unsafe fn squares<V: Vector>(b: Matrix, (terms, columns): (usize, usize), target: *mut f32, stride: usize) {
    for column in (0..columns).step_by(V::LANES) {
        let wide = V::LANES.min(columns - column);
        for term in (0..terms).step_by(V::LANES) {
            let high = V::LANES.min(terms - term);
            // SAFETY: inside B and the target by the bounds of the loops.
            unsafe {
                let (source, target) = (b.at(term, column), target.add(term * stride + column));
                match wide {
                    // The heights of register tiles, unrolled.
                    _ if high < V::LANES => square::<V, 0>(source, (high, wide), target, stride),
                    6 => square::<V, 6>(source, (high, wide), target, stride),
                    8 => square::<V, 8>(source, (high, wide), target, stride),
                    12 => square::<V, 12>(source, (high, wide), target, stride),
                    16 => square::<V, 16>(source, (high, wide), target, stride),
                    _ => square::<V, 0>(source, (high, wide), target, stride),
                }
            }
        }
    }
}

/// One square, or part of one. `WIDE` columns of as many terms as a register has lanes; of any size where it is 0.
#[inline(always)]
unsafe fn square<V: Vector, const WIDE: usize>(
    b: Matrix,
    (high, wide): (usize, usize),
    target: *mut f32,
    stride: usize,
) {
    let (high, wide) = if WIDE == 0 { (high, wide) } else { (V::LANES, WIDE.min(V::LANES)) };
    // SAFETY: the caller's promise.
    unsafe {
        let mut square = [V::splat(0.0); LANES_MOST];
        for (offset, register) in square.iter_mut().enumerate().take(wide) {
            let address = b.at(0, offset).address;
            let values = if high == V::LANES { V::load(address) } else { V::load_first(address, high) };
            *register = values.factor();
        }
        V::transpose(&mut square[..V::LANES]);
        for (offset, register) in square.iter().enumerate().take(high) {
            register.store(target.add(offset * stride));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};
    use crate::cpu::vector::Portable;

    fn check<V: Vector>(rows: usize, width: usize) {
        let (distance, stride) = (width + 2, rows.next_multiple_of(LANES_MOST));
        let source: Vec<f32> = (0..rows * distance).map(|index| index as f32 + 1.0).collect();
        let mut target = vec![f32::NAN; width * stride];
        // SAFETY: both slices hold the shape, and the processor has the instructions.
        unsafe {
            squares::<V>(Matrix::rows(&source, distance).transposed(), (width, rows), target.as_mut_ptr(), stride)
        };
        for column in 0..width {
            for row in 0..rows {
                assert_eq!(target[column * stride + row], source[row * distance + column], "{rows} × {width}");
            }
            let padding = &target[column * stride + rows..column * stride + rows.next_multiple_of(V::LANES)];
            assert!(padding.iter().all(|&value| value == 0.0), "{rows} × {width}");
        }
    }

    #[test]
    fn every_instruction_set_and_every_edge() {
        for rows in [1, 7, 8, 15, 16, 17, 33, 48] {
            for width in [1, 8, 15, 16, 24, 40] {
                check::<Portable>(rows, width);
                #[cfg(target_arch = "x86_64")]
                {
                    if level() != Level::Baseline {
                        check::<super::super::vector::Avx2>(rows, width);
                    }
                    if level() == Level::Avx512 {
                        check::<super::super::vector::Avx512>(rows, width);
                    }
                }
            }
        }
    }
}

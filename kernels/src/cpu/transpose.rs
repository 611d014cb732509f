//! Exchanges rows and columns in squares of registers, padding with zeros.

use super::gemm::Matrix;
use super::simd::vectored;
use super::vector::Vector;

/// Targets have rows of a multiple of this many floats, so that whole registers fit.
pub(crate) const PADDING: usize = 16;

/// target`[width, stride]` from the first `width` floats of `rows` rows that lie `distance` apart; columns behind `rows`
/// (up to the next multiple of [`PADDING`]) become 0.
pub(crate) fn transpose(
    source: &[f32],
    distance: usize,
    (rows, width): (usize, usize),
    target: &mut [f32],
    stride: usize,
) {
    assert!(rows == 0 || (rows - 1) * distance + width <= source.len());
    assert!(rows.next_multiple_of(PADDING) <= stride && width * stride <= target.len());
    let source = Matrix::rows(source, distance).transposed();
    // SAFETY: the parts lie inside both slices by the assertions.
    unsafe { squares_of(source, (width, rows), target.as_mut_ptr(), stride) };
}

vectored! {
    unsafe fn squares_of(source: Matrix, shape: (usize, usize), target: *mut f32, stride: usize) = squares
}

/// Copies B`[terms, columns]`, whose columns are contiguous, into rows of `stride` floats, zeros behind the last column
/// as far as its register goes.
///
/// # Safety
/// B lies inside living memory; `target` holds `terms` rows of `columns` rounded up to whole registers.
#[inline(always)]
pub(crate) unsafe fn squares<V: Vector>(b: Matrix, (terms, columns): (usize, usize), target: *mut f32, stride: usize) {
    for column in (0..columns).step_by(V::LANES) {
        for term in (0..terms).step_by(V::LANES) {
            let (high, wide) = (V::LANES.min(terms - term), V::LANES.min(columns - column));
            // SAFETY: inside B and the target by the bounds of the loops.
            unsafe {
                let mut square = [V::splat(0.0); PADDING];
                for (offset, register) in square.iter_mut().enumerate().take(wide) {
                    let address = b.at(term, column + offset).address;
                    let values = if high == V::LANES { V::load(address) } else { V::load_first(address, high) };
                    *register = values.factor();
                }
                V::transpose(&mut square[..V::LANES]);
                for (offset, register) in square.iter().enumerate().take(high) {
                    register.store(target.add((term + offset) * stride + column));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level};
    use crate::cpu::vector::Portable;

    fn check<V: Vector>(rows: usize, width: usize) {
        let (distance, stride) = (width + 2, rows.next_multiple_of(PADDING));
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

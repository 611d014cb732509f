//! Registers of floats: what the matrix-product tile needs of each instruction set.

/// A register of [`Vector::LANES`] floats.
///
/// # Safety
/// Implementations read and write memory through raw pointers and may use instructions that only some processors have:
/// a caller makes sure of both.
pub(crate) unsafe trait Vector: Copy {
    const LANES: usize;
    /// Rows of a tile two registers wide that fit the register file.
    const ROWS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(address: *const f32) -> Self;
    /// The first `count` floats, zeros behind them.
    unsafe fn load_first(address: *const f32, count: usize) -> Self;
    unsafe fn store(self, address: *mut f32);
    /// Writes the first `count` floats only.
    unsafe fn store_first(self, address: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    /// self · factor + addend.
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self;
    /// The nearest bf16 of each, the even one of two; what is no number stays none.
    unsafe fn nearest_bf16(self) -> Self;

    /// What a product takes of a factor's values.
    #[inline(always)]
    unsafe fn factor(self) -> Self {
        self
    }

    /// Fetches a cache line that will be wanted soon, into the second-level cache. The address may lie anywhere.
    #[inline(always)]
    unsafe fn prefetch(_address: *const f32) {}

    /// The same into the first-level cache.
    #[inline(always)]
    unsafe fn prefetch_near(_address: *const f32) {}

    /// Exchanges rows and columns of a square of registers; `square` holds [`Vector::LANES`] of them.
    #[inline(always)]
    unsafe fn transpose(square: &mut [Self]) {
        let mut values = [0.0f32; 256];
        for (row, register) in square.iter().enumerate() {
            // SAFETY: 16² values hold every square.
            unsafe { register.store(values.as_mut_ptr().add(row * Self::LANES)) };
        }
        for row in 0..Self::LANES {
            for column in 0..row {
                values.swap(row * Self::LANES + column, column * Self::LANES + row);
            }
        }
        for (row, register) in square.iter_mut().enumerate() {
            // SAFETY: as above.
            *register = unsafe { Self::load(values.as_ptr().add(row * Self::LANES)) };
        }
    }
}

/// Eight floats for any processor; the compiler picks the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

// SAFETY: plain Rust over pointers that the caller vouches for.
unsafe impl Vector for Portable {
    const LANES: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 8])
    }

    #[inline(always)]
    unsafe fn load(address: *const f32) -> Self {
        // SAFETY: the caller vouches for eight floats.
        Portable(unsafe { address.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(address: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 8];
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` floats.
            *value = unsafe { *address.add(lane) };
        }
        Portable(lanes)
    }

    #[inline(always)]
    unsafe fn store(self, address: *mut f32) {
        // SAFETY: the caller vouches for eight floats.
        unsafe { address.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, address: *mut f32, count: usize) {
        for (lane, value) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` floats.
            unsafe { *address.add(lane) = *value };
        }
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for (value, other) in self.0.iter_mut().zip(other.0) {
            *value += other;
        }
        self
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, mut addend: Self) -> Self {
        for lane in 0..8 {
            // A fused product is a library call where the baseline lacks the instruction.
            addend.0[lane] = if cfg!(target_arch = "aarch64") {
                self.0[lane].mul_add(factor.0[lane], addend.0[lane])
            } else {
                self.0[lane] * factor.0[lane] + addend.0[lane]
            };
        }
        addend
    }

    #[inline(always)]
    unsafe fn nearest_bf16(mut self) -> Self {
        self.0.iter_mut().for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
        self
    }
}

/// Registers whose products take the nearest bf16 of each factor. Sums stay f32.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<V>(V);

// SAFETY: as the registers inside.
unsafe impl<V: Vector> Vector for Rounded<V> {
    const LANES: usize = V::LANES;
    const ROWS: usize = V::ROWS;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        Rounded(unsafe { V::splat(value) })
    }

    #[inline(always)]
    unsafe fn load(address: *const f32) -> Self {
        // SAFETY: see above.
        Rounded(unsafe { V::load(address) })
    }

    #[inline(always)]
    unsafe fn load_first(address: *const f32, count: usize) -> Self {
        // SAFETY: see above.
        Rounded(unsafe { V::load_first(address, count) })
    }

    #[inline(always)]
    unsafe fn store(self, address: *mut f32) {
        // SAFETY: see above.
        unsafe { self.0.store(address) }
    }

    #[inline(always)]
    unsafe fn store_first(self, address: *mut f32, count: usize) {
        // SAFETY: see above.
        unsafe { self.0.store_first(address, count) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Rounded(unsafe { self.0.add(other.0) })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        Rounded(unsafe { self.0.multiply_add(factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn nearest_bf16(self) -> Self {
        // SAFETY: see above.
        Rounded(unsafe { self.0.nearest_bf16() })
    }

    #[inline(always)]
    unsafe fn factor(self) -> Self {
        // SAFETY: see above.
        unsafe { self.nearest_bf16() }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        // SAFETY: see above.
        unsafe { V::prefetch(address) }
    }

    #[inline(always)]
    unsafe fn prefetch_near(address: *const f32) {
        // SAFETY: see above.
        unsafe { V::prefetch_near(address) }
    }

    #[inline(always)]
    unsafe fn transpose(square: &mut [Self]) {
        let mut inner = [square[0].0; 16];
        inner.iter_mut().zip(&*square).for_each(|(inner, register)| *inner = register.0);
        // SAFETY: see above.
        unsafe { V::transpose(&mut inner[..V::LANES]) };
        square.iter_mut().zip(inner).for_each(|(register, inner)| register.0 = inner);
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    /// Of a float, those that a bf16 has.
    const KEPT_BITS: i32 = 0xffff_0000_u32 as i32;

    /// Sixteen floats.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY: the caller vouches for AVX-512F and for every pointer.
    unsafe impl Vector for Avx512 {
        const LANES: usize = 16;
        const ROWS: usize = 12;

        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: a prefetch reads nothing that the program sees.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_near(address: *const f32) {
            // SAFETY: a prefetch reads nothing that the program sees.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(address: *const f32) -> Self {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_loadu_ps(address) })
        }

        #[inline(always)]
        unsafe fn load_first(address: *const f32, count: usize) -> Self {
            // SAFETY: see the impl; masked lanes are not read.
            Avx512(unsafe { _mm512_maskz_loadu_ps(mask(count), address) })
        }

        #[inline(always)]
        unsafe fn store(self, address: *mut f32) {
            // SAFETY: see the impl.
            unsafe { _mm512_storeu_ps(address, self.0) }
        }

        #[inline(always)]
        unsafe fn store_first(self, address: *mut f32, count: usize) {
            // SAFETY: see the impl; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(address, mask(count), self.0) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }

        #[inline(always)]
        unsafe fn nearest_bf16(self) -> Self {
            // SAFETY: see the impl.
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
                let rounded = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(KEPT_BITS)));
                let no_number = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                Avx512(_mm512_mask_blend_ps(no_number, rounded, self.0))
            }
        }

        #[inline(always)]
        unsafe fn transpose(square: &mut [Self]) {
            let square: &mut [Self; 16] = square.try_into().expect("sixteen registers");
            // SAFETY: see the impl.
            unsafe {
                // Squares of 2, then of 4, inside each quarter of the registers; then the quarters themselves.
                for row in (0..16).step_by(2) {
                    let (a, b) = (square[row].0, square[row + 1].0);
                    square[row].0 = _mm512_unpacklo_ps(a, b);
                    square[row + 1].0 = _mm512_unpackhi_ps(a, b);
                }
                for row in (0..16).step_by(4) {
                    let (a, b) = (_mm512_castps_pd(square[row].0), _mm512_castps_pd(square[row + 1].0));
                    let (c, d) = (_mm512_castps_pd(square[row + 2].0), _mm512_castps_pd(square[row + 3].0));
                    square[row].0 = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                    square[row + 1].0 = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                    square[row + 2].0 = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                    square[row + 3].0 = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
                }
                for row in 0..4 {
                    let (a, b, c, d) = (square[row].0, square[row + 4].0, square[row + 8].0, square[row + 12].0);
                    let (even_top, odd_top) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    square[row].0 = _mm512_shuffle_f32x4::<0x88>(even_top, even);
                    square[row + 4].0 = _mm512_shuffle_f32x4::<0x88>(odd_top, odd);
                    square[row + 8].0 = _mm512_shuffle_f32x4::<0xdd>(even_top, even);
                    square[row + 12].0 = _mm512_shuffle_f32x4::<0xdd>(odd_top, odd);
                }
            }
        }
    }

    #[inline(always)]
    fn mask(count: usize) -> u16 {
        ((1u32 << count) - 1) as u16
    }

    /// Eight floats.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    // SAFETY: the caller vouches for AVX2, FMA and for every pointer.
    unsafe impl Vector for Avx2 {
        const LANES: usize = 8;
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: a prefetch reads nothing that the program sees.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_near(address: *const f32) {
            // SAFETY: a prefetch reads nothing that the program sees.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(address: *const f32) -> Self {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_loadu_ps(address) })
        }

        #[inline(always)]
        unsafe fn load_first(address: *const f32, count: usize) -> Self {
            // SAFETY: see the impl; masked lanes are not read.
            Avx2(unsafe { _mm256_maskload_ps(address, lanes_before(count)) })
        }

        #[inline(always)]
        unsafe fn store(self, address: *mut f32) {
            // SAFETY: see the impl.
            unsafe { _mm256_storeu_ps(address, self.0) }
        }

        #[inline(always)]
        unsafe fn store_first(self, address: *mut f32, count: usize) {
            if count >= 8 {
                // SAFETY: see the impl.
                return unsafe { _mm256_storeu_ps(address, self.0) };
            }
            // Four, two and one: a masked store is a slow program of its own on some processors.
            // SAFETY: see the impl; no more than `count` floats are written.
            unsafe {
                let (mut half, mut place) = (_mm256_castps256_ps128(self.0), address);
                if count & 4 > 0 {
                    _mm_storeu_ps(place, half);
                    (half, place) = (_mm256_extractf128_ps::<1>(self.0), place.add(4));
                }
                if count & 2 > 0 {
                    _mm_storel_pd(place.cast(), _mm_castps_pd(half));
                    (half, place) = (_mm_movehl_ps(half, half), place.add(2));
                }
                if count & 1 > 0 {
                    _mm_store_ss(place, half);
                }
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
        }

        #[inline(always)]
        unsafe fn nearest_bf16(self) -> Self {
            // SAFETY: see the impl.
            unsafe {
                let bits = _mm256_castps_si256(self.0);
                let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
                let rounded = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(KEPT_BITS)));
                let no_number = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
                Avx2(_mm256_blendv_ps(rounded, self.0, no_number))
            }
        }

        #[inline(always)]
        unsafe fn transpose(square: &mut [Self]) {
            let square: &mut [Self; 8] = square.try_into().expect("eight registers");
            // SAFETY: see the impl.
            unsafe {
                // Squares of 2, then of 4, inside each half of the registers; then the halves themselves.
                for row in (0..8).step_by(2) {
                    let (a, b) = (square[row].0, square[row + 1].0);
                    square[row].0 = _mm256_unpacklo_ps(a, b);
                    square[row + 1].0 = _mm256_unpackhi_ps(a, b);
                }
                for row in [0, 4] {
                    let (a, b) = (_mm256_castps_pd(square[row].0), _mm256_castps_pd(square[row + 1].0));
                    let (c, d) = (_mm256_castps_pd(square[row + 2].0), _mm256_castps_pd(square[row + 3].0));
                    square[row].0 = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
                    square[row + 1].0 = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
                    square[row + 2].0 = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
                    square[row + 3].0 = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
                }
                for row in 0..4 {
                    let (a, b) = (square[row].0, square[row + 4].0);
                    square[row].0 = _mm256_permute2f128_ps::<0x20>(a, b);
                    square[row + 4].0 = _mm256_permute2f128_ps::<0x31>(a, b);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn lanes_before(count: usize) -> __m256i {
        // SAFETY: called only where AVX2 is present.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::vectored;

    vectored! {
        unsafe fn round_by_level(values: &mut [f32; 16]) = round
    }

    #[inline(always)]
    unsafe fn round<V: Vector>(values: &mut [f32; 16]) {
        for first in (0..16).step_by(V::LANES) {
            // SAFETY: sixteen floats are there.
            unsafe { V::load(values.as_ptr().add(first)).nearest_bf16().store(values.as_mut_ptr().add(first)) };
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even_bf16_and_keeps_what_is_no_number() {
        let bits = [
            0x0000_0000,
            0x8000_0000,
            0x3f80_0000,
            0x3f80_7fff,
            0x3f80_8000,
            0x3f80_8001,
            0x3f81_8000,
            0xbf81_7fff,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fff_ffff,
            0x7fc0_0000,
            0x0000_8000,
            0x0001_8000,
            0x8000_0001,
        ];
        let values: [f32; 16] = bits.map(f32::from_bits);
        let (mut best, mut portable) = (values, values);
        // SAFETY: the processor has the instructions.
        unsafe {
            round_by_level(&mut best);
            round::<Portable>(&mut portable);
        }
        for (index, value) in values.into_iter().enumerate() {
            let expected = half::bf16::from_f32(value).to_f32();
            for actual in [best[index], portable[index]] {
                let is_right = actual.to_bits() == expected.to_bits() || (actual.is_nan() && expected.is_nan());
                assert!(is_right, "{:#x}: {:#x} for {:#x}", bits[index], actual.to_bits(), expected.to_bits());
            }
        }
    }
}

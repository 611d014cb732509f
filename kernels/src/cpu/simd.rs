//! Vector loops for the instruction set at hand: one body, compiled three times, chosen when the program runs.

/// Defines a function whose body is compiled for AVX-512, AVX2 and the baseline; the best one is called. Inside, `M` says how
/// a product and a sum are made ([`MultiplyAdd`]).
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters)]
            fn body<M: $crate::cpu::simd::MultiplyAdd>($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::cpu::simd::Fused;
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $result)? { body::<Fused>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? { body::<Fused>($($arg),*) }
                match $crate::cpu::simd::level() {
                    // SAFETY: `level` has found these instructions on this processor.
                    $crate::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::simd::Level::Baseline => {}
                }
            }
            body::<$crate::cpu::simd::Apart>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Defines an unsafe function that calls a generic one with the registers of this processor.
macro_rules! vectored {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $generic:ident) => {
        $(#[$meta])*
        $vis unsafe fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::cpu::vector::{Avx2, Avx512};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn avx512($($arg: $type),*) {
                    // SAFETY: the caller's promise.
                    unsafe { $generic::<Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $type),*) {
                    // SAFETY: the caller's promise.
                    unsafe { $generic::<Avx2>($($arg),*) }
                }
                match $crate::cpu::simd::level() {
                    // SAFETY: `level` has found these instructions on this processor; the rest is the caller's promise.
                    $crate::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::simd::Level::Baseline => {}
                }
            }
            // SAFETY: the caller's promise.
            unsafe { $generic::<$crate::cpu::vector::Portable>($($arg),*) }
        }
    };
}
pub(crate) use vectored;

/// Instruction sets that bodies are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The best level of this processor.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
        if has_avx2 && has_wide && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return Level::Avx512;
        }
        if has_avx2 {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Lanes that a sum is spread over: its order is fixed, whatever the instruction set.
pub(crate) const LANES: usize = 32;

/// a · b + c, rounded once or twice: a fused one is a library call where there is no instruction for it.
pub(crate) trait MultiplyAdd {
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// In one instruction.
pub(crate) struct Fused;

/// In two.
pub(crate) struct Apart;

impl MultiplyAdd for Fused {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MultiplyAdd for Apart {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// The arguments between which eˣ is a normal number.
const EXP_RANGE: (f32, f32) = (-87.3, 88.0);

/// eˣ with a relative error below 2⁻²² on [-87, 88]; 0 below, infinity above, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<M: MultiplyAdd>(x: f32) -> f32 {
    let value = bounded_exp::<M>(x);
    if x < EXP_RANGE.0 {
        0.0
    } else if x > EXP_RANGE.1 {
        f32::INFINITY
    } else {
        value
    }
}

/// The same where 1e-38 is as good as 0, and 1e38 as infinity.
#[inline(always)]
fn bounded_exp<M: MultiplyAdd>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding and subtracting it rounds to the nearest integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(EXP_RANGE.0, EXP_RANGE.1);
    let rounded = M::multiply_add(clamped, std::f32::consts::LOG2_E, ROUND);
    let power = rounded - ROUND;
    let rest = M::multiply_add(power, -LN2_LOW, M::multiply_add(power, -LN2_HIGH, clamped));
    // Minimax polynomial of (eʳ - 1 - r) / r² on [-ln 2 / 2, ln 2 / 2].
    let mut tail = 1.987_569_1e-4;
    tail = M::multiply_add(tail, rest, 1.398_199_9e-3);
    tail = M::multiply_add(tail, rest, 8.333_452e-3);
    tail = M::multiply_add(tail, rest, 4.166_579_6e-2);
    tail = M::multiply_add(tail, rest, 1.666_666_5e-1);
    tail = M::multiply_add(tail, rest, 0.5);
    let mantissa = M::multiply_add(tail * rest, rest, rest) + 1.0;
    // The low bits of `rounded` are the power itself: 2^power without a conversion.
    let scale = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    mantissa * scale
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<M: MultiplyAdd>(x: f32) -> f32 {
    1.0 / (1.0 + bounded_exp::<M>(-x))
}

/// Σ term(i) for i in 0..len, over [`LANES`] running sums that are folded in a fixed order.
#[inline(always)]
fn sum_of(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(first + lane);
        }
    }
    // What is left goes register by register, then one by one.
    let eights = whole + (len - whole) / 8 * 8;
    for first in (whole..eights).step_by(8) {
        for lane in 0..8 {
            sums[first - whole + lane] += term(first + lane);
        }
    }
    for index in eights..len {
        sums[index - whole] += term(index);
    }
    fold_lanes(sums)
}

/// Pairwise sum of the lanes.
#[inline(always)]
pub(crate) fn fold_lanes(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Σ aᵢ·bᵢ.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    sum_of(a.len(), |index| a[index] * b[index])
}

/// Σ aᵢ·bᵢ·cᵢ.
#[inline(always)]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let (b, c) = (&b[..a.len()], &c[..a.len()]);
    sum_of(a.len(), |index| a[index] * b[index] * c[index])
}

/// The largest value; -∞ for none. NaN is skipped.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut best = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = padded(chunks.remainder());
    for chunk in chunks.chain([&rest[..]]) {
        for lane in 0..LANES {
            best[lane] = larger(best[lane], chunk[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            best[lane] = larger(best[lane], best[lane + width]);
        }
        width /= 2;
    }
    best[0]
}

/// A whole chunk from the end of a row, -∞ behind it: no maximum sees it, and its exponential is 0.
#[inline(always)]
pub(crate) fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut chunk = [f32::NEG_INFINITY; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// Replaces each value by e^(scale·value - shift) and returns the sum of the results, in the order of [`dot`].
/// The row holds whole chunks of [`LANES`].
#[inline(always)]
pub(crate) fn exp_sum<M: MultiplyAdd>(values: &mut [f32], scale: f32, shift: f32) -> f32 {
    debug_assert!(values.len().is_multiple_of(LANES));
    let mut sums = [0.0f32; LANES];
    for chunk in values.chunks_exact_mut(LANES) {
        for lane in 0..LANES {
            chunk[lane] = exp::<M>(scale * chunk[lane] - shift);
            sums[lane] += chunk[lane];
        }
    }
    fold_lanes(sums)
}

/// target += scale · source.
#[inline(always)]
pub(crate) fn add_scaled(target: &mut [f32], scale: f32, source: &[f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += scale * source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        fn exp_all(values: &mut [f32]) {
            for value in values {
                *value = exp::<M>(*value);
            }
        }
    }

    #[test]
    fn exp_is_close_to_the_exact_one() {
        let points: Vec<f32> = (0..200_001).map(|step| -87.0 + 175.0 * step as f32 / 200_000.0).collect();
        let mut values = points.clone();
        exp_all(&mut values);
        let worst = points.iter().zip(&values).map(|(&x, &y)| (f64::from(y) / f64::from(x).exp() - 1.0).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3e-7, "{worst}");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp::<Apart>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Apart>(-200.0), 0.0);
        assert_eq!(exp::<Apart>(0.0), 1.0);
        assert_eq!(exp::<Apart>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<Apart>(f32::NAN).is_nan());
    }

    #[test]
    fn sums_do_not_see_zeros_behind_them() {
        let values: Vec<f32> = (0..77).map(|index| (index as f32).sin()).collect();
        let mut padded = values.clone();
        padded.resize(200, 0.0);
        assert_eq!(dot(&values, &values).to_bits(), dot(&padded, &padded).to_bits());
        assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
}

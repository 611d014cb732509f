//! AdamW on the CPU.

use half::bf16;

use super::{AdamW, Factors, first_counter};
use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::multiversion;
use crate::philox;

/// Arithmetic of one parameter, a root and a division included.
const WORK: usize = 24;

pub(super) fn step(
    stream: &Stream,
    settings: &AdamW,
    gradient: &[f32],
    parameters: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let factors = Factors::new(settings);
    let (parameters, first, second) = (Disjoint::new(parameters), Disjoint::new(first), Disjoint::new(second));
    for_each_rows(stream, gradient.len(), WORK, |range| {
        // SAFETY: ranges of tasks are disjoint.
        let (parameters, first, second) =
            unsafe { (parameters.range(range.clone()), first.range(range.clone()), second.range(range.clone())) };
        step_slice(settings, factors, &gradient[range], parameters, first, second);
    });
}

multiversion! {
    fn step_slice(
        settings: &AdamW,
        factors: Factors,
        gradient: &[f32],
        parameters: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let moments = first.iter_mut().zip(second);
        for ((gradient, parameter), (first, second)) in gradient.iter().zip(parameters).zip(moments) {
            [*parameter, *first, *second] = next(settings, factors, *gradient, [*parameter, *first, *second]);
        }
    }
}

/// Parameter, first and second moment after a step.
#[inline(always)]
fn next(settings: &AdamW, factors: Factors, gradient: f32, [parameter, first, second]: [f32; 3]) -> [f32; 3] {
    let AdamW { beta1, beta2, epsilon, gradient_scale, .. } = *settings;
    let gradient = gradient * gradient_scale;
    let first = beta1 * first + (1.0 - beta1) * gradient;
    let second = beta2 * second + (1.0 - beta2) * gradient * gradient;
    let root = second.sqrt() * factors.second_correction;
    [parameter * factors.decay - factors.rate * first / (root + epsilon), first, second]
}

pub(super) fn step_half(
    stream: &Stream,
    settings: &AdamW,
    seed: u64,
    gradient: &[f32],
    parameters: &mut [bf16],
    first: &mut [bf16],
    second: &mut [bf16],
) {
    let (factors, counter) = (Factors::new(settings), first_counter(settings));
    let (parameters, first, second) = (Disjoint::new(parameters), Disjoint::new(first), Disjoint::new(second));
    for_each_rows(stream, gradient.len(), 3 * WORK, |range| {
        for index in range {
            // SAFETY: each index is of one task.
            let state = unsafe { [parameters, first, second].map(|state| &mut state.range(index..index + 1)[0]) };
            let before = state.each_ref().map(|value| value.to_f32());
            let words = philox::words(seed, counter + index as u64 / 2);
            let [low, high] = if index % 2 == 0 { [words[0], words[1]] } else { [words[2], words[3]] };
            let after = next(settings, factors, gradient[index], before);
            for ((state, value), random) in state.into_iter().zip(after).zip([low, low >> 16, high]) {
                *state = round_at_random(value, random);
            }
        }
    });
}

/// The bf16 below or above in magnitude, by the low half of `random`.
fn round_at_random(value: f32, random: u32) -> bf16 {
    if !value.is_finite() {
        return bf16::from_f32(value);
    }
    bf16::from_bits(((value.to_bits() + (random & 0xffff)) >> 16) as u16)
}

//! AdamW on the CPU.

use super::{AdamW, Factors};
use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::multiversion;

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
        let AdamW { beta1, beta2, epsilon, gradient_scale, .. } = *settings;
        let moments = first.iter_mut().zip(second);
        for ((gradient, parameter), (first, second)) in gradient.iter().zip(parameters).zip(moments) {
            let gradient = gradient * gradient_scale;
            *first = beta1 * *first + (1.0 - beta1) * gradient;
            *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
            let root = second.sqrt() * factors.second_correction;
            *parameter = *parameter * factors.decay - factors.rate * *first / (root + epsilon);
        }
    }
}

//! AdamW: Adam with weight decay apart from the gradient. Loshchilov and Hutter, "Decoupled weight decay", 2019.

mod cpu;
pub(crate) mod cuda;

use half::bf16;

use crate::{Stream, View, ViewMut};

/// One step's settings; call once per group of parameters that share them.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
    /// Counts from 1; corrects the moments' bias towards zero.
    pub step: u64,
    /// Multiplies the gradient first: 1, or the clip factor of its global norm.
    pub gradient_scale: f32,
}

/// Updates parameters, first and second moments in place; all four have one length.
///
/// m = β₁m + (1−β₁)g, v = β₂v + (1−β₂)g², θ = θ(1 − lr·decay) − lr·m̂ / (√v̂ + ε).
pub fn step(
    stream: &Stream,
    settings: &AdamW,
    gradient: View<'_, f32>,
    parameters: ViewMut<'_, f32>,
    first: ViewMut<'_, f32>,
    second: ViewMut<'_, f32>,
) {
    let len = gradient.len();
    assert_eq!((parameters.len(), first.len(), second.len()), (len, len, len), "adamw: lengths differ");
    assert!(settings.step > 0, "adamw: steps count from 1");
    if stream.is_accelerated() {
        return cuda::step(stream, settings, gradient, parameters, first, second);
    }
    cpu::step(stream, settings, gradient.host(), parameters.host(), first.host(), second.host());
}

/// The same with parameters and moments in bf16, 6 bytes a parameter beside the gradient's 4 rather than 12. Arithmetic is f32; each new
/// value goes to one of its two neighbours at random, nearer ones likelier, so that steps far below a bf16's last digit, which
/// rounding to the nearest would drop for ever, are taken on average.
///
/// Zamirai et al., "Revisiting BFloat16 training", 2020. Parameters 2j and 2j + 1 share [`crate::philox::words`]`(seed,
/// step · 2⁴⁰ + j)`, two words each: the parameter is rounded with the low half of its first word, the first moment with the high
/// half, the second moment with the low half of its second word. A group of parameters needs a seed of its own.
pub fn step_half(
    stream: &Stream,
    settings: &AdamW,
    seed: u64,
    gradient: View<'_, f32>,
    parameters: ViewMut<'_, bf16>,
    first: ViewMut<'_, bf16>,
    second: ViewMut<'_, bf16>,
) {
    let len = gradient.len();
    assert_eq!((parameters.len(), first.len(), second.len()), (len, len, len), "adamw: lengths differ");
    assert!(settings.step > 0 && settings.step < 1 << 24, "adamw: steps count from 1 to 2²⁴ − 1");
    if stream.is_accelerated() {
        return cuda::step_half(stream, settings, seed, gradient, parameters, first, second);
    }
    cpu::step_half(stream, settings, seed, gradient.host(), parameters.host(), first.host(), second.host());
}

/// The philox counter of a step's first pair of parameters.
fn first_counter(settings: &AdamW) -> u64 {
    settings.step << 40
}

/// Settings with everything that does not change inside the loop worked out in f64.
#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    rate: f32,
    second_correction: f32,
}

impl Factors {
    fn new(settings: &AdamW) -> Factors {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(settings.step as f64);
        let rate = f64::from(settings.learning_rate);
        Factors {
            decay: (1.0 - rate * f64::from(settings.weight_decay)) as f32,
            rate: (rate / correction(settings.beta1)) as f32,
            second_correction: (1.0 / correction(settings.beta2).sqrt()) as f32,
        }
    }
}

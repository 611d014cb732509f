//! AdamW: Adam with weight decay apart from the gradient. Loshchilov and Hutter, "Decoupled weight decay", 2019.

mod cpu;

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
    cpu::step(stream, settings, gradient.host(), parameters.host(), first.host(), second.host());
}

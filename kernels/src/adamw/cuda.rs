//! AdamW on an accelerator.

use half::bf16;

use super::{AdamW, Factors, first_counter};
use crate::accelerator::{Pack, PackedKernel, Source, arguments};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("adamw", include_str!("adamw.cu")).including(&[crate::accelerator::PACKS, crate::accelerator::PHILOX]);
static STEP: PackedKernel = PackedKernel::new(&SOURCE, "adamw_step_4", "adamw_step_1");
static STEP_HALF: PackedKernel = PackedKernel::new(&SOURCE, "adamw_step_half_4", "adamw_step_half_1");

pub(super) fn step(
    stream: &Stream,
    settings: &AdamW,
    gradient: View<'_, f32>,
    parameters: ViewMut<'_, f32>,
    first: ViewMut<'_, f32>,
    second: ViewMut<'_, f32>,
) {
    let AdamW { beta1, beta2, epsilon, gradient_scale, .. } = *settings;
    let Factors { decay, rate, second_correction } = Factors::new(settings);
    let written = [&parameters, &first, &second].map(|view| view.view().address());
    let (len, pack) = (gradient.len(), Pack::of(&[], &[gradient.address(), written[0], written[1], written[2]]));
    let arguments = arguments![
        gradient,
        parameters,
        first,
        second,
        len,
        beta1,
        beta2,
        epsilon,
        gradient_scale,
        decay,
        rate,
        second_correction,
    ];
    STEP.of(pack).launch(stream, pack.over(len), arguments);
}

pub(super) fn step_half(
    stream: &Stream,
    settings: &AdamW,
    seed: u64,
    gradient: View<'_, f32>,
    parameters: ViewMut<'_, bf16>,
    first: ViewMut<'_, bf16>,
    second: ViewMut<'_, bf16>,
) {
    let AdamW { beta1, beta2, epsilon, gradient_scale, .. } = *settings;
    let Factors { decay, rate, second_correction } = Factors::new(settings);
    let written = [&parameters, &first, &second].map(|view| view.view().address());
    let (len, pack) = (gradient.len(), Pack::of(&[], &[gradient.address(), written[0], written[1], written[2]]));
    let arguments = arguments![
        gradient,
        parameters,
        first,
        second,
        len,
        seed,
        first_counter(settings),
        beta1,
        beta2,
        epsilon,
        gradient_scale,
        decay,
        rate,
        second_correction,
    ];
    STEP_HALF.of(pack).launch(stream, pack.over(len), arguments);
}

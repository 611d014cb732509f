//! Elementwise loops on the CPU.

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{add_scaled, multiversion};

multiversion! {
    pub(crate) fn add_slice(target: &mut [f32], source: &[f32]) {
        add_scaled(target, 1.0, source);
    }
}

multiversion! {
    fn scale_slice(target: &mut [f32], factor: f32) {
        for value in target {
            *value *= factor;
        }
    }
}

pub(super) fn add(stream: &Stream, source: &[f32], target: &mut [f32]) {
    let target = Disjoint::new(target);
    for_each_rows(stream, source.len(), 1, |range| {
        // SAFETY: ranges of tasks are disjoint.
        add_slice(unsafe { target.range(range.clone()) }, &source[range]);
    });
}

pub(super) fn scale(stream: &Stream, factor: f32, target: &mut [f32]) {
    let len = target.len();
    let target = Disjoint::new(target);
    // SAFETY: ranges of tasks are disjoint.
    for_each_rows(stream, len, 1, |range| scale_slice(unsafe { target.range(range) }, factor));
}

//! SwiGLU on the CPU.

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{multiversion, sigmoid};

/// Arithmetic of one element, an exponential included.
const WORK: usize = 24;

pub(super) fn forward(stream: &Stream, width: usize, gate_up: &[f32], out: &mut [f32]) {
    let rows = out.len().checked_div(width).unwrap_or(0);
    let out = Disjoint::new(out);
    for_each_rows(stream, rows, WORK * width, |range| {
        // SAFETY: ranges of tasks are disjoint.
        let out = unsafe { out.range(range.start * width..range.end * width) };
        forward_rows(width, &gate_up[2 * range.start * width..], out);
    });
}

multiversion! {
    fn forward_rows(width: usize, gate_up: &[f32], out: &mut [f32]) {
        for (out, input) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = input.split_at(width);
            for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid::<M>(gate) * up;
            }
        }
    }
}

pub(super) fn backward(stream: &Stream, width: usize, gate_up: &[f32], dout: &[f32], dgate_up: &mut [f32]) {
    let rows = dout.len().checked_div(width).unwrap_or(0);
    let dgate_up = Disjoint::new(dgate_up);
    for_each_rows(stream, rows, 2 * WORK * width, |range| {
        let (first, last) = (range.start * width, range.end * width);
        // SAFETY: ranges of tasks are disjoint.
        let target = unsafe { dgate_up.range(2 * first..2 * last) };
        backward_rows(width, &gate_up[2 * first..2 * last], &dout[first..last], target);
    });
}

multiversion! {
    fn backward_rows(width: usize, gate_up: &[f32], dout: &[f32], dgate_up: &mut [f32]) {
        for (row, dout) in dout.chunks_exact(width).enumerate() {
            let (gate, up) = gate_up[2 * row * width..2 * (row + 1) * width].split_at(width);
            let (dgate, dup) = dgate_up[2 * row * width..2 * (row + 1) * width].split_at_mut(width);
            for column in 0..width {
                let sigma = sigmoid::<M>(gate[column]);
                let silu = gate[column] * sigma;
                dup[column] = dout[column] * silu;
                dgate[column] = dout[column] * up[column] * (sigma + silu * (1.0 - sigma));
            }
        }
    }
}

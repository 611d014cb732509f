//! Sums on the CPU: fixed chunks, each over fixed lanes, in f64.

use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_task};
use crate::cpu::simd::multiversion;

/// Numbers of a task.
const CHUNK: usize = 65_536;
/// Running sums side by side.
const LANES: usize = 16;

multiversion! {
    fn sum_chunk(values: &[f32]) -> f64 {
        lanes(values, |value| value)
    }
}

multiversion! {
    fn sum_squares_chunk(values: &[f32]) -> f64 {
        lanes(values, |value| value * value)
    }
}

#[inline(always)]
fn lanes(values: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += term(f64::from(chunk[lane]));
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += term(f64::from(value));
    }
    sums.iter().sum()
}

pub(super) fn sum(stream: &Stream, values: &[f32]) -> f64 {
    chunks(stream, values, sum_chunk)
}

pub(super) fn sum_squares(stream: &Stream, values: &[f32]) -> f64 {
    chunks(stream, values, sum_squares_chunk)
}

fn chunks(stream: &Stream, values: &[f32], sum: fn(&[f32]) -> f64) -> f64 {
    let mut partial = vec![0.0f64; values.len().div_ceil(CHUNK)];
    let tasks = partial.len();
    let partials = Disjoint::new(&mut partial);
    for_each_task(stream, tasks, 2 * values.len(), |task| {
        let chunk = &values[task * CHUNK..values.len().min((task + 1) * CHUNK)];
        // SAFETY: each task has a place of its own.
        let place = unsafe { partials.range(task..task + 1) };
        place[0] = sum(chunk);
    });
    partial.iter().sum()
}

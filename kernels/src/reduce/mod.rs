//! Sums of a whole view, in f64 and in one order. Reading the result waits for the stream.

mod cpu;

use crate::{Stream, View};

/// Σ x.
pub fn sum(stream: &Stream, values: View<'_, f32>) -> f64 {
    cpu::sum(stream, values.host())
}

/// Σ x², for global norms.
pub fn sum_squares(stream: &Stream, values: View<'_, f32>) -> f64 {
    cpu::sum_squares(stream, values.host())
}

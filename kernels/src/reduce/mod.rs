//! Sums of a whole view, in f64 and in one order. Reading the result waits for the stream.

mod cpu;
pub(crate) mod cuda;

use crate::{Profile, Stream, View};

/// Bytes of an accelerator's workspace in which the gradient of a vector of `width`, one for all rows, is summed.
pub fn workspace_bytes(profile: Profile, rows: usize, width: usize) -> usize {
    profile.workspace_bytes(|_, _| cuda::strips_bytes(rows, width))
}

/// Σ x.
pub fn sum(stream: &Stream, values: View<'_, f32>) -> f64 {
    if stream.is_accelerated() {
        return cuda::sum(stream, values);
    }
    cpu::sum(stream, values.host())
}

/// Σ x², for global norms.
pub fn sum_squares(stream: &Stream, values: View<'_, f32>) -> f64 {
    if stream.is_accelerated() {
        return cuda::sum_squares(stream, values);
    }
    cpu::sum_squares(stream, values.host())
}

//! RMSNorm on the CPU.

use super::Write;
use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{dot, dot3, multiversion};
use crate::cpu::sums::ColumnSums;

/// What forward saw and saved.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub rstd: &'a [f32],
}

pub(super) fn forward(
    stream: &Stream,
    width: usize,
    epsilon: f32,
    x: &[f32],
    weight: &[f32],
    out: &mut [f32],
    rstd: &mut [f32],
) {
    let rows = rstd.len();
    let (out, rstd) = (Disjoint::new(out), Disjoint::new(rstd));
    for_each_rows(stream, rows, 4 * width, |range| {
        let part = range.start * width..range.end * width;
        // SAFETY: ranges of tasks are disjoint.
        let (out, rstd) = unsafe { (out.range(part.clone()), rstd.range(range)) };
        forward_rows(epsilon, &x[part], weight, out, rstd);
    });
}

multiversion! {
    fn forward_rows(epsilon: f32, x: &[f32], weight: &[f32], out: &mut [f32], rstd: &mut [f32]) {
        let width = weight.len();
        for (row, rstd) in rstd.iter_mut().enumerate() {
            let x = &x[row * width..(row + 1) * width];
            *rstd = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            for ((out, x), weight) in out[row * width..(row + 1) * width].iter_mut().zip(x).zip(weight) {
                *out = x * *rstd * weight;
            }
        }
    }
}

pub(super) fn backward(
    stream: &Stream,
    saved: Saved<'_>,
    dout: &[f32],
    write: Write,
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    let (rows, width) = (saved.rstd.len(), saved.weight.len());
    let dx = Disjoint::new(dx);
    let sums = ColumnSums { rows, width };
    // One pass over each row serves both gradients.
    sums.add_to(stream, dweight, |row, dweight| {
        let part = row * width..(row + 1) * width;
        // SAFETY: rows are disjoint.
        let dx = unsafe { dx.range(part.clone()) };
        backward_row(&saved.x[part.clone()], saved.weight, saved.rstd[row], &dout[part], write, dx, dweight);
    });
}

multiversion! {
    fn backward_row(
        x: &[f32],
        weight: &[f32],
        rstd: f32,
        dout: &[f32],
        write: Write,
        dx: &mut [f32],
        dweight: &mut [f32],
    ) {
        let width = x.len();
        let (weight, dout, dx, dweight) = (&weight[..width], &dout[..width], &mut dx[..width], &mut dweight[..width]);
        let mean = dot3(weight, dout, x) * rstd / width as f32;
        let keep = write == Write::Accumulate;
        for column in 0..width {
            let normed = x[column] * rstd;
            let before = if keep { dx[column] } else { 0.0 };
            dweight[column] += dout[column] * normed;
            dx[column] = before + rstd * (weight[column] * dout[column] - normed * mean);
        }
    }
}

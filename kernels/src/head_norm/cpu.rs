//! RMSNorm of heads on the CPU.

use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::{dot, dot3, multiversion};
use crate::cpu::sums::ColumnSums;
use crate::{Heads, Stream};

/// What forward saw and saved.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub rstd: &'a [f32],
}

pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    epsilon: f32,
    x: &[f32],
    weight: &[f32],
    out: &mut [f32],
    rstd: &mut [f32],
) {
    let (packed, normed) = (heads.packed_width(), heads.query + heads.key_value);
    let rows = rstd.len() / normed;
    let (out, rstd) = (Disjoint::new(out), Disjoint::new(rstd));
    for_each_rows(stream, rows, 4 * packed, |range| {
        for row in range {
            let part = row * packed..(row + 1) * packed;
            // SAFETY: rows are disjoint.
            let (out, rstd) = unsafe { (out.range(part.clone()), rstd.range(row * normed..(row + 1) * normed)) };
            forward_row(heads.query, epsilon, &x[part], weight, out, rstd);
        }
    });
}

multiversion! {
    fn forward_row(queries: usize, epsilon: f32, x: &[f32], weight: &[f32], out: &mut [f32], rstd: &mut [f32]) {
        let width = weight.len() / 2;
        let (of_queries, of_keys) = weight.split_at(width);
        for (head, rstd) in rstd.iter_mut().enumerate() {
            let weight = if head < queries { of_queries } else { of_keys };
            let (x, out) = (&x[head * width..(head + 1) * width], &mut out[head * width..(head + 1) * width]);
            *rstd = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * *rstd * weight;
            }
        }
        let values = rstd.len() * width;
        out[values..].copy_from_slice(&x[values..]);
    }
}

pub(super) fn backward(stream: &Stream, heads: Heads, saved: Saved<'_>, dqkv: &mut [f32], dweight: &mut [f32]) {
    let (packed, normed) = (heads.packed_width(), heads.query + heads.key_value);
    let sums = ColumnSums { rows: saved.rstd.len() / normed, width: dweight.len() };
    let dqkv = Disjoint::new(dqkv);
    // One pass over each row serves both gradients.
    sums.add_to(stream, dweight, |row, dweight| {
        let (part, rstd) = (row * packed..(row + 1) * packed, row * normed..(row + 1) * normed);
        // SAFETY: rows are disjoint.
        let dqkv = unsafe { dqkv.range(part.clone()) };
        backward_row(heads.query, &saved.x[part], saved.weight, &saved.rstd[rstd], dqkv, dweight);
    });
}

multiversion! {
    fn backward_row(queries: usize, x: &[f32], weight: &[f32], rstd: &[f32], dqkv: &mut [f32], dweight: &mut [f32]) {
        let width = weight.len() / 2;
        for (head, &rstd) in rstd.iter().enumerate() {
            let of = if head < queries { 0..width } else { width..2 * width };
            let (weight, dweight) = (&weight[of.clone()], &mut dweight[of]);
            let (x, dqkv) = (&x[head * width..(head + 1) * width], &mut dqkv[head * width..(head + 1) * width]);
            let mean = dot3(weight, dqkv, x) * rstd / width as f32;
            for column in 0..width {
                let (normed, dout) = (x[column] * rstd, dqkv[column]);
                dweight[column] += dout * normed;
                dqkv[column] = rstd * (weight[column] * dout - normed * mean);
            }
        }
    }
}

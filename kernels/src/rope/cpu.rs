//! Rotary embedding on the CPU.

use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::simd::multiversion;
use crate::{Heads, Stream};

/// `direction` 1 turns forward, -1 back.
pub(super) fn rotate(
    stream: &Stream,
    heads: Heads,
    positions: &[u32],
    tables: &[f32],
    direction: f32,
    qkv: &mut [f32],
) {
    let (row_width, turned) = (heads.packed_width(), (heads.query + heads.key_value) * heads.width);
    let qkv = Disjoint::new(qkv);
    for_each_rows(stream, positions.len(), 6 * turned, |range| {
        for row in range {
            let first = positions[row] as usize * heads.width;
            // SAFETY: rows are disjoint.
            let values = unsafe { qkv.range(row * row_width..row * row_width + turned) };
            rotate_row(&tables[first..first + heads.width], direction, values);
        }
    });
}

multiversion! {
    fn rotate_row(table: &[f32], direction: f32, values: &mut [f32]) {
        let half = table.len() / 2;
        let (cosines, sines) = table.split_at(half);
        for head in values.chunks_exact_mut(table.len()) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                let (x, y, sine) = (*low, *high, direction * sine);
                *low = x * cosine - y * sine;
                *high = y * cosine + x * sine;
            }
        }
    }
}

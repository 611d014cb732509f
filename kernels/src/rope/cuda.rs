//! Rotary embedding on an accelerator.

use crate::accelerator::{Pack, PackedKernel, Source, arguments, narrow};
use crate::{Heads, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("rope", include_str!("rope.cu")).including(&[crate::accelerator::PACKS]);
static ROTATE: PackedKernel = PackedKernel::new(&SOURCE, "rope_rotate_4", "rope_rotate_1");

/// `direction` 1 turns forward, -1 back.
pub(super) fn rotate(
    stream: &Stream,
    heads: Heads,
    positions: View<'_, u32>,
    tables: View<'_, f32>,
    direction: f32,
    qkv: ViewMut<'_, f32>,
) {
    let (half, rows) = (heads.width / 2, positions.len());
    let (known, pairs) = (tables.len() / heads.width, (heads.query + heads.key_value) * half);
    let pack = Pack::of(&[half], &[tables.address(), qkv.view().address()]);
    let [known, half, pairs_of_row, row_width] = [known, half, pairs, heads.packed_width()].map(narrow);
    let arguments = arguments![positions, tables, qkv, known, half, pairs_of_row, row_width, direction];
    ROTATE.of(pack).launch(stream, pack.over_rows(rows, pairs), arguments);
}

//! Row copies and sums on an accelerator.

use crate::accelerator::{Pack, PackedKernel, Source, arguments, narrow};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("rows", include_str!("rows.cu")).including(&[crate::accelerator::PACKS]);
static GATHER: PackedKernel = PackedKernel::new(&SOURCE, "rows_gather_4", "rows_gather_1");
static SCATTER_ADD: PackedKernel = PackedKernel::new(&SOURCE, "rows_scatter_add_4", "rows_scatter_add_1");

pub(super) fn gather(
    stream: &Stream,
    width: usize,
    source: View<'_, f32>,
    indices: View<'_, u32>,
    out: ViewMut<'_, f32>,
) {
    let (rows, known) = (indices.len(), source.len().checked_div(width).unwrap_or(0));
    let pack = Pack::of(&[width], &[source.address(), out.view().address()]);
    let arguments = arguments![source, indices, out, known, narrow(width)];
    GATHER.of(pack).launch(stream, pack.over_rows(rows, width), arguments);
}

pub(super) fn scatter_add(
    stream: &Stream,
    width: usize,
    source: View<'_, f32>,
    indices: View<'_, u32>,
    target: ViewMut<'_, f32>,
) {
    let (rows, known) = (indices.len(), target.len().checked_div(width).unwrap_or(0));
    let pack = Pack::of(&[width], &[source.address(), target.view().address()]);
    let arguments = arguments![source, indices, target, known, narrow(rows), narrow(width)];
    SCATTER_ADD.of(pack).launch(stream, pack.over_rows(rows, width), arguments);
}

//! Parts of columns on an accelerator.

use std::ops::Range;

use crate::accelerator::{Pack, PackedKernel, Source, arguments, narrow};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source =
    Source::new("columns", include_str!("columns.cu")).including(&[crate::accelerator::PACKS]);
static ADD: PackedKernel = PackedKernel::new(&SOURCE, "columns_add_4", "columns_add_1");
static TAKE: PackedKernel = PackedKernel::new(&SOURCE, "columns_take_4", "columns_take_1");

pub(super) fn add(
    stream: &Stream,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    source: View<'_, f32>,
    target: ViewMut<'_, f32>,
) {
    launch(stream, &ADD, width, columns, factor, source, target, source.len());
}

pub(super) fn take(
    stream: &Stream,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    source: View<'_, f32>,
    out: ViewMut<'_, f32>,
) {
    let numbers = out.len();
    launch(stream, &TAKE, width, columns, factor, source, out, numbers);
}

/// Both read the first view and write the second; `numbers` are those of the part.
fn launch(
    stream: &Stream,
    kernel: &'static PackedKernel,
    width: usize,
    columns: Range<usize>,
    factor: f32,
    from: View<'_, f32>,
    to: ViewMut<'_, f32>,
    numbers: usize,
) {
    let (first, part) = (columns.start, columns.len());
    let pack = Pack::of(&[width, first, part], &[from.address(), to.view().address()]);
    let sizes = [width, first, part].map(narrow);
    let arguments = arguments![from, to, sizes[0], sizes[1], sizes[2], factor];
    kernel.of(pack).launch(stream, pack.over_rows(numbers / part, part), arguments);
}

//! Dense products on an accelerator: by the vendor's library where there is one (cuBLASLt), else by our own tiles.

use super::tiles::{self, Lines, Rounded, RoundedView};
use super::{Layout, Write};
use crate::accelerator::{Factor, Product};
use crate::{Precision, Stream, View, ViewMut};

/// C (= | +=) op(A)·op(B) in the device's precision.
pub(super) fn matmul(
    stream: &Stream,
    layout: Layout,
    shape: (usize, usize, usize),
    a: View<'_, f32>,
    b: View<'_, f32>,
    write: Write,
    c: ViewMut<'_, f32>,
) {
    let ((a_lines, a_width), (b_lines, b_width)) = lines(layout, shape);
    match stream.device().precision() {
        Precision::F32 => float(stream, layout, shape, (a, a_width), (b, b_width), write, c),
        Precision::Bf16 => {
            let (a, b) = (Rounded::new(stream, a_lines, a_width, a), Rounded::new(stream, b_lines, b_width, b));
            half(stream, layout, shape, a.view(), b.view(), write, c);
        }
    }
}

/// Bytes of the workspace: both factors, where they are rounded.
pub(super) fn workspace_bytes(precision: Precision, layout: Layout, shape: (usize, usize, usize)) -> usize {
    let ((a_lines, a_width), (b_lines, b_width)) = lines(layout, shape);
    Lines::bytes(precision, a_lines, a_width) + Lines::bytes(precision, b_lines, b_width)
}

/// Lines and their length of A and of B, as they lie in memory.
fn lines(layout: Layout, (m, n, k): (usize, usize, usize)) -> ((usize, usize), (usize, usize)) {
    let a = if layout == Layout::Tn { (k, m) } else { (m, k) };
    let b = if layout == Layout::Nt { (n, k) } else { (k, n) };
    (a, b)
}

fn float(
    stream: &Stream,
    layout: Layout,
    shape: (usize, usize, usize),
    (a, a_line): (View<'_, f32>, usize),
    (b, b_line): (View<'_, f32>, usize),
    write: Write,
    c: ViewMut<'_, f32>,
) {
    let factors = (Factor { address: a.address(), line: a_line }, Factor { address: b.address(), line: b_line });
    if !is_done_by_library(stream, Precision::F32, layout, shape, factors, write, c.view()) {
        tiles::float_product(stream, layout, shape, a, b, write, c);
    }
}

/// C (= | +=) op(A)·op(B) of factors that are rounded already.
pub(crate) fn half(
    stream: &Stream,
    layout: Layout,
    shape: (usize, usize, usize),
    a: RoundedView<'_>,
    b: RoundedView<'_>,
    write: Write,
    c: ViewMut<'_, f32>,
) {
    let factor = |of: RoundedView<'_>| Factor { address: of.values.address(), line: of.line_length };
    if !is_done_by_library(stream, Precision::Bf16, layout, shape, (factor(a), factor(b)), write, c.view()) {
        tiles::half_product(stream, layout, shape, a, b, write, c);
    }
}

/// A product without terms or elements is left to our own, which know what to do.
fn is_done_by_library(
    stream: &Stream,
    precision: Precision,
    layout: Layout,
    (m, n, k): (usize, usize, usize),
    (a, b): (Factor, Factor),
    write: Write,
    c: View<'_, f32>,
) -> bool {
    let accelerator = stream.accelerator().expect("cuda.rs is for accelerators");
    assert!(c.place() == accelerator.place(), "matmul: C is memory of another device");
    let product = Product { precision, layout, m, n, k, a, b, write, c: c.address() };
    m > 0 && n > 0 && k > 0 && accelerator.product(&product)
}

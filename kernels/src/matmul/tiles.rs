//! Dense products by our own kernels: what an emulated device computes, and what fused kernels build on.

use std::ops::Range;

use half::bf16;

use super::{Layout, Write, cuda};
use crate::accelerator::{Grid, Kernel, Source, arguments};
use crate::{Buffer, Precision, Stream, View, ViewMut};

pub(crate) const FLOAT_TILE_HEADER: (&str, &str) = ("float_tile.cuh", include_str!("float_tile.cuh"));
pub(crate) const HALF_TILE_HEADER: (&str, &str) = ("half_tile.cuh", include_str!("half_tile.cuh"));

pub(crate) static SOURCE: Source =
    Source::new("matmul", include_str!("matmul.cu")).including(&[FLOAT_TILE_HEADER, HALF_TILE_HEADER]);
static FLOAT_NN: Kernel = Kernel::new(&SOURCE, "matmul_float_nn");
static FLOAT_NT: Kernel = Kernel::new(&SOURCE, "matmul_float_nt");
static FLOAT_TN: Kernel = Kernel::new(&SOURCE, "matmul_float_tn");
static HALF_NN: Kernel = Kernel::new(&SOURCE, "matmul_half_nn");
static HALF_NT: Kernel = Kernel::new(&SOURCE, "matmul_half_nt");
static HALF_TN: Kernel = Kernel::new(&SOURCE, "matmul_half_tn");
static ROUND: Kernel = Kernel::new(&SOURCE, "matmul_round");

/// `FLOAT_TILE` and `FLOAT_THREADS` of float_tile.cuh.
pub(crate) const FLOAT_TILE: usize = 64;
pub(crate) const FLOAT_THREADS: u32 = 64;
/// `HALF_TILE`, `HALF_THREADS` and `HALF_SHARED_BYTES` of half_tile.cuh.
pub(crate) const HALF_TILE: usize = 128;
pub(crate) const HALF_THREADS: u32 = 256;
pub(crate) const HALF_SHARED_BYTES: usize = 3 * 2 * HALF_TILE * 64 * 2;

/// Lines of rounded factors are a multiple of this: 16 bytes, what one copy to shared memory brings.
const LINE_STEP: usize = 8;
const ROUND_THREADS: u32 = 256;

/// A matrix rounded to bf16 for tensor cores.
#[derive(Debug)]
pub(crate) struct Rounded {
    values: Buffer<bf16>,
    line_length: usize,
}

impl Rounded {
    /// The length of a line that holds `width` values.
    pub(crate) fn line_length(width: usize) -> usize {
        width.next_multiple_of(LINE_STEP)
    }

    /// Numbers that `[lines, width]` takes.
    pub(crate) fn len(lines: usize, width: usize) -> usize {
        lines * Rounded::line_length(width)
    }

    /// The nearest bf16 of each value of `[lines, width]`.
    pub(crate) fn new(stream: &Stream, lines: usize, width: usize, source: View<'_, f32>) -> Rounded {
        let line_length = Rounded::line_length(width);
        let mut values = stream.workspace(Rounded::len(lines, width));
        let grid = Grid::over(lines * line_length / LINE_STEP, ROUND_THREADS);
        ROUND.launch(stream, grid, arguments![source, values.view_mut(), lines, width, line_length]);
        Rounded { values, line_length }
    }

    /// All of it.
    pub(crate) fn view(&self) -> RoundedView<'_> {
        RoundedView { values: self.values.view(), line_length: self.line_length }
    }

    /// Some lines of it.
    pub(crate) fn lines(&self, lines: Range<usize>) -> RoundedView<'_> {
        let range = lines.start * self.line_length..lines.end * self.line_length;
        RoundedView { values: self.values.slice(range), line_length: self.line_length }
    }
}

/// Lines of a [`Rounded`] matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundedView<'a> {
    pub values: View<'a, bf16>,
    pub line_length: usize,
}

/// A factor as products of one precision take it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Factor<'a> {
    Float(View<'a, f32>),
    Half(RoundedView<'a>),
}

/// A matrix of which products take some lines: as it is, or rounded where the device's precision says so.
pub(crate) enum Lines<'a> {
    Float { values: View<'a, f32>, width: usize },
    Half(Rounded),
}

impl<'a> Lines<'a> {
    /// Bytes of a workspace that `[lines, width]` takes.
    pub(crate) fn bytes(precision: Precision, lines: usize, width: usize) -> usize {
        match precision {
            Precision::F32 => 0,
            Precision::Bf16 => size_of::<bf16>() * Rounded::len(lines, width),
        }
    }

    pub(crate) fn new(stream: &Stream, lines: usize, width: usize, values: View<'a, f32>) -> Lines<'a> {
        match stream.device().precision() {
            Precision::F32 => Lines::Float { values, width },
            Precision::Bf16 => Lines::Half(Rounded::new(stream, lines, width, values)),
        }
    }

    pub(crate) fn part(&self, lines: Range<usize>) -> Factor<'_> {
        match self {
            Lines::Float { values, width } => Factor::Float(values.slice(lines.start * width..lines.end * width)),
            Lines::Half(rounded) => Factor::Half(rounded.lines(lines)),
        }
    }
}

/// C (= | +=) op(A)·op(B) of factors of one precision.
pub(crate) fn product(
    stream: &Stream,
    layout: Layout,
    (m, n, k): (usize, usize, usize),
    factors: (Factor<'_>, Factor<'_>),
    write: Write,
    c: ViewMut<'_, f32>,
) {
    match factors {
        (Factor::Float(a), Factor::Float(b)) => super::matmul(stream, layout, m, n, k, a, b, write, c),
        (Factor::Half(a), Factor::Half(b)) => cuda::half(stream, layout, (m, n, k), a, b, write, c),
        _ => unreachable!("both factors are of the device's precision"),
    }
}

/// C (= | +=) op(A)·op(B) in f32 throughout.
pub(crate) fn float_product(
    stream: &Stream,
    layout: Layout,
    (m, n, k): (usize, usize, usize),
    a: View<'_, f32>,
    b: View<'_, f32>,
    write: Write,
    c: ViewMut<'_, f32>,
) {
    let kernel = match layout {
        Layout::Nn => &FLOAT_NN,
        Layout::Nt => &FLOAT_NT,
        Layout::Tn => &FLOAT_TN,
    };
    let grid = Grid::cube([n.div_ceil(FLOAT_TILE), m.div_ceil(FLOAT_TILE), 1], FLOAT_THREADS);
    kernel.launch(stream, grid, arguments![a, b, c, m, n, k, write == Write::Accumulate]);
}

/// C (= | +=) op(A)·op(B) of rounded factors, summed in f32 on tensor cores.
pub(crate) fn half_product(
    stream: &Stream,
    layout: Layout,
    (m, n, k): (usize, usize, usize),
    a: RoundedView<'_>,
    b: RoundedView<'_>,
    write: Write,
    c: ViewMut<'_, f32>,
) {
    let kernel = match layout {
        Layout::Nn => &HALF_NN,
        Layout::Nt => &HALF_NT,
        Layout::Tn => &HALF_TN,
    };
    let grid = half_grid([n.div_ceil(HALF_TILE), m.div_ceil(HALF_TILE), 1]);
    let (a_line, b_line) = (a.line_length, b.line_length);
    kernel.launch(stream, grid, arguments![a.values, a_line, b.values, b_line, c, m, n, k, write == Write::Accumulate]);
}

/// Blocks that work on tiles of half_tile.cuh.
pub(crate) fn half_grid(blocks: [usize; 3]) -> Grid {
    Grid::cube(blocks, HALF_THREADS).shared(HALF_SHARED_BYTES)
}

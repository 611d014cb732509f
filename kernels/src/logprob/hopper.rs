//! The fused head on Hopper: rounded factors by tensor maps, products by warpgroups.

use std::ops::Range;

use half::bf16;

use super::cuda::{RUNNING_HEADER, SEEN_HEADER, Saved};
use crate::accelerator::{Grid, Kernel, Source, TensorMap, TensorMapShape, arguments};
use crate::matmul::tiles::{Rounded, RoundedView};
use crate::{Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("logprob_hopper", include_str!("logprob_hopper.cu"))
    .including(&[("hopper.cuh", include_str!("../accelerator/hopper.cuh")), SEEN_HEADER, RUNNING_HEADER])
    .hopper_only();
static FORWARD: Kernel = Kernel::new(&SOURCE, "logprob_hopper_forward");
static GRADIENT: Kernel = Kernel::new(&SOURCE, "logprob_hopper_gradient");

/// `HEAD_ROWS`, `HEAD_COLUMNS`, `HEAD_DEPTH` and `HEAD_THREADS` of logprob_hopper.cu.
const ROWS: usize = 128;
const COLUMNS: usize = 256;
const DEPTH: usize = 64;
const THREADS: u32 = 384;
/// `HEAD_STAGES` stages of both factors, and two barriers for each.
const SHARED_BYTES: usize = 4 * (2 * (ROWS + COLUMNS) * DEPTH + 2 * 8);
/// Columns that a block of backward goes through: enough tiles that copies run on while one is read off.
const BLOCK_COLUMNS: usize = 4 * COLUMNS;

/// Whether the device has what these kernels need.
pub(super) fn is_there(stream: &Stream) -> bool {
    stream.device().architecture().is_some_and(|architecture| architecture.has_warpgroup_products())
}

/// As `logprob_half_forward`: what each row sees of each piece, and the targets' logits.
pub(super) fn forward(
    stream: &Stream,
    (hidden, weight): (RoundedView<'_>, RoundedView<'_>),
    targets: View<'_, u32>,
    logp: ViewMut<'_, f32>,
    partials: ViewMut<'_, f32>,
    (rows, vocabulary, piece_columns): (usize, usize, usize),
    scale: f32,
) {
    let grid = grid(rows, vocabulary.div_ceil(piece_columns));
    let (line, hidden, weight) = (hidden.line_length, map(stream, hidden, ROWS), map(stream, weight, COLUMNS));
    FORWARD.launch(
        stream,
        grid,
        arguments![hidden, weight, targets, logp, partials, rows, vocabulary, line, piece_columns, scale],
    );
}

/// As `logprob_half_gradient`: rounded dlogits of a piece of the vocabulary, of which `weight` has the lines.
pub(super) fn gradient(
    stream: &Stream,
    (hidden, weight): (RoundedView<'_>, RoundedView<'_>),
    saved: Saved<'_>,
    dlogits: ViewMut<'_, bf16>,
    piece: Range<usize>,
    scale: f32,
) {
    let (rows, columns, first) = (saved.targets.len(), piece.len(), piece.start);
    let (line, dlogits_line) = (hidden.line_length, Rounded::line_length(columns));
    let (hidden, weight) = (map(stream, hidden, ROWS), map(stream, weight, COLUMNS));
    let Saved { targets, lse, dlogp, .. } = saved;
    let (entropy, dentropy) = saved.entropies();
    GRADIENT.launch(
        stream,
        grid(rows, columns.div_ceil(BLOCK_COLUMNS)),
        arguments![
            hidden,
            weight,
            targets,
            lse,
            dlogp,
            entropy,
            dentropy,
            dlogits,
            rows,
            columns,
            line,
            dlogits_line,
            first,
            BLOCK_COLUMNS,
            scale
        ],
    );
}

fn grid(rows: usize, pieces: usize) -> Grid {
    Grid::cube([rows.div_ceil(ROWS), pieces, 1], THREADS).shared(SHARED_BYTES)
}

/// Boxes of so many lines by [`DEPTH`] terms.
fn map(stream: &Stream, factor: RoundedView<'_>, box_lines: usize) -> TensorMap {
    let RoundedView { values, line_length } = factor;
    stream.accelerator().expect("cuda.rs is for accelerators").tensor_map(TensorMapShape {
        address: values.address(),
        rows: (values.len() / line_length) as u64,
        columns: line_length as u64,
        stride_bytes: 2 * line_length as u64,
        box_rows: box_lines as u32,
        box_columns: DEPTH as u32,
    })
}

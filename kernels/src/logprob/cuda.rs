//! The fused head on an accelerator: logits live as tiles in registers, their gradients as one bounded piece.

use std::ops::Range;

use half::bf16;

use super::{EntropyGradient, Head, hopper};
use crate::accelerator::{Grid, Kernel, Source, arguments};
use crate::matmul::tiles::{self, FLOAT_THREADS, FLOAT_TILE, Factor, HALF_TILE, Lines, Rounded, RoundedView};
use crate::{Buffer, Layout, Precision, Stream, View, ViewMut, Write};

pub(super) const SEEN_HEADER: (&str, &str) = ("seen.cuh", include_str!("seen.cuh"));
pub(super) const RUNNING_HEADER: (&str, &str) = ("running.cuh", include_str!("running.cuh"));

pub(crate) static SOURCE: Source = Source::new("logprob", include_str!("logprob.cu")).including(&[
    tiles::FLOAT_TILE_HEADER,
    tiles::HALF_TILE_HEADER,
    SEEN_HEADER,
    RUNNING_HEADER,
]);
static FLOAT_FORWARD: Kernel = Kernel::new(&SOURCE, "logprob_float_forward");
static HALF_FORWARD: Kernel = Kernel::new(&SOURCE, "logprob_half_forward");
static FINISH: Kernel = Kernel::new(&SOURCE, "logprob_finish");
static FLOAT_GRADIENT: Kernel = Kernel::new(&SOURCE, "logprob_float_gradient");
static HALF_GRADIENT: Kernel = Kernel::new(&SOURCE, "logprob_half_gradient");

/// Columns of the vocabulary that one block of forward goes through. The same whatever the rows: log-probabilities of a row must
/// not depend on its neighbours.
const FORWARD_COLUMNS: usize = 1024;
/// Rows and columns whose gradients of logits exist at once in backward: 128 MiB of f32. So many columns that adding to dhidden
/// costs little beside the products, so many rows that adding to dweight does.
const BACKWARD_ROWS: usize = 4096;
const BACKWARD_COLUMNS: usize = 8192;
const FINISH_THREADS: u32 = 256;

/// Numbers that forward's pieces leave.
fn partials_len(rows: usize, vocabulary: usize) -> usize {
    vocabulary.div_ceil(FORWARD_COLUMNS) * 3 * rows
}

/// Bytes of the workspace: rounded factors, and partial sums or gradients of logits.
pub(super) fn workspace_bytes(precision: Precision, rows: usize, head: Head, is_backward: bool) -> usize {
    let Head { vocabulary, width, .. } = head;
    let factors = Lines::bytes(precision, rows, width) + Lines::bytes(precision, vocabulary, width);
    let partials = size_of::<f32>() * partials_len(rows, vocabulary);
    factors + if is_backward { Gradients::bytes(precision, rows, vocabulary) } else { partials }
}

/// Where forward writes.
pub(super) struct Outputs<'a> {
    pub logp: ViewMut<'a, f32>,
    pub lse: ViewMut<'a, f32>,
    pub entropy: Option<ViewMut<'a, f32>>,
}

pub(super) fn forward(
    stream: &Stream,
    head: Head,
    hidden: View<'_, f32>,
    weight: View<'_, f32>,
    targets: View<'_, u32>,
    outputs: Outputs<'_>,
) {
    let Head { vocabulary, width, .. } = head;
    let (rows, pieces) = (targets.len(), vocabulary.div_ceil(FORWARD_COLUMNS));
    let Outputs { mut logp, lse, entropy } = outputs;
    if rows == 0 {
        return;
    }
    // The largest first: what a workspace has to spare is lost where the next piece does not fit.
    let weight = Lines::new(stream, vocabulary, width, weight);
    let hidden = Lines::new(stream, rows, width, hidden);
    let mut partials = stream.workspace::<f32>(partials_len(rows, vocabulary));
    see(
        stream,
        head,
        (hidden.part(0..rows), weight.part(0..vocabulary)),
        targets,
        logp.reborrow(),
        partials.view_mut(),
    );
    let grid = Grid::over(rows, FINISH_THREADS);
    FINISH.launch(stream, grid, arguments![partials.view_mut(), targets, logp, lse, entropy, rows, vocabulary, pieces]);
}

/// What each row sees of each piece of the vocabulary, partials`[pieces, 3, rows]`, and the targets' logits.
fn see(
    stream: &Stream,
    head: Head,
    factors: (Factor<'_>, Factor<'_>),
    targets: View<'_, u32>,
    logp: ViewMut<'_, f32>,
    partials: ViewMut<'_, f32>,
) {
    let (Head { vocabulary, width, temperature }, rows) = (head, targets.len());
    let (pieces, columns, scale) = (vocabulary.div_ceil(FORWARD_COLUMNS), FORWARD_COLUMNS, 1.0 / temperature);
    match factors {
        (Factor::Float(hidden), Factor::Float(weight)) => FLOAT_FORWARD.launch(
            stream,
            Grid::cube([rows.div_ceil(FLOAT_TILE), pieces, 1], FLOAT_THREADS),
            arguments![hidden, weight, targets, logp, partials, rows, vocabulary, width, columns, scale],
        ),
        (Factor::Half(hidden), Factor::Half(weight)) if hopper::is_there(stream) => {
            hopper::forward(stream, (hidden, weight), targets, logp, partials, (rows, vocabulary, columns), scale);
        }
        (Factor::Half(hidden), Factor::Half(weight)) => {
            let (line, hidden, weight) = (hidden.line_length, hidden.values, weight.values);
            HALF_FORWARD.launch(
                stream,
                tiles::half_grid([rows.div_ceil(HALF_TILE), pieces, 1]),
                arguments![hidden, weight, targets, logp, partials, rows, vocabulary, line, columns, scale],
            );
        }
        _ => unreachable!("both factors are of the device's precision"),
    }
}

/// What backward knows of each row.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub targets: View<'a, u32>,
    pub lse: View<'a, f32>,
    pub dlogp: View<'a, f32>,
    pub entropy: Option<EntropyGradient<'a>>,
}

impl<'a> Saved<'a> {
    fn rows(self, rows: Range<usize>) -> Saved<'a> {
        let part = |view: View<'a, f32>| view.slice(rows.clone());
        Saved {
            targets: self.targets.slice(rows.clone()),
            lse: part(self.lse),
            dlogp: part(self.dlogp),
            entropy: self.entropy.map(|EntropyGradient { entropy, dentropy }| EntropyGradient {
                entropy: part(entropy),
                dentropy: part(dentropy),
            }),
        }
    }

    /// The entropies and their gradients, or twice nothing.
    pub(super) fn entropies(self) -> (Option<View<'a, f32>>, Option<View<'a, f32>>) {
        self.entropy.map(|entropy| (entropy.entropy, entropy.dentropy)).unzip()
    }
}

pub(super) fn backward(
    stream: &Stream,
    head: Head,
    hidden: View<'_, f32>,
    weight: View<'_, f32>,
    saved: Saved<'_>,
    mut dhidden: ViewMut<'_, f32>,
    mut dweight: Option<ViewMut<'_, f32>>,
) {
    let (rows, Head { vocabulary, width, .. }) = (saved.targets.len(), head);
    // The largest first, as in forward.
    let mut dlogits = Gradients::uninit(stream, rows, vocabulary);
    let weight = Lines::new(stream, vocabulary, width, weight);
    let hidden = Lines::new(stream, rows, width, hidden);
    for first in (0..rows).step_by(BACKWARD_ROWS) {
        let block = first..rows.min(first + BACKWARD_ROWS);
        let (m, hidden) = (block.len(), hidden.part(block.clone()));
        for start in (0..vocabulary).step_by(BACKWARD_COLUMNS) {
            let piece = start..vocabulary.min(start + BACKWARD_COLUMNS);
            let (columns, weight) = (piece.len(), weight.part(piece.clone()));
            logit_gradients(stream, head, (hidden, weight), saved.rows(block.clone()), piece.clone(), &mut dlogits);
            let gradients = dlogits.factor(m, columns);
            let write = if start == 0 { Write::Overwrite } else { Write::Accumulate };
            let target = dhidden.reborrow().slice(block.start * width..block.end * width);
            tiles::product(stream, Layout::Nn, (m, width, columns), (gradients, weight), write, target);
            if let Some(dweight) = &mut dweight {
                let target = dweight.reborrow().slice(piece.start * width..piece.end * width);
                let factors = (gradients, hidden);
                tiles::product(stream, Layout::Tn, (columns, width, m), factors, Write::Accumulate, target);
            }
        }
    }
}

/// Gradients of the logits of one block of rows by one piece of the vocabulary, as the products take them.
enum Gradients {
    Float(Buffer<f32>),
    Half(Buffer<bf16>),
}

impl Gradients {
    /// Room for the largest piece.
    fn uninit(stream: &Stream, rows: usize, vocabulary: usize) -> Gradients {
        match stream.device().precision() {
            Precision::F32 => Gradients::Float(stream.workspace(Gradients::len(Precision::F32, rows, vocabulary))),
            Precision::Bf16 => Gradients::Half(stream.workspace(Gradients::len(Precision::Bf16, rows, vocabulary))),
        }
    }

    fn len(precision: Precision, rows: usize, vocabulary: usize) -> usize {
        let (rows, columns) = (rows.min(BACKWARD_ROWS), vocabulary.min(BACKWARD_COLUMNS));
        match precision {
            Precision::F32 => rows * columns,
            Precision::Bf16 => Rounded::len(rows, columns),
        }
    }

    fn bytes(precision: Precision, rows: usize, vocabulary: usize) -> usize {
        let each = match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<bf16>(),
        };
        each * Gradients::len(precision, rows, vocabulary)
    }

    fn factor(&self, rows: usize, columns: usize) -> Factor<'_> {
        let line_length = Rounded::line_length(columns);
        match self {
            Gradients::Float(values) => Factor::Float(values.slice(0..rows * columns)),
            Gradients::Half(values) => {
                Factor::Half(RoundedView { values: values.slice(0..rows * line_length), line_length })
            }
        }
    }
}

/// dlogits of all of `saved`'s rows by a piece of the vocabulary, computed again from some lines of hidden and of weight.
fn logit_gradients(
    stream: &Stream,
    head: Head,
    factors: (Factor<'_>, Factor<'_>),
    saved: Saved<'_>,
    piece: Range<usize>,
    dlogits: &mut Gradients,
) {
    let (rows, columns, first, scale) = (saved.targets.len(), piece.len(), piece.start, 1.0 / head.temperature);
    let Saved { targets, lse, dlogp, .. } = saved;
    let (entropy, dentropy) = saved.entropies();
    match (factors, dlogits) {
        ((Factor::Float(hidden), Factor::Float(weight)), Gradients::Float(dlogits)) => {
            let (width, dlogits) = (head.width, dlogits.view_mut());
            FLOAT_GRADIENT.launch(
                stream,
                Grid::cube([rows.div_ceil(FLOAT_TILE), columns.div_ceil(FLOAT_TILE), 1], FLOAT_THREADS),
                arguments![
                    hidden, weight, targets, lse, dlogp, entropy, dentropy, dlogits, rows, columns, width, first, scale
                ],
            );
        }
        ((Factor::Half(hidden), Factor::Half(weight)), Gradients::Half(dlogits)) if hopper::is_there(stream) => {
            hopper::gradient(stream, (hidden, weight), saved, dlogits.view_mut(), piece, scale);
        }
        ((Factor::Half(hidden), Factor::Half(weight)), Gradients::Half(dlogits)) => {
            let (line, dlogits_line, dlogits) = (hidden.line_length, Rounded::line_length(columns), dlogits.view_mut());
            let (hidden, weight) = (hidden.values, weight.values);
            HALF_GRADIENT.launch(
                stream,
                tiles::half_grid([rows.div_ceil(HALF_TILE), columns.div_ceil(HALF_TILE), 1]),
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
                    scale
                ],
            );
        }
        _ => unreachable!("all factors are of the device's precision"),
    }
}

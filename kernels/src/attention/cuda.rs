//! Attention on an accelerator in f32, on plain arithmetic units.

use super::half_cuda;
use crate::accelerator::{Architecture, Grid, Kernel, Source, arguments};
use crate::{Buffer, Heads, Precision, Segments, Stream, View, ViewMut};

pub(crate) static SOURCE: Source = Source::new("attention", include_str!("attention.cu"));

static DELTA: Kernel = Kernel::new(&SOURCE, "attention_delta");
static KERNELS: [Kernels; 3] = [
    Kernels {
        width: 64,
        threads: 128,
        forward: Kernel::new(&SOURCE, "attention_forward_64"),
        backward_queries: Kernel::new(&SOURCE, "attention_backward_queries_64"),
        backward_keys: Kernel::new(&SOURCE, "attention_backward_keys_64"),
    },
    Kernels {
        width: 128,
        threads: 128,
        forward: Kernel::new(&SOURCE, "attention_forward_128"),
        backward_queries: Kernel::new(&SOURCE, "attention_backward_queries_128"),
        backward_keys: Kernel::new(&SOURCE, "attention_backward_keys_128"),
    },
    Kernels {
        width: 256,
        threads: 256,
        forward: Kernel::new(&SOURCE, "attention_forward_256"),
        backward_queries: Kernel::new(&SOURCE, "attention_backward_queries_256"),
        backward_keys: Kernel::new(&SOURCE, "attention_backward_keys_256"),
    },
];

/// Rows of a tile of queries, and of one of keys.
const TILE_ROWS: usize = 32;
/// Threads of a block that makes deltas, a warp for each.
const DELTA_THREADS: u32 = 128;

/// The kernels for heads of up to `width` columns.
struct Kernels {
    width: usize,
    threads: u32,
    forward: Kernel,
    backward_queries: Kernel,
    backward_keys: Kernel,
}

impl Kernels {
    fn for_width(width: usize) -> &'static Kernels {
        let fitting = KERNELS.iter().find(|kernels| width <= kernels.width);
        fitting.unwrap_or_else(|| panic!("attention: heads of {width} columns; 256 is the most on an accelerator"))
    }

    /// A block for each head, tile and document, with shared memory for so many tiles of rows and of scores.
    fn grid(&self, heads: usize, segments: &Segments, row_tiles: usize, score_tiles: usize) -> Grid {
        let floats = row_tiles * TILE_ROWS * (self.width + 1) + score_tiles * TILE_ROWS * TILE_ROWS;
        tiles(heads, segments, TILE_ROWS, self.threads).shared(floats * size_of::<f32>())
    }
}

/// A block for each head, tile of rows and document.
pub(super) fn tiles(heads: usize, segments: &Segments, tile_rows: usize, threads: u32) -> Grid {
    Grid::cube([heads, segments.longest().div_ceil(tile_rows), segments.len()], threads)
}

/// Scores are multiplied with this.
pub(super) fn scale(heads: Heads) -> f32 {
    1.0 / (heads.width as f32).sqrt()
}

/// H, K and D as kernels take them.
pub(super) fn sizes(heads: Heads) -> [u32; 3] {
    [heads.query, heads.key_value, heads.width].map(|size| u32::try_from(size).expect("heads are small"))
}

/// Tensor cores take bf16 factors; they have no tile for heads wider than 128, which stay in f32.
fn is_half(precision: Precision, heads: Heads) -> bool {
    precision == Precision::Bf16 && half_cuda::fits(heads)
}

/// Bytes of the workspace: rounded factors, and in backward deltas.
pub(super) fn workspace_bytes(
    (precision, architecture): (Precision, Architecture),
    heads: Heads,
    tokens: usize,
    is_backward: bool,
) -> usize {
    let delta = if is_backward { size_of::<f32>() * tokens * heads.query } else { 0 };
    let is_half = is_half(precision, heads);
    delta + if is_half { half_cuda::workspace_bytes(architecture, heads, tokens, is_backward) } else { 0 }
}

pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, f32>,
    out: ViewMut<'_, f32>,
    lse: ViewMut<'_, f32>,
) {
    if is_half(stream.device().precision(), heads) {
        return half_cuda::forward_of_f32(stream, heads, segments, qkv, out, lse);
    }
    let (kernels, [query, key_value, width]) = (Kernels::for_width(heads.width), sizes(heads));
    let arguments = arguments![qkv, segments.offsets(), out, lse, query, key_value, width, scale(heads)];
    kernels.forward.launch(stream, kernels.grid(heads.query, segments, 3, 1), arguments);
}

pub(super) fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    (qkv, out, lse, dout): (View<'_, f32>, View<'_, f32>, View<'_, f32>, View<'_, f32>),
    mut dqkv: ViewMut<'_, f32>,
) {
    let delta = delta(stream, heads, out, dout);
    if is_half(stream.device().precision(), heads) {
        return half_cuda::backward_of_f32(stream, heads, segments, (qkv, lse, delta.view(), dout), dqkv);
    }
    let (kernels, [query, key_value, width]) = (Kernels::for_width(heads.width), sizes(heads));
    let mut launch = |kernel: &'static Kernel, grid: Grid| {
        let (offsets, delta, dqkv) = (segments.offsets(), delta.view(), dqkv.reborrow());
        kernel.launch(
            stream,
            grid,
            arguments![qkv, offsets, lse, delta, dout, dqkv, query, key_value, width, scale(heads)],
        );
    };
    launch(&kernels.backward_queries, kernels.grid(heads.query, segments, 4, 1));
    launch(&kernels.backward_keys, kernels.grid(heads.key_value, segments, 4, 2));
}

/// Σ out · dout of each row and head, `[T, H]`.
fn delta(stream: &Stream, heads: Heads, out: View<'_, f32>, dout: View<'_, f32>) -> Buffer<f32> {
    let count = out.len() / heads.width;
    let mut delta = stream.workspace(count);
    let arguments = arguments![out, dout, delta.view_mut(), count, heads.width as u32];
    DELTA.launch(stream, Grid::over(32 * count, DELTA_THREADS), arguments);
    delta
}

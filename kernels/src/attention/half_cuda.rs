//! Attention on an accelerator's tensor cores, from factors in bf16.

use half::bf16;

use super::cuda::{scale, sizes, tiles};
use super::hopper_cuda;
use crate::accelerator::{Architecture, Argument, Grid, Kernel, Source, arguments};
use crate::{Buffer, Heads, Segments, Stream, View, ViewMut};

static HEADERS: &[(&str, &str)] = &[("half.cuh", include_str!("half.cuh"))];
pub(crate) static FORWARD_SOURCE: Source =
    Source::new("half_forward", include_str!("half_forward.cu")).including(HEADERS);
pub(crate) static BACKWARD_SOURCE: Source =
    Source::new("half_backward", include_str!("half_backward.cu")).including(HEADERS);

static PACK: Kernel = Kernel::new(&FORWARD_SOURCE, "attention_pack");
static DELTA: Kernel = Kernel::new(&BACKWARD_SOURCE, "attention_half_delta");
static KERNELS: [Kernels; 3] = [
    Kernels {
        width: 64,
        stage_queries: 64,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_half_forward_64"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_queries_64"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_keys_64"),
    },
    Kernels {
        width: 96,
        stage_queries: 32,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_half_forward_96"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_queries_96"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_keys_96"),
    },
    Kernels {
        width: 128,
        stage_queries: 32,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_half_forward_128"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_queries_128"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_half_backward_keys_128"),
    },
];

/// Rows that a block owns, and those of a tile that it meets.
const TILE_ROWS: usize = 64;
const THREADS: u32 = 128;
const PACK_THREADS: u32 = 256;
/// Columns that are copied at a time: 16 bytes.
const CHUNK: usize = 8;

/// The kernels for heads of up to `width` columns.
struct Kernels {
    width: usize,
    /// Query rows that the kernel of dk and dv meets at a time.
    stage_queries: usize,
    forward: Kernel,
    backward_queries: Kernel,
    backward_keys: Kernel,
}

impl Kernels {
    fn for_width(width: usize) -> &'static Kernels {
        KERNELS.iter().find(|kernels| width <= kernels.width).expect("`fits` was asked")
    }

    fn tile_bytes(&self, rows: usize) -> usize {
        rows * self.width * size_of::<bf16>()
    }
}

/// Whether there is a tile for heads of this width.
pub(super) fn fits(heads: Heads) -> bool {
    heads.width <= KERNELS[KERNELS.len() - 1].width
}

/// What kernels read besides what forward saw, and how wide a head is in what they write.
#[derive(Clone, Copy)]
struct Shape<'a> {
    /// As in the packed factors: a multiple of 8 columns wide.
    heads: Heads,
    out_width: usize,
    scale: f32,
    segments: &'a Segments,
}

/// From f32 rows: factors are rounded to bf16 first, results stay f32.
pub(super) fn forward_of_f32(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, f32>,
    out: ViewMut<'_, f32>,
    lse: ViewMut<'_, f32>,
) {
    let wide = packed(stream.architecture(), heads);
    let qkv = pack(stream, heads.width, wide.width, qkv);
    let shape = Shape { heads: wide, out_width: heads.width, scale: scale(heads), segments };
    launch_forward(stream, shape, qkv.view(), [null(), out.into()], lse);
}

/// From bf16 rows to bf16 rows.
pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, bf16>,
    out: ViewMut<'_, bf16>,
    lse: ViewMut<'_, f32>,
) {
    let shape = Shape { heads, out_width: heads.width, scale: scale(heads), segments };
    launch_forward(stream, shape, qkv, [out.into(), null()], lse);
}

fn launch_forward(stream: &Stream, shape: Shape<'_>, qkv: View<'_, bf16>, out: [Argument; 2], lse: ViewMut<'_, f32>) {
    let Shape { heads, out_width, scale, segments } = shape;
    if hopper_cuda::fits(stream, heads) {
        return hopper_cuda::forward(stream, heads, segments, qkv, (out, out_width), lse, scale);
    }
    let (kernels, [query, key_value, width], [half, full]) = (Kernels::for_width(heads.width), sizes(heads), out);
    let grid = tiles(heads.query, segments, TILE_ROWS, THREADS).shared(5 * kernels.tile_bytes(TILE_ROWS));
    let offsets = segments.offsets();
    let arguments = arguments![qkv, offsets, half, full, lse, query, key_value, width, out_width as u32, scale];
    kernels.forward.launch(stream, grid, arguments);
}

/// From f32 rows and their deltas: factors are rounded to bf16 first, results stay f32.
pub(super) fn backward_of_f32(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    (qkv, lse, delta, dout): (View<'_, f32>, View<'_, f32>, View<'_, f32>, View<'_, f32>),
    dqkv: ViewMut<'_, f32>,
) {
    let wide = packed(stream.architecture(), heads);
    let shape = Shape { heads: wide, out_width: heads.width, scale: scale(heads), segments };
    let pack = |source| pack(stream, heads.width, wide.width, source);
    let (qkv, dout) = (pack(qkv), pack(dout));
    let saved = (qkv.view(), lse, delta, dout.view());
    launch_backward(stream, shape, saved, [null(), dqkv.into()]);
}

/// From bf16 rows to bf16 rows.
pub(super) fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    (qkv, out, lse, dout): (View<'_, bf16>, View<'_, bf16>, View<'_, f32>, View<'_, bf16>),
    dqkv: ViewMut<'_, bf16>,
) {
    let count = lse.len();
    let mut delta = stream.workspace(count);
    let arguments = arguments![out, dout, delta.view_mut(), count, heads.width as u32];
    DELTA.launch(stream, Grid::over(32 * count, THREADS), arguments);
    let shape = Shape { heads, out_width: heads.width, scale: scale(heads), segments };
    launch_backward(stream, shape, (qkv, lse, delta.view(), dout), [dqkv.into(), null()]);
}

fn launch_backward(
    stream: &Stream,
    shape: Shape<'_>,
    (qkv, lse, delta, dout): (View<'_, bf16>, View<'_, f32>, View<'_, f32>, View<'_, bf16>),
    [half, full]: [Argument; 2],
) {
    let Shape { heads, out_width, scale, segments } = shape;
    if hopper_cuda::fits(stream, heads) {
        let saved = (qkv, lse, delta, dout);
        return hopper_cuda::backward(stream, heads, segments, saved, ([half, full], out_width), scale);
    }
    let (kernels, [query, key_value, width]) = (Kernels::for_width(heads.width), sizes(heads));
    let launch = |kernel: &'static Kernel, grid: Grid| {
        let (offsets, out_width) = (segments.offsets(), out_width as u32);
        let arguments =
            arguments![qkv, offsets, lse, delta, dout, half, full, query, key_value, width, out_width, scale];
        kernel.launch(stream, grid, arguments);
    };
    let tile = kernels.tile_bytes(TILE_ROWS);
    launch(&kernels.backward_queries, tiles(heads.query, segments, TILE_ROWS, THREADS).shared(6 * tile));
    let stage = 2 * (kernels.tile_bytes(kernels.stage_queries) + kernels.stage_queries * size_of::<f32>());
    launch(&kernels.backward_keys, tiles(heads.key_value, segments, TILE_ROWS, THREADS).shared(2 * tile + 2 * stage));
}

/// As wide as copies of 16 bytes want it.
fn padded(width: usize) -> usize {
    width.next_multiple_of(CHUNK)
}

/// The same heads as wide as kernels want them packed.
fn packed(architecture: Architecture, heads: Heads) -> Heads {
    let width = hopper_cuda::packed_width(architecture, heads.width).unwrap_or_else(|| padded(heads.width));
    Heads { width, ..heads }
}

/// Bytes of rounded qkv, and of dout where gradients are wanted.
pub(super) fn workspace_bytes(architecture: Architecture, heads: Heads, tokens: usize, is_backward: bool) -> usize {
    let heads = packed(architecture, heads);
    let dout = if is_backward { heads.query_width() } else { 0 };
    size_of::<bf16>() * tokens * (heads.packed_width() + dout)
}

/// Rows of heads rounded to bf16, each head followed by zeros up to its padded width.
fn pack(stream: &Stream, width: usize, padded: usize, source: View<'_, f32>) -> Buffer<bf16> {
    let count = source.len() / width;
    let mut packed = stream.workspace(count * padded);
    let arguments = arguments![source, packed.view_mut(), count, width as u32, padded as u32];
    PACK.launch(stream, Grid::over(count * padded / CHUNK, PACK_THREADS), arguments);
    packed
}

/// No address: the kernel writes the other kind of result.
fn null() -> Argument {
    None::<View<'_, f32>>.into()
}

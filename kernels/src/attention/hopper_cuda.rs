//! Attention on sm_90a, from factors in bf16: launches with a tensor map of the packed rows.

use half::bf16;

use super::cuda::{sizes, tiles};
use crate::accelerator::{Argument, Kernel, Source, TensorMap, TensorMapShape, arguments};
use crate::{Heads, Segments, Stream, View, ViewMut};

static HEADERS: &[(&str, &str)] = &[
    ("half.cuh", include_str!("half.cuh")),
    ("hopper_tiles.cuh", include_str!("hopper_tiles.cuh")),
    ("hopper.cuh", include_str!("../accelerator/hopper.cuh")),
];
pub(crate) static FORWARD_SOURCE: Source =
    Source::new("hopper_forward", include_str!("hopper_forward.cu")).including(HEADERS).hopper_only();

static KERNELS: [Kernels; 3] = [
    Kernels { width: 64, consumers: 3, forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_64") },
    Kernels { width: 96, consumers: 2, forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_96") },
    Kernels { width: 128, consumers: 2, forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_128") },
];

/// Query rows of a consumer.
const CONSUMER_ROWS: usize = 64;
/// Threads of a consumer, and of the warpgroup that copies.
const GROUP_THREADS: u32 = 128;
/// Rows of a tile of keys, and how many such tiles of keys and of values there are.
const KEY_ROWS: usize = 128;
const STAGES: usize = 2;
/// The tensor map's box, 128 bytes wide.
const BOX_ROWS: u32 = 64;
const BOX_COLUMNS: usize = 64;
/// One for queries; full and empty ones of each stage of keys and of values.
const BARRIERS: usize = 1 + 4 * STAGES;

/// The kernels for heads of exactly `width` columns.
struct Kernels {
    width: usize,
    consumers: usize,
    forward: Kernel,
}

impl Kernels {
    fn of_width(width: usize) -> Option<&'static Kernels> {
        KERNELS.iter().find(|kernels| width == kernels.width)
    }
}

/// Whether this device has what the kernels need, and they a tile for these heads.
pub(super) fn fits(stream: &Stream, heads: Heads) -> bool {
    is_hopper(stream) && Kernels::of_width(heads.width).is_some()
}

fn is_hopper(stream: &Stream) -> bool {
    stream.device().architecture().is_some_and(|architecture| architecture.has_warpgroup_products())
}

/// How wide heads are to be packed for these kernels: the next tile's width; `None` where another way is taken.
pub(super) fn packed_width(stream: &Stream, width: usize) -> Option<usize> {
    let tile = KERNELS.iter().map(|kernels| kernels.width).find(|&tile| width <= tile);
    tile.filter(|_| is_hopper(stream))
}

/// `out` is where bf16 goes and where f32 goes, one of them nowhere; a head is `out_width` columns wide there.
pub(super) fn forward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    qkv: View<'_, bf16>,
    ([half, full], out_width): ([Argument; 2], usize),
    lse: ViewMut<'_, f32>,
    scale: f32,
) {
    if qkv.is_empty() {
        return; // there are no maps of nothing
    }
    let (kernels, [query, key_value, _]) = (Kernels::of_width(heads.width).expect("`fits` was asked"), sizes(heads));
    let (rows, panels) = (kernels.consumers * CONSUMER_ROWS, heads.width.div_ceil(BOX_COLUMNS));
    let tile_bytes = |rows: usize| panels * rows * BOX_COLUMNS * size_of::<bf16>();
    let shared = tile_bytes(rows) + 2 * STAGES * tile_bytes(KEY_ROWS) + BARRIERS * size_of::<u64>();
    let grid = tiles(heads.query, segments, rows, (1 + kernels.consumers as u32) * GROUP_THREADS).shared(shared);
    let (map, offsets, out_width) = (map(stream, heads, qkv), segments.offsets(), out_width as u32);
    kernels.forward.launch(stream, grid, arguments![map, offsets, half, full, lse, query, key_value, out_width, scale]);
}

/// Boxes of packed rows.
fn map(stream: &Stream, heads: Heads, rows: View<'_, bf16>) -> TensorMap {
    let columns = heads.packed_width();
    let shape = TensorMapShape {
        address: rows.address(),
        rows: (rows.len() / columns) as u64,
        columns: columns as u64,
        stride_bytes: (columns * size_of::<bf16>()) as u64,
        box_rows: BOX_ROWS,
        box_columns: BOX_COLUMNS as u32,
    };
    stream.accelerator().expect("cuda.rs is for accelerators").tensor_map(shape)
}

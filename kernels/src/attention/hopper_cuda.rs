//! Attention on sm_90a, from factors in bf16: launches with a tensor map of the packed rows.

use half::bf16;

use super::cuda::{sizes, tiles};
use crate::accelerator::{Architecture, Argument, Kernel, Source, TensorMap, TensorMapShape, arguments};
use crate::{Heads, Segments, Stream, View, ViewMut};

static HEADERS: &[(&str, &str)] = &[
    ("half.cuh", include_str!("half.cuh")),
    ("hopper_tiles.cuh", include_str!("hopper_tiles.cuh")),
    ("hopper.cuh", include_str!("../accelerator/hopper.cuh")),
];
pub(crate) static FORWARD_SOURCE: Source =
    Source::new("hopper_forward", include_str!("hopper_forward.cu")).including(HEADERS).hopper_only();
pub(crate) static BACKWARD_SOURCE: Source =
    Source::new("hopper_backward", include_str!("hopper_backward.cu")).including(HEADERS).hopper_only();

static KERNELS: [Kernels; 3] = [
    Kernels {
        width: 64,
        forward_consumers: 3,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_64"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_queries_64"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_keys_64"),
    },
    Kernels {
        width: 96,
        forward_consumers: 2,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_96"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_queries_96"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_keys_96"),
    },
    Kernels {
        width: 128,
        forward_consumers: 2,
        forward: Kernel::new(&FORWARD_SOURCE, "attention_hopper_forward_128"),
        backward_queries: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_queries_128"),
        backward_keys: Kernel::new(&BACKWARD_SOURCE, "attention_hopper_backward_keys_128"),
    },
];

/// Consumers of backward's kernels.
const BACKWARD_CONSUMERS: usize = 2;
/// Query rows of a consumer.
const CONSUMER_ROWS: usize = 64;
/// Threads of a consumer, and of the warpgroup that copies.
const GROUP_THREADS: u32 = 128;
/// Rows of forward's tiles of keys, and of what backward's blocks meet in a step.
const KEY_ROWS: usize = 128;
const MET_ROWS: usize = 64;
/// Steps that are in shared memory at a time.
const STAGES: usize = 2;
/// The tensor map's box, 128 bytes wide.
const BOX_ROWS: u32 = 64;
const BOX_COLUMNS: usize = 64;
/// One for owned rows; full and empty ones of each stage, in forward of keys and of values; those of tails.
const FORWARD_BARRIERS: usize = 1 + 4 * STAGES + 1;
const BACKWARD_BARRIERS: usize = 1 + 2 * STAGES + STAGES;

/// The kernels for heads of exactly `width` columns.
struct Kernels {
    width: usize,
    forward_consumers: usize,
    forward: Kernel,
    backward_queries: Kernel,
    backward_keys: Kernel,
}

impl Kernels {
    fn of_width(width: usize) -> Option<&'static Kernels> {
        KERNELS.iter().find(|kernels| width == kernels.width)
    }

    /// Of panels of 64 columns.
    fn tile_bytes(&self, rows: usize) -> usize {
        self.width.div_ceil(BOX_COLUMNS) * rows * BOX_COLUMNS * size_of::<bf16>()
    }
}

/// Whether this device has what the kernels need, and they a tile for these heads.
pub(super) fn fits(stream: &Stream, heads: Heads) -> bool {
    stream.architecture().has_warpgroup_products() && Kernels::of_width(heads.width).is_some()
}

/// How wide heads are to be packed for these kernels: the next tile's width; `None` where another way is taken.
pub(super) fn packed_width(architecture: Architecture, width: usize) -> Option<usize> {
    let tile = KERNELS.iter().map(|kernels| kernels.width).find(|&tile| width <= tile);
    tile.filter(|_| architecture.has_warpgroup_products())
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
    let rows = kernels.forward_consumers * CONSUMER_ROWS;
    let tiles_bytes = kernels.tile_bytes(rows) + 2 * STAGES * kernels.tile_bytes(KEY_ROWS);
    let shared = tiles_bytes + FORWARD_BARRIERS * size_of::<u64>();
    let grid = tiles(heads.query, segments, rows, threads(kernels.forward_consumers)).shared(shared);
    let (map, offsets, out_width) = (map(stream, heads.packed_width(), qkv), segments.offsets(), out_width as u32);
    kernels.forward.launch(stream, grid, arguments![map, offsets, half, full, lse, query, key_value, out_width, scale]);
}

/// `dqkv` as forward's `out`.
pub(super) fn backward(
    stream: &Stream,
    heads: Heads,
    segments: &Segments,
    (qkv, lse, delta, dout): (View<'_, bf16>, View<'_, f32>, View<'_, f32>, View<'_, bf16>),
    ([half, full], out_width): ([Argument; 2], usize),
    scale: f32,
) {
    if qkv.is_empty() {
        return; // there are no maps of nothing
    }
    let (kernels, [query, key_value, _]) = (Kernels::of_width(heads.width).expect("`fits` was asked"), sizes(heads));
    let rows = BACKWARD_CONSUMERS * CONSUMER_ROWS;
    let tiles_bytes = 2 * kernels.tile_bytes(rows) + 2 * STAGES * kernels.tile_bytes(MET_ROWS);
    let statistics_bytes = STAGES * 2 * MET_ROWS * size_of::<f32>();
    let shared = tiles_bytes + statistics_bytes + BACKWARD_BARRIERS * size_of::<u64>();
    let (packed, dout) = (map(stream, heads.packed_width(), qkv), map(stream, heads.query_width(), dout));
    for (kernel, owners) in [(&kernels.backward_queries, heads.query), (&kernels.backward_keys, heads.key_value)] {
        let grid = tiles(owners, segments, rows, threads(BACKWARD_CONSUMERS)).shared(shared);
        let (offsets, out_width) = (segments.offsets(), out_width as u32);
        let arguments = arguments![packed, dout, offsets, lse, delta, half, full, query, key_value, out_width, scale];
        kernel.launch(stream, grid, arguments);
    }
}

/// Those of the consumers, and of the warpgroup that copies.
fn threads(consumers: usize) -> u32 {
    (1 + consumers as u32) * GROUP_THREADS
}

/// Boxes of rows of so many columns.
fn map(stream: &Stream, columns: usize, rows: View<'_, bf16>) -> TensorMap {
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

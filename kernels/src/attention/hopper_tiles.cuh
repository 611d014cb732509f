// What attention's sm_90a kernels share: tiles as the tensor memory accelerator lays them, barriers' phases, and products
// of a consumer's 64 rows with a tile. Shapes: half.cuh, with heads exactly D wide.
//
// A tile of R rows lies in panels of 64 columns, R · 128 bytes each. At D 96 the second panel's last 32 columns are those
// of the next head and enter no product.
//
// Rows behind a document's end are copied too: they are the next one's, or 0. Where they are factors of a score they make
// one that is hidden; where they are terms of a sum they would make 0 · NaN of a neighbour's NaN. Such a tile is announced to
// a barrier `tail`, and a second warp of the group that copies zeroes its rows before it says that the stage is full.
#include "half.cuh"
#include "hopper.cuh"

constexpr int stages = 2;
constexpr int consumer_rows = 64;
constexpr int group_threads = 128;
constexpr int box_rows = 64;    // of a tensor map's box, 64 columns wide
constexpr int row_bytes = 128;  // of a panel

template <int D> constexpr int panels = (D + 63) / 64;
template <int D, int R> constexpr int panel_tile_bytes = panels<D> * R * row_bytes;

// A barrier's phase in the step that fills or empties its stage.
DEVICE u32 parity(int step) { return step / stages & 1; }

// Starts copying R rows of a head from row `row` of T on, of which `full` was told; `column` is the head's first.
template <int D, int R>
DEVICE void load_rows(SharedAddress tile, const TensorMap* map, int column, int row, SharedAddress full) {
    for (int panel = 0; panel < panels<D>; panel++) {
        for (int first = 0; first < R; first += box_rows)
            load_tile(tile + (panel * R + first) * row_bytes, map, column + 64 * panel, row + first, full);
    }
}

// Arrives once for the whole warp. A stage is free once every warp of every consumer has done so.
DEVICE void release(SharedAddress barrier) {
    warp_barrier();
    if (lane_index() == 0) transfer_barrier_arrive(barrier);
}

// Zeroes rows `from` to R of a tile for the products to come; a warp.
template <int D, int R> DEVICE void clear_rows(unsigned char* tile, int from) {
    int chunks = (R - from) * row_bytes / (int)sizeof(Words);
    for (int panel = 0; panel < panels<D>; panel++) {
        Words* rows = (Words*)(tile + (panel * R + from) * row_bytes);
        NO_UNROLL
        for (int chunk = lane_index(); chunk < chunks; chunk += warp_lanes) rows[chunk] = {0, 0, 0, 0};
    }
    async_fence();
}

// Shares or gradients of a consumer's 64 rows and R others, as left factors: 16 of the others each.
template <int R> using Factors = u32[R / 16][4];

template <int R> DEVICE void pack(Factors<R>& factors, const float (&values)[R / 2]) {
    UNROLL
    for (int k = 0; k < R / 16; k++) {
        UNROLL
        for (int x = 0; x < 4; x++) factors[k][x] = pack_bf16(values[8 * k + 2 * x], values[8 * k + 2 * x + 1]);
        pin_registers(factors[k]);
    }
}

// Issues sums[64, R] = left[64 rows from `row` on of L, D] · right[R, D]ᵀ.
template <int D, int L, int R>
DEVICE void issue_by_rows(float (&sums)[R / 2], SharedAddress left, int row, SharedAddress right) {
    UNROLL
    for (int k = 0; k < D / 16; k++) {
        u64 a = rows_descriptor(left + (k / 4 * L + row) * row_bytes, k % 4 * 16);
        warpgroup_multiply<R>(sums, a, rows_descriptor(right + k / 4 * R * row_bytes, k % 4 * 16), k > 0);
    }
}

// Issues sums[64, D] += left[64, R] · right[R, D].
template <int D, int R>
DEVICE void issue_by_columns(float (&sums)[D / 2], const Factors<R>& left, SharedAddress right) {
    UNROLL
    for (int k = 0; k < R / 16; k++)
        warpgroup_multiply_registers<D, true>(sums, left[k], turned_descriptor(right, 16 * k, R * row_bytes), true);
}

// Writes a thread's two rows times a factor each, those below `rows`; they follow row `first` of T.
template <int D>
DEVICE void store_consumer(const Output& output, const float (&sums)[D / 2], const float (&factors)[2], u64 first, int rows,
                           int head) {
    UNROLL
    for (int r = 0; r < 2; r++) {
        int row = row_of(2 * r);
        if (row >= rows) continue;
        UNROLL
        for (int n = 0; n < D / 8; n++) {
            Pair pair = {sums[4 * n + 2 * r] * factors[r], sums[4 * n + 2 * r + 1] * factors[r]};
            store_pair(output, first + row, head, column_of(n, 0), pair);
        }
    }
}

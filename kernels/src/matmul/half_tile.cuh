// A tile of a dense product on tensor cores: 128 × 128 elements of C by 256 threads, factors in bf16, sums in f32.
// Factors come "rounded": lines of bf16 whose length is a multiple of 8, zeros behind their ends (see `matmul_round`).
// Every element is summed over the inner dimension in one order, whatever the tile's place.
#pragma once

constexpr int HALF_TILE = 128;  // rows of C in a tile, and columns
constexpr int HALF_DEPTH = 64;  // terms of each sum in one panel
constexpr int HALF_THREADS = 256;
constexpr int HALF_STAGES = 3;  // panels of each factor under way or in use
constexpr int HALF_PANEL_BYTES = HALF_TILE * HALF_DEPTH * 2;
constexpr int HALF_STAGE_BYTES = 2 * HALF_PANEL_BYTES;
constexpr int HALF_SHARED_BYTES = HALF_STAGES * HALF_STAGE_BYTES;
constexpr int HALF_CHUNK = 8;  // elements of 16 bytes, what one copy brings

// Warps lie 2 × 4 over a tile; each holds 64 × 32 elements as 4 × 4 products of 16 × 8.
constexpr int HALF_WARP_ROWS = 64;
constexpr int HALF_WARP_COLUMNS = 32;
constexpr int HALF_ROW_STEPS = HALF_WARP_ROWS / 16;
constexpr int HALF_COLUMN_STEPS = HALF_WARP_COLUMNS / 8;
constexpr int HALF_ROWS_OF_A_THREAD = 2 * HALF_ROW_STEPS;
constexpr int HALF_COLUMNS_OF_A_THREAD = 2 * HALF_COLUMN_STEPS;

// A factor as it lies in memory: `lines` lines, `line_length` bf16 apart. A line is a row of A (a column of B) where its
// terms of one sum are neighbours, else it is one term of all of them.
struct HalfFactor {
    const bf16* values;
    u64 lines;
    u64 line_length;
};

struct HalfSums {
    float of[HALF_ROW_STEPS][HALF_COLUMN_STEPS][4];

    // The element at the thread's i-th row and j-th column.
    MEMBER float& at(int i, int j) { return of[i / 2][j / 2][i % 2 * 2 + j % 2]; }

    MEMBER void clear() {
        UNROLL
        for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++)
            UNROLL
            for (int j = 0; j < HALF_COLUMNS_OF_A_THREAD; j++) at(i, j) = 0.0f;
    }
};

DEVICE int half_warp_row() { return warp_index() / 4 * HALF_WARP_ROWS; }
DEVICE int half_warp_column() { return warp_index() % 4 * HALF_WARP_COLUMNS; }

// The row (of a tile) of a thread's i-th row, and the column of its j-th; columns 2·j and 2·j + 1 are neighbours.
DEVICE int half_row(int i) { return half_warp_row() + i / 2 * 16 + i % 2 * 8 + lane_index() / 4; }
DEVICE int half_column(int j) { return half_warp_column() + j / 2 * 8 + lane_index() % 4 * 2 + j % 2; }

// Panels of a factor whose terms of one sum are neighbours, or else whose rows (of A; columns of B) are. A panel keeps the
// factor's own order; ldmatrix turns it where need be. Chunks of a line are permuted so that the eight lines of one
// 8 × 8 matrix lie on different banks.
template <bool TERMS_ARE_NEIGHBOURS>
struct HalfPanel {
    static constexpr int LINES = TERMS_ARE_NEIGHBOURS ? HALF_TILE : HALF_DEPTH;
    static constexpr int CHUNKS = (TERMS_ARE_NEIGHBOURS ? HALF_DEPTH : HALF_TILE) / HALF_CHUNK;

    DEVICE u32 place(int line, int chunk) { return (line * CHUNKS + (chunk ^ (line & 7))) * 16; }

    // Begins to bring the panel that begins at this row (column) and term; zeros past the factor's ends.
    DEVICE void bring(SharedAddress panel, const HalfFactor& factor, u64 first_outer, u64 first_term) {
        u64 first_line = TERMS_ARE_NEIGHBOURS ? first_outer : first_term;
        u64 first_element = TERMS_ARE_NEIGHBOURS ? first_term : first_outer;
        UNROLL
        for (int i = 0; i < LINES * CHUNKS / HALF_THREADS; i++) {
            int index = thread_index() + i * HALF_THREADS, line = index / CHUNKS, chunk = index % CHUNKS;
            u64 from_line = first_line + line, from_element = first_element + chunk * HALF_CHUNK;
            bool inside = from_line < factor.lines && from_element < factor.line_length;
            const bf16* from = factor.values + (inside ? from_line * factor.line_length + from_element : 0);
            copy_async_16(panel + place(line, chunk), from, inside);
        }
    }

    // Rows `row`..+16 by terms `term`..+16 of A.
    DEVICE void rows_of_a(u32 (&fragment)[4], SharedAddress panel, int row, int term) {
        int lane = lane_index();
        if (TERMS_ARE_NEIGHBOURS)
            load_matrices_4(fragment, panel + place(row + lane % 16, term / 8 + lane / 16));
        else
            load_matrices_4_transposed(fragment, panel + place(term + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
    }

    // Terms `term`..+16 by columns `column`..+16 of B: two fragments of 8 columns.
    DEVICE void columns_of_b(u32 (&fragment)[4], SharedAddress panel, int column, int term) {
        int lane = lane_index();
        if (TERMS_ARE_NEIGHBOURS)
            load_matrices_4(fragment, panel + place(column + lane % 8 + lane / 16 * 8, term / 8 + lane / 8 % 2));
        else
            load_matrices_4_transposed(fragment, panel + place(term + lane % 16, column / 8 + lane / 16));
    }
};

// op(A)·op(B) by panels: `bring` begins to fill a stage of shared memory, `multiply` adds a filled one's product to the sums.
template <bool A_TERMS_ARE_NEIGHBOURS, bool B_TERMS_ARE_NEIGHBOURS>
struct HalfProduct {
    using PanelOfA = HalfPanel<A_TERMS_ARE_NEIGHBOURS>;
    using PanelOfB = HalfPanel<B_TERMS_ARE_NEIGHBOURS>;
    HalfFactor a, b;

    MEMBER void bring(SharedAddress stage, u64 row, u64 column, u64 term) const {
        PanelOfA::bring(stage, a, row, term);
        PanelOfB::bring(stage + HALF_PANEL_BYTES, b, column, term);
    }

    DEVICE void multiply(HalfSums& sums, SharedAddress stage) {
        UNROLL
        for (int term = 0; term < HALF_DEPTH; term += 16) {
            u32 left[HALF_ROW_STEPS][4], right[HALF_COLUMN_STEPS / 2][4];
            UNROLL
            for (int i = 0; i < HALF_ROW_STEPS; i++)
                PanelOfA::rows_of_a(left[i], stage, half_warp_row() + i * 16, term);
            UNROLL
            for (int j = 0; j < HALF_COLUMN_STEPS / 2; j++)
                PanelOfB::columns_of_b(right[j], stage + HALF_PANEL_BYTES, half_warp_column() + j * 16, term);
            UNROLL
            for (int i = 0; i < HALF_ROW_STEPS; i++)
                UNROLL
                for (int j = 0; j < HALF_COLUMN_STEPS; j++)
                    multiply_accumulate_bf16(sums.of[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
    }
};

// Runs `steps` steps of panels through the stages: bring(stage, step) begins a copy, use(stage, step) finds it done.
template <class Bring, class Use>
DEVICE void half_pipeline(SharedAddress shared, int steps, Bring bring, Use use) {
    UNROLL
    for (int step = 0; step < HALF_STAGES - 1; step++) {
        if (step < steps) bring(shared + step * HALF_STAGE_BYTES, step);
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_async_wait<HALF_STAGES - 2>();
        // Every thread's part of this stage is there, and the stage that is filled next was read to its end.
        block_barrier();
        int next = step + HALF_STAGES - 1;
        if (next < steps) bring(shared + next % HALF_STAGES * HALF_STAGE_BYTES, next);
        copy_async_commit();
        use(shared + step % HALF_STAGES * HALF_STAGE_BYTES, step);
    }
    block_barrier();
}

// A tile of a dense product in f32: 64 × 64 elements of C by 64 threads, each with 8 × 8 of them in registers.
// Every element is summed over its terms from its first term to its last, whatever the tile's place.
#pragma once

constexpr int FLOAT_TILE = 64;  // rows of C in a tile, and columns
constexpr int FLOAT_DEPTH = 16;  // terms of each sum that lie in shared memory at once
constexpr int FLOAT_THREADS = 64;
constexpr int FLOAT_EDGE = 8;  // rows of C that a thread holds, and columns
constexpr int FLOAT_LINE = FLOAT_TILE + 4;  // floats from one term to the next: aligned to 16 bytes, and on other banks
constexpr int FLOAT_PANEL = FLOAT_DEPTH * FLOAT_LINE;
constexpr int FLOAT_SHARED_FLOATS = 2 * 2 * FLOAT_PANEL;  // panels of A and of B, twice: one is filled while one is read

// A factor as it lies in memory, without gaps: `outers` rows of A or columns of B, each a sum's `terms` terms.
struct FloatFactor {
    const float* values;
    u64 outers;
    u64 terms;
};

// Panels of a factor whose terms of one sum are neighbours in memory, or else whose rows (of A; columns of B) are.
template <bool TERMS_ARE_NEIGHBOURS>
struct FloatPanel {
    DEVICE int outer(int index) { return TERMS_ARE_NEIGHBOURS ? index / FLOAT_DEPTH : index % FLOAT_TILE; }
    DEVICE int term(int index) { return TERMS_ARE_NEIGHBOURS ? index % FLOAT_DEPTH : index / FLOAT_TILE; }

    // Fills panel[FLOAT_DEPTH][FLOAT_LINE] with what begins at this row (column) and term; zeros past the factor's ends.
    DEVICE void fill(float* panel, const FloatFactor& factor, u64 first_outer, u64 first_term) {
        UNROLL_4
        for (int index = thread_index(); index < FLOAT_TILE * FLOAT_DEPTH; index += FLOAT_THREADS) {
            u64 o = first_outer + outer(index), t = first_term + term(index);
            u64 place = TERMS_ARE_NEIGHBOURS ? o * factor.terms + t : t * factor.outers + o;
            panel[term(index) * FLOAT_LINE + outer(index)] = o < factor.outers && t < factor.terms ? factor.values[place] : 0.0f;
        }
    }
};

// The row (of a tile) of a thread's i-th row, by the thread's place along that edge, 0..8; columns alike. Two runs of
// four lie half a tile apart, so that neighbours read 16 bytes beside each other.
DEVICE int float_place(int along, int i) { return i / 4 * (FLOAT_TILE / 2) + along * 4 + i % 4; }
DEVICE int float_row(int i) { return float_place(thread_index() / FLOAT_EDGE, i); }
DEVICE int float_column(int j) { return float_place(thread_index() % FLOAT_EDGE, j); }

// sums += the product of two panels.
DEVICE void float_multiply(float (&sums)[FLOAT_EDGE][FLOAT_EDGE], const float* a, const float* b) {
    UNROLL_4
    for (int t = 0; t < FLOAT_DEPTH; t++) {
        float left[FLOAT_EDGE], right[FLOAT_EDGE];
        UNROLL
        for (int i = 0; i < FLOAT_EDGE; i++) {
            left[i] = a[t * FLOAT_LINE + float_row(i)];
            right[i] = b[t * FLOAT_LINE + float_column(i)];
        }
        UNROLL
        for (int i = 0; i < FLOAT_EDGE; i++)
            UNROLL
            for (int j = 0; j < FLOAT_EDGE; j++) sums[i][j] += left[i] * right[j];
    }
}

// The tile of op(A)·op(B) that begins at this row and column; `shared` holds FLOAT_SHARED_FLOATS.
template <bool A_TERMS_ARE_NEIGHBOURS, bool B_TERMS_ARE_NEIGHBOURS>
DEVICE void float_tile(float (&sums)[FLOAT_EDGE][FLOAT_EDGE], const FloatFactor& a, const FloatFactor& b, u64 row,
                       u64 column, float* shared) {
    UNROLL
    for (int i = 0; i < FLOAT_EDGE; i++)
        UNROLL
        for (int j = 0; j < FLOAT_EDGE; j++) sums[i][j] = 0.0f;
    float *panel = shared, *next = shared + 2 * FLOAT_PANEL;
    FloatPanel<A_TERMS_ARE_NEIGHBOURS>::fill(panel, a, row, 0);
    FloatPanel<B_TERMS_ARE_NEIGHBOURS>::fill(panel + FLOAT_PANEL, b, column, 0);
    for (u64 term = 0; term < a.terms; term += FLOAT_DEPTH) {
        // One barrier a step: what is filled next was last read before it.
        block_barrier();
        if (term + FLOAT_DEPTH < a.terms) {
            FloatPanel<A_TERMS_ARE_NEIGHBOURS>::fill(next, a, row, term + FLOAT_DEPTH);
            FloatPanel<B_TERMS_ARE_NEIGHBOURS>::fill(next + FLOAT_PANEL, b, column, term + FLOAT_DEPTH);
        }
        float_multiply(sums, panel, panel + FLOAT_PANEL);
        float* used = panel;
        panel = next;
        next = used;
    }
    block_barrier();
}

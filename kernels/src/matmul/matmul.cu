// Dense products C (= | +=) op(A)·op(B): in f32 as it is, or of factors rounded to bf16 on tensor cores.
// nn: A[m][k] · B[k][n].  nt: A[m][k] · B[n][k]ᵀ.  tn: A[k][m]ᵀ · B[k][n].
#include "float_tile.cuh"
#include "half_tile.cuh"

// c[m][n]; one block a tile, tiles of a row side by side in x.
template <bool A_TERMS_ARE_NEIGHBOURS, bool B_TERMS_ARE_NEIGHBOURS>
DEVICE void float_product(const float* a, const float* b, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    SHARED_ARRAY(float, shared, FLOAT_SHARED_FLOATS);
    float sums[FLOAT_EDGE][FLOAT_EDGE];
    u64 row = u64(block_y()) * FLOAT_TILE, column = u64(block_x()) * FLOAT_TILE;
    float_tile<A_TERMS_ARE_NEIGHBOURS, B_TERMS_ARE_NEIGHBOURS>(sums, {a, m, k}, {b, n, k}, row, column, shared);
    UNROLL
    for (int i = 0; i < FLOAT_EDGE; i++)
        UNROLL
        for (int j = 0; j < FLOAT_EDGE; j++) {
            u64 r = row + float_row(i), at = column + float_column(j);
            if (r < m && at < n) c[r * n + at] = accumulate ? c[r * n + at] + sums[i][j] : sums[i][j];
        }
}

KERNEL LAUNCH_BOUNDS(FLOAT_THREADS, 4)
matmul_float_nn(const float* a, const float* b, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    float_product<true, false>(a, b, c, m, n, k, accumulate);
}

KERNEL LAUNCH_BOUNDS(FLOAT_THREADS, 4)
matmul_float_nt(const float* a, const float* b, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    float_product<true, true>(a, b, c, m, n, k, accumulate);
}

KERNEL LAUNCH_BOUNDS(FLOAT_THREADS, 4)
matmul_float_tn(const float* a, const float* b, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    float_product<false, false>(a, b, c, m, n, k, accumulate);
}

// c[m][n] of rounded factors whose lines are `a_line` and `b_line` long.
template <bool A_TERMS_ARE_NEIGHBOURS, bool B_TERMS_ARE_NEIGHBOURS>
DEVICE void half_product(const bf16* a, u64 a_line, const bf16* b, u64 b_line, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    DYNAMIC_SHARED(bytes);
    SharedAddress shared = shared_address(bytes);
    HalfProduct<A_TERMS_ARE_NEIGHBOURS, B_TERMS_ARE_NEIGHBOURS> product = {
        {a, A_TERMS_ARE_NEIGHBOURS ? m : k, a_line}, {b, B_TERMS_ARE_NEIGHBOURS ? n : k, b_line}};
    u64 row = u64(block_y()) * HALF_TILE, column = u64(block_x()) * HALF_TILE;
    HalfSums sums;
    sums.clear();
    half_pipeline(
        shared, int((k + HALF_DEPTH - 1) / HALF_DEPTH),
        [&](SharedAddress stage, int step) { product.bring(stage, row, column, u64(step) * HALF_DEPTH); },
        [&](SharedAddress stage, int) { product.multiply(sums, stage); });
    UNROLL
    for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++)
        UNROLL
        for (int j = 0; j < HALF_COLUMNS_OF_A_THREAD; j++) {
            u64 r = row + half_row(i), at = column + half_column(j);
            if (r < m && at < n) c[r * n + at] = accumulate ? c[r * n + at] + sums.at(i, j) : sums.at(i, j);
        }
}

KERNEL LAUNCH_BOUNDS(HALF_THREADS, 1)
matmul_half_nn(const bf16* a, u64 a_line, const bf16* b, u64 b_line, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    half_product<true, false>(a, a_line, b, b_line, c, m, n, k, accumulate);
}

KERNEL LAUNCH_BOUNDS(HALF_THREADS, 1)
matmul_half_nt(const bf16* a, u64 a_line, const bf16* b, u64 b_line, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    half_product<true, true>(a, a_line, b, b_line, c, m, n, k, accumulate);
}

KERNEL LAUNCH_BOUNDS(HALF_THREADS, 1)
matmul_half_tn(const bf16* a, u64 a_line, const bf16* b, u64 b_line, float* c, u64 m, u64 n, u64 k, u32 accumulate) {
    half_product<false, false>(a, a_line, b, b_line, c, m, n, k, accumulate);
}

// rounded[lines][line_length] of source[lines][width]: the nearest bf16 of each value, zeros behind a line's end. A factor
// is rounded once, not once for each tile that reads it. A thread writes eight values.
KERNEL LAUNCH_BOUNDS(256, 4)
matmul_round(const float* source, bf16* rounded, u64 lines, u64 width, u64 line_length) {
    u64 index = u64(block_x()) * block_threads() + thread_index(), chunks = line_length / 8;
    if (index >= lines * chunks) return;
    u64 line = index / chunks, first = index % chunks * 8;
    const float* from = source + line * width + first;
    u32 pairs[4];
    UNROLL
    for (int pair = 0; pair < 4; pair++) {
        float low = first + 2 * pair < width ? from[2 * pair] : 0.0f;
        float high = first + 2 * pair + 1 < width ? from[2 * pair + 1] : 0.0f;
        pairs[pair] = pack_bf16(low, high);
    }
    *(Words*)(rounded + line * line_length + first) = {pairs[0], pairs[1], pairs[2], pairs[3]};
}

REGISTER_KERNEL(matmul_float_nn)
REGISTER_KERNEL(matmul_float_nt)
REGISTER_KERNEL(matmul_float_tn)
REGISTER_KERNEL(matmul_half_nn)
REGISTER_KERNEL(matmul_half_nt)
REGISTER_KERNEL(matmul_half_tn)
REGISTER_KERNEL(matmul_round)

// Log-probabilities of given tokens, fused with the head: logits are one tile in registers, and never stored.
// hidden[rows][width], weight[vocabulary][width]; z = hidden·weightᵀ / temperature.
//
// Forward: a block takes one tile of rows through one piece of the vocabulary, tile by tile; what each row has seen of the
// piece goes to partials[piece][3][rows], and `logprob_finish` merges pieces in their order. Pieces have the same columns
// whatever the rows, so a row has the same bits alone and among others.
// Backward: the gradients of a block of rows by some columns are computed again; two dense products follow.
#include "float_tile.cuh"
#include "half_tile.cuh"
#include "seen.cuh"

// Merges what SLOTS threads saw of each of a tile's rows, in the order of the slots. slots[SLOTS][tile_rows]
template <int SLOTS>
DEVICE void keep_rows(const Seen& seen, const Running* slots, int tile_rows, u64 first_row, u64 piece) {
    block_barrier();
    for (int i = thread_index(); i < tile_rows; i += block_threads()) {
        Running all = slots[i];
        for (int slot = 1; slot < SLOTS; slot++) all.merge(slots[slot * tile_rows + i]);
        if (first_row + i < seen.rows) seen.keep(piece, first_row + i, all);
    }
}

// Grid: tiles of rows in x, pieces of `piece_columns` in y.
KERNEL LAUNCH_BOUNDS(FLOAT_THREADS, 4)
logprob_float_forward(const float* hidden, const float* weight, const u32* targets, float* logp, float* partials,
                           u64 rows, u64 vocabulary, u64 width, u64 piece_columns, float scale) {
    SHARED_ARRAY(float, shared, FLOAT_SHARED_FLOATS);
    SHARED_ARRAY(Running, slots, FLOAT_EDGE * FLOAT_TILE);
    Seen seen = {partials, logp, targets, rows};
    u64 first_row = u64(block_x()) * FLOAT_TILE, piece = block_y();
    u64 begin = piece * piece_columns, end = begin + piece_columns < vocabulary ? begin + piece_columns : vocabulary;
    Running running[FLOAT_EDGE];
    UNROLL
    for (int i = 0; i < FLOAT_EDGE; i++) running[i].clear();
    for (u64 first = begin; first < end; first += FLOAT_TILE) {
        float sums[FLOAT_EDGE][FLOAT_EDGE];
        float_tile<true, true>(sums, {hidden, rows, width}, {weight, vocabulary, width}, first_row, first, shared);
        UNROLL
        for (int i = 0; i < FLOAT_EDGE; i++) {
            UNROLL
            for (int j = 0; j < FLOAT_EDGE; j++) sums[i][j] *= scale;
            u64 row = first_row + float_row(i);
            see_row(running[i], logp + row, seen.target(row, u32(first)), int(end - first), sums[i], float_column);
        }
    }
    UNROLL
    for (int i = 0; i < FLOAT_EDGE; i++) slots[thread_index() % FLOAT_EDGE * FLOAT_TILE + float_row(i)] = running[i];
    keep_rows<FLOAT_EDGE>(seen, slots, FLOAT_TILE, first_row, piece);
}

// The same with rounded factors, whose lines are `line_length` long.
KERNEL LAUNCH_BOUNDS(HALF_THREADS, 1)
logprob_half_forward(const bf16* hidden, const bf16* weight, const u32* targets, float* logp, float* partials, u64 rows,
                          u64 vocabulary, u64 line_length, u64 piece_columns, float scale) {
    DYNAMIC_SHARED(bytes);
    SharedAddress shared = shared_address(bytes);
    Seen seen = {partials, logp, targets, rows};
    HalfProduct<true, true> product = {{hidden, rows, line_length}, {weight, vocabulary, line_length}};
    u64 first_row = u64(block_x()) * HALF_TILE, piece = block_y();
    u64 begin = piece * piece_columns, end = begin + piece_columns < vocabulary ? begin + piece_columns : vocabulary;
    int tiles = int((end - begin + HALF_TILE - 1) / HALF_TILE), depth = int((line_length + HALF_DEPTH - 1) / HALF_DEPTH);
    Running running[HALF_ROWS_OF_A_THREAD];
    HalfSums sums;
    sums.clear();
    UNROLL
    for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++) running[i].clear();
    auto see_tile = [&](u64 first) {
        UNROLL
        for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++) {
            float z[HALF_COLUMNS_OF_A_THREAD];
            UNROLL
            for (int j = 0; j < HALF_COLUMNS_OF_A_THREAD; j++) z[j] = sums.at(i, j) * scale;
            u64 row = first_row + half_row(i);
            see_row(running[i], logp + row, seen.target(row, u32(first)), int(end - first), z, half_column);
        }
    };
    // Tiles follow each other without draining the pipeline.
    half_pipeline(
        shared, tiles * depth,
        [&](SharedAddress stage, int step) {
            product.bring(stage, first_row, begin + u64(step / depth) * HALF_TILE, u64(step % depth) * HALF_DEPTH);
        },
        [&](SharedAddress stage, int step) {
            product.multiply(sums, stage);
            if (step % depth != depth - 1) return;
            see_tile(begin + u64(step / depth) * HALF_TILE);
            sums.clear();
        });
    Running* slots = (Running*)bytes;
    int slot = warp_index() % 4 * 4 + lane_index() % 4;
    UNROLL
    for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++) slots[slot * HALF_TILE + half_row(i)] = running[i];
    keep_rows<16>(seen, slots, HALF_TILE, first_row, piece);
}

// lse[rows], logp[rows] (which holds the targets' z) and, where wanted, entropy[rows].
KERNEL LAUNCH_BOUNDS(256, 4)
logprob_finish(float* partials, const u32* targets, float* logp, float* lse, float* entropy, u64 rows, u64 vocabulary,
                    u64 pieces) {
    u64 row = u64(block_x()) * block_threads() + thread_index();
    if (row >= rows) return;
    Seen seen = {partials, logp, targets, rows};
    Running all = seen.of(0, row);
    for (u64 piece = 1; piece < pieces; piece++) all.merge(seen.of(piece, row));
    float log_sum = natural_logarithm(all.sum);
    lse[row] = all.largest + log_sum;
    require(targets[row] < vocabulary);
    logp[row] -= lse[row];
    if (entropy) entropy[row] = log_sum - all.weighted / all.sum;
}

// dlogits[rows][columns] of the vocabulary's columns `first_column`..+columns; `weight` begins with the first of them.
KERNEL LAUNCH_BOUNDS(FLOAT_THREADS, 4)
logprob_float_gradient(const float* hidden, const float* weight, const u32* targets, const float* lse,
                            const float* dlogp, const float* entropy, const float* dentropy, float* dlogits, u64 rows,
                            u64 columns, u64 width, u64 first_column, float scale) {
    SHARED_ARRAY(float, shared, FLOAT_SHARED_FLOATS);
    Saved saved = {lse, dlogp, entropy, dentropy, targets, scale};
    u64 row = u64(block_x()) * FLOAT_TILE, column = u64(block_y()) * FLOAT_TILE;
    float sums[FLOAT_EDGE][FLOAT_EDGE];
    float_tile<true, true>(sums, {hidden, rows, width}, {weight, columns, width}, row, column, shared);
    UNROLL
    for (int i = 0; i < FLOAT_EDGE; i++) {
        u64 r = row + float_row(i);
        if (r >= rows) continue;
        RowGradient gradient = saved.of(r);
        UNROLL
        for (int j = 0; j < FLOAT_EDGE; j++) {
            u64 at = column + float_column(j);
            if (at < columns) dlogits[r * columns + at] = gradient.of(sums[i][j] * scale, u32(first_column + at));
        }
    }
}

// The same with rounded factors; dlogits[rows][dlogits_line] are rounded as well, zeros behind a line's end.
KERNEL LAUNCH_BOUNDS(HALF_THREADS, 1)
logprob_half_gradient(const bf16* hidden, const bf16* weight, const u32* targets, const float* lse, const float* dlogp,
                           const float* entropy, const float* dentropy, bf16* dlogits, u64 rows, u64 columns,
                           u64 line_length, u64 dlogits_line, u64 first_column, float scale) {
    DYNAMIC_SHARED(bytes);
    SharedAddress shared = shared_address(bytes);
    Saved saved = {lse, dlogp, entropy, dentropy, targets, scale};
    RoundedGradients gradients = {dlogits, u32(columns), u32(dlogits_line), u32(first_column)};
    HalfProduct<true, true> product = {{hidden, rows, line_length}, {weight, columns, line_length}};
    u64 row = u64(block_x()) * HALF_TILE, column = u64(block_y()) * HALF_TILE;
    HalfSums sums;
    sums.clear();
    half_pipeline(
        shared, int((line_length + HALF_DEPTH - 1) / HALF_DEPTH),
        [&](SharedAddress stage, int step) { product.bring(stage, row, column, u64(step) * HALF_DEPTH); },
        [&](SharedAddress stage, int) { product.multiply(sums, stage); });
    UNROLL
    for (int i = 0; i < HALF_ROWS_OF_A_THREAD; i++) {
        u64 r = row + half_row(i);
        if (r >= rows) continue;
        RowGradient gradient = saved.of(r);
        UNROLL
        for (int j = 0; j < HALF_COLUMNS_OF_A_THREAD; j += 2)
            gradients.keep_pair(gradient, r, u32(column) + half_column(j), sums.at(i, j) * scale, sums.at(i, j + 1) * scale);
    }
}

REGISTER_KERNEL(logprob_float_forward)
REGISTER_KERNEL(logprob_half_forward)
REGISTER_KERNEL(logprob_finish)
REGISTER_KERNEL(logprob_float_gradient)
REGISTER_KERNEL(logprob_half_gradient)

// Causal grouped-query attention over packed documents on tensor cores, sm_80 and later: bf16 factors, f32 sums (Dao,
// "FlashAttention-2", 2023). Shapes: half.cuh.
//
// A block of four warps owns 64 query rows of one head, a warp 16 of them; tiles of 64 keys and values pass through two
// stages of shared memory, the next one on its way while this one is multiplied. Scores and shares stay in registers.
// 80 KiB of shared memory at D 128: two blocks on an SM. Bound by the tensor cores, and by exponentials at D 64.
#include "half.cuh"

// Turns scores of row r into shares; returns what sums so far are to be multiplied with.
template <int N> DEVICE float next_shares(Softmax& softmax, int r, float (&scores)[N][4], float scale) {
    float before = softmax.largest[r], largest = before, sum = 0.0f;
    UNROLL
    for (int n = 0; n < N; n++) largest = maximum(largest, maximum(scores[n][2 * r], scores[n][2 * r + 1]));
    largest = maximum(largest, warp_shuffle_xor(largest, 1));
    largest = maximum(largest, warp_shuffle_xor(largest, 2));
    float shift = largest * scale, rescale = exponential2_fast(before * scale - shift);
    UNROLL
    for (int n = 0; n < N; n++) {
        UNROLL
        for (int x = 2 * r; x < 2 * r + 2; x++) sum += scores[n][x] = exponential2_fast(scores[n][x] * scale - shift);
    }
    softmax.largest[r] = largest;
    softmax.sum[r] = softmax.sum[r] * rescale + sum;
    return rescale;
}

// Hides the keys behind each query on the diagonal; `row` is the warp's first.
DEVICE void hide(Sums<tile_rows>& scores, int row) {
    UNROLL
    for (int n = 0; n < tile_rows / 8; n++) {
        UNROLL
        for (int x = 0; x < 4; x++)
            if (column_of(n, x) > row + row_of(x)) scores[n][x] = -infinity();
    }
}

// blocks: x head, y tile of query rows from the last on (it sees most), z document; 128 threads.
template <int D>
DEVICE void forward(SharedAddress shared, const bf16* qkv, const u32* offsets, Output out, float* lse, Heads heads,
                    float scale) {
    Document document = document_of_block(offsets);
    int head = block_x(), tile = (grid_y() - 1 - block_y()) * tile_rows;
    if (tile >= document.rows) return;
    const bf16* first = qkv + document.first * packed_width(heads);
    Rows queries = {first + head * heads.width, packed_width(heads), document.rows, heads.width};
    Rows keys = {first + (heads.query + head / group(heads)) * heads.width, packed_width(heads), document.rows, heads.width};
    Rows values = {keys.first + heads.key_value * heads.width, packed_width(heads), document.rows, heads.width};

    constexpr int bytes = tile_bytes<D, tile_rows>;
    SharedAddress query_tile = shared;
    auto key_tile = [&](int step) { return shared + bytes + step % 2 * 2 * bytes; };
    auto value_tile = [&](int step) { return key_tile(step) + bytes; };
    auto start_copies = [&](int step) {
        start_copy<D, tile_rows>(key_tile(step), from(keys, step * tile_rows));
        start_copy<D, tile_rows>(value_tile(step), from(values, step * tile_rows));
    };
    start_copy<D, tile_rows>(query_tile, from(queries, tile));
    start_copies(0);
    copy_async_commit();

    Sums<D> sums;
    zero(sums);
    Softmax softmax = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
    int row = warp_index() * warp_rows, steps = tile / tile_rows + 1;
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) start_copies(step + 1);
        copy_async_commit();
        copy_async_wait<1>();
        block_barrier();
        Sums<tile_rows> scores;
        zero(scores);
        multiply_by_rows<D, tile_rows>(scores, query_tile, row, key_tile(step));
        if (step + 1 == steps) hide(scores, row);
        UNROLL
        for (int r = 0; r < 2; r++) {
            float rescale = next_shares(softmax, r, scores, scale * log2_e);
            UNROLL
            for (int n = 0; n < D / 8; n++) sums[n][2 * r] *= rescale, sums[n][2 * r + 1] *= rescale;
        }
        multiply_by_columns<D, tile_rows>(sums, scores, value_tile(step));
        block_barrier();
    }

    float parts[2];
    u64 mine = document.first + tile + row;
    int rows = document.rows - tile - row;
    UNROLL
    for (int r = 0; r < 2; r++) {
        float sum = total(softmax, r);
        parts[r] = 1.0f / sum;
        if (fragment_column() == 0 && row_of(2 * r) < rows)
            lse[(mine + row_of(2 * r)) * heads.query + head] = softmax.largest[r] * scale + logarithm2_fast(sum) * ln_2;
    }
    store_rows<D>(out, sums, parts, mine, rows, head);
}

// Rounds [heads, width] to bf16 [heads, padded], a multiple of 8 columns; those behind `width` become 0.
// blocks: x over heads · padded / 8, a thread each; 256 threads.
KERNEL LAUNCH_BOUNDS(256, 1) attention_pack(const float* source, bf16* target, u64 heads, int width, int padded) {
    u64 index = (u64)block_x() * 256 + thread_index();
    int chunks = padded / 8;
    if (index >= heads * chunks) return;
    u64 head = index / chunks;
    int column = (int)(index % chunks) * 8;
    float values[8];
    UNROLL
    for (int x = 0; x < 8; x++) values[x] = column + x < width ? source[head * width + column + x] : 0.0f;
    Words words = {pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]), pack_bf16(values[4], values[5]),
                   pack_bf16(values[6], values[7])};
    *(Words*)(target + head * padded + column) = words;
}
REGISTER_KERNEL(attention_pack)

#define FORWARD(D)                                                                                                     \
    KERNEL LAUNCH_BOUNDS(128, 2) attention_half_forward_##D(                                                           \
        const bf16* qkv, const u32* offsets, bf16* out_half, float* out_full, float* lse, int query_heads,             \
        int key_value_heads, int width, int out_width, float scale) {                                                  \
        DYNAMIC_SHARED(shared);                                                                                        \
        Output out = {out_half, out_full, query_heads, out_width};                                                     \
        Heads heads = {query_heads, key_value_heads, width};                                                           \
        forward<D>(shared_address(shared), qkv, offsets, out, lse, heads, scale);                                      \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_half_forward_##D)

FORWARD(64)
FORWARD(96)
FORWARD(128)

// Gradients of attention over packed documents on tensor cores, sm_80 and later: bf16 factors, f32 sums (Dao,
// "FlashAttention-2", 2023, algorithm 2, in two kernels). Shapes: half.cuh.
//
// One kernel's blocks own 64 keys and sum dk and dv over the group's query heads and their rows; the other's own 64 query
// rows and sum dq over keys. That is 7 products instead of 5, but every sum has one owner and one order: no atomics, and
// every run gives the same bits. Where keys are owned, scores lie transposed, so that shares and their gradients stay in
// registers as left factors. Two stages of shared memory; 96 KiB at D 128 at most. Bound by the tensor cores.
#include "half.cuh"

// delta[t, h] = Σ out[t, h, ·] · dout[t, h, ·], a warp for each. blocks: x four of T·H; 128 threads.
KERNEL LAUNCH_BOUNDS(128, 1) attention_half_delta(const bf16* out, const bf16* dout, float* delta, u64 count, int width) {
    u64 index = (u64)block_x() * block_warps() + warp_index();
    if (index >= count) return;
    float sum = 0.0f;
    for (int column = 2 * lane_index(); column < width; column += 2 * warp_lanes) {
        u32 left = *(const u32*)(out + index * width + column), right = *(const u32*)(dout + index * width + column);
        sum = multiply_add(unpack_low(left), unpack_low(right), sum);
        sum = multiply_add(unpack_high(left), unpack_high(right), sum);
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) delta[index] = sum;
}
REGISTER_KERNEL(attention_half_delta)

// What forward saw and left, and the gradient of its output.
struct Saved {
    const bf16* qkv;
    const u32* offsets;
    const float *lse, *delta;
    const bf16* dout;
    Heads heads;
    float scale;
};

// One head's rows in a document.
DEVICE Rows packed_rows(const Saved& saved, Document document, int head) {
    const bf16* first = saved.qkv + document.first * packed_width(saved.heads) + head * saved.heads.width;
    return {first, packed_width(saved.heads), document.rows, saved.heads.width};
}
DEVICE Rows dout_rows(const Saved& saved, Document document, int head) {
    const bf16* first = saved.dout + document.first * query_width(saved.heads) + head * saved.heads.width;
    return {first, query_width(saved.heads), document.rows, saved.heads.width};
}

// dq of a tile: Σ over keys of p·(dp - delta)·scale · keys. blocks: x head, y tile of query rows from the last on (it
// sees most), z document; 128 threads.
template <int D> DEVICE void backward_queries(SharedAddress shared, const Saved& saved, Output dqkv) {
    Document document = document_of_block(saved.offsets);
    Heads heads = saved.heads;
    int head = block_x(), key_head = heads.query + head / group(heads), tile = (grid_y() - 1 - block_y()) * tile_rows;
    if (tile >= document.rows) return;
    Rows keys = packed_rows(saved, document, key_head), values = packed_rows(saved, document, key_head + heads.key_value);

    constexpr int bytes = tile_bytes<D, tile_rows>;
    SharedAddress query_tile = shared, dout_tile = shared + bytes;
    auto key_tile = [&](int step) { return shared + 2 * bytes + step % 2 * 2 * bytes; };
    auto value_tile = [&](int step) { return key_tile(step) + bytes; };
    auto start_copies = [&](int step) {
        start_copy<D, tile_rows>(key_tile(step), from(keys, step * tile_rows));
        start_copy<D, tile_rows>(value_tile(step), from(values, step * tile_rows));
    };
    start_copy<D, tile_rows>(query_tile, from(packed_rows(saved, document, head), tile));
    start_copy<D, tile_rows>(dout_tile, from(dout_rows(saved, document, head), tile));
    start_copies(0);
    copy_async_commit();

    int row = warp_index() * warp_rows, steps = tile / tile_rows + 1, rows = document.rows - tile;
    float lse[2], delta[2];
    UNROLL
    for (int r = 0; r < 2; r++) {
        int mine = row + row_of(2 * r) < rows ? row + row_of(2 * r) : 0;
        u64 index = (document.first + tile + mine) * heads.query + head;
        lse[r] = saved.lse[index] * log2_e, delta[r] = saved.delta[index];
    }
    Sums<D> sums;
    zero(sums);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) start_copies(step + 1);
        copy_async_commit();
        copy_async_wait<1>();
        block_barrier();
        Sums<tile_rows> shares, gradients;
        zero(shares);
        multiply_by_rows<D, tile_rows>(shares, query_tile, row, key_tile(step));
        zero(gradients);
        multiply_by_rows<D, tile_rows>(gradients, dout_tile, row, value_tile(step));
        UNROLL
        for (int n = 0; n < tile_rows / 8; n++) {
            UNROLL
            for (int x = 0; x < 4; x++) {
                bool hidden = step + 1 == steps && column_of(n, x) > row + row_of(x);
                float share = exponential2_fast(shares[n][x] * (saved.scale * log2_e) - lse[x / 2]);
                gradients[n][x] = hidden ? 0.0f : share * (gradients[n][x] - delta[x / 2]);
            }
        }
        multiply_by_columns<D, tile_rows>(sums, gradients, key_tile(step));
        block_barrier();
    }
    float factors[2] = {saved.scale, saved.scale};
    store_rows<D>(dqkv, sums, factors, document.first + tile + row, rows - row, head);
}

// dk and dv of a tile of keys: Σ over the group's heads in order, over Q of their rows at a time in order.
// blocks: x key/value head, y tile of keys (the first are seen by most), z document; 128 threads.
template <int D, int Q> DEVICE void backward_keys(unsigned char* shared, const Saved& saved, Output dqkv) {
    Document document = document_of_block(saved.offsets);
    Heads heads = saved.heads;
    int key_head = heads.query + block_x(), value_head = key_head + heads.key_value;
    int first_head = block_x() * group(heads), tile = block_y() * tile_rows, rows = document.rows - tile;
    if (rows <= 0) return;

    constexpr int bytes = tile_bytes<D, tile_rows>, stage_bytes = 2 * tile_bytes<D, Q> + 2 * Q * (int)sizeof(float);
    SharedAddress key_tile = shared_address(shared), value_tile = key_tile + bytes;
    int tiles = ceiling_divide(rows, Q), steps = group(heads) * tiles;
    auto stage = [&](int step) { return 2 * bytes + step % 2 * stage_bytes; };
    auto query_tile = [&](int step) { return key_tile + stage(step); };
    auto dout_tile = [&](int step) { return query_tile(step) + tile_bytes<D, Q>; };
    auto statistics = [&](int step) { return (float*)(shared + stage(step) + 2 * tile_bytes<D, Q>); };  // lse, delta [2, Q]
    auto start_copies = [&](int step) {
        int head = first_head + step / tiles, first = tile + step % tiles * Q;
        start_copy<D, Q>(query_tile(step), from(packed_rows(saved, document, head), first));
        start_copy<D, Q>(dout_tile(step), from(dout_rows(saved, document, head), first));
        if (thread_index() < 2 * Q) {
            int row = first + thread_index() % Q;
            u64 index = (document.first + (row < document.rows ? row : tile)) * heads.query + head;
            statistics(step)[thread_index()] = thread_index() < Q ? saved.lse[index] * log2_e : saved.delta[index];
        }
    };
    start_copy<D, tile_rows>(key_tile, from(packed_rows(saved, document, key_head), tile));
    start_copy<D, tile_rows>(value_tile, from(packed_rows(saved, document, value_head), tile));
    start_copies(0);
    copy_async_commit();

    int key = warp_index() * warp_rows;
    Sums<D> dkeys, dvalues;
    zero(dkeys);
    zero(dvalues);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) start_copies(step + 1);
        copy_async_commit();
        copy_async_wait<1>();
        block_barrier();
        int first = step % tiles * Q;
        const float *lse = statistics(step), *delta = lse + Q;
        Sums<Q> shares, gradients;  // [16 keys, Q queries]
        zero(shares);
        multiply_by_rows<D, Q>(shares, key_tile, key, query_tile(step));
        zero(gradients);
        multiply_by_rows<D, Q>(gradients, value_tile, key, dout_tile(step));
        UNROLL
        for (int n = 0; n < Q / 8; n++) {
            UNROLL
            for (int x = 0; x < 4; x++) {
                int column = column_of(n, x), query = first + column;
                bool visible = query < rows && key + row_of(x) <= query;
                float share = exponential2_fast(shares[n][x] * (saved.scale * log2_e) - lse[column]);
                shares[n][x] = visible ? share : 0.0f;
                gradients[n][x] = shares[n][x] * (gradients[n][x] - delta[column]);
            }
        }
        multiply_by_columns<D, Q>(dvalues, shares, dout_tile(step));
        multiply_by_columns<D, Q>(dkeys, gradients, query_tile(step));
        block_barrier();
    }
    float scales[2] = {saved.scale, saved.scale}, ones[2] = {1.0f, 1.0f};
    u64 mine = document.first + tile + key;
    store_rows<D>(dqkv, dkeys, scales, mine, rows - key, key_head);
    store_rows<D>(dqkv, dvalues, ones, mine, rows - key, value_head);
}

#define BACKWARD(D, Q)                                                                                                 \
    KERNEL LAUNCH_BOUNDS(128, 1) attention_half_backward_queries_##D(                                                  \
        const bf16* qkv, const u32* offsets, const float* lse, const float* delta, const bf16* dout, bf16* dqkv_half,  \
        float* dqkv_full, int query_heads, int key_value_heads, int width, int out_width, float scale) {               \
        DYNAMIC_SHARED(shared);                                                                                        \
        Saved saved = {qkv, offsets, lse, delta, dout, {query_heads, key_value_heads, width}, scale};                  \
        Output dqkv = {dqkv_half, dqkv_full, query_heads + 2 * key_value_heads, out_width};                            \
        backward_queries<D>(shared_address(shared), saved, dqkv);                                                      \
    }                                                                                                                  \
    KERNEL LAUNCH_BOUNDS(128, 1) attention_half_backward_keys_##D(                                                     \
        const bf16* qkv, const u32* offsets, const float* lse, const float* delta, const bf16* dout, bf16* dqkv_half,  \
        float* dqkv_full, int query_heads, int key_value_heads, int width, int out_width, float scale) {               \
        DYNAMIC_SHARED(shared);                                                                                        \
        Saved saved = {qkv, offsets, lse, delta, dout, {query_heads, key_value_heads, width}, scale};                  \
        Output dqkv = {dqkv_half, dqkv_full, query_heads + 2 * key_value_heads, out_width};                            \
        backward_keys<D, Q>(shared, saved, dqkv);                                                                      \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_half_backward_queries_##D)                                                               \
    REGISTER_KERNEL(attention_half_backward_keys_##D)

BACKWARD(64, 64)
BACKWARD(96, 32)
BACKWARD(128, 32)

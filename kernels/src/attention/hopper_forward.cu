// Causal grouped-query attention over packed documents on sm_90a: bf16 factors, f32 sums, with copies by the tensor memory
// accelerator, products of warpgroups and one warpgroup that only copies (Shah et al., "FlashAttention-3", 2024).
// Tiles and shapes: hopper_tiles.cuh.
//
// A block owns 64 query rows for each of its two (D 96, 128) or three (D 64) consumers: FlashAttention-3's tiles, 128 or
// 192 queries and 128 keys. Keys and values pass through two stages each. A consumer issues the scores of the next keys
// before it multiplies this tile's shares with values, so exponentials run beside products; so do the consumers beside
// each other. Bound by the tensor cores. Rows behind a document's end are hidden as keys and not stored as queries.
#include "hopper_tiles.cuh"

constexpr int key_rows = 128;  // of a tile of keys or values

template <int D> constexpr int consumers = D == 64 ? 3 : 2;
// Registers of a thread after the hand-over: 65,536 for all.
template <int D> constexpr int producer_registers = D == 64 ? 32 : 24;
template <int D> constexpr int consumer_registers = D == 64 ? 160 : 240;
template <int D> constexpr int query_rows = consumers<D> * consumer_rows;  // of a block
template <int D> constexpr int query_bytes = panel_tile_bytes<D, query_rows<D>>;
template <int D> constexpr int key_bytes = panel_tile_bytes<D, key_rows>;

// Tiles and, behind them, barriers.
template <int D> struct Shared {
    unsigned char* start;

    MEMBER SharedAddress at(int offset) const { return shared_address(start) + offset; }
    MEMBER SharedAddress queries() const { return at(0); }
    MEMBER SharedAddress keys(int step) const { return at(query_bytes<D> + step % stages * key_bytes<D>); }
    MEMBER int values_offset(int step) const { return query_bytes<D> + (stages + step % stages) * key_bytes<D>; }
    MEMBER SharedAddress values(int step) const { return at(values_offset(step)); }
    MEMBER SharedAddress barrier(int index) const {
        return at(query_bytes<D> + 2 * stages * key_bytes<D> + index * (int)sizeof(u64));
    }
    MEMBER SharedAddress queries_full() const { return barrier(0); }
    MEMBER SharedAddress keys_full(int step) const { return barrier(1 + step % stages); }
    MEMBER SharedAddress values_full(int step) const { return barrier(1 + stages + step % stages); }
    MEMBER SharedAddress keys_empty(int step) const { return barrier(1 + 2 * stages + step % stages); }
    MEMBER SharedAddress values_empty(int step) const { return barrier(1 + 3 * stages + step % stages); }
    MEMBER SharedAddress tail() const { return barrier(1 + 4 * stages); }
};

template <int D> DEVICE void init_barriers(const Shared<D>& shared) {
    if (thread_index() == 0) {
        transfer_barrier_init(shared.queries_full(), 1);
        transfer_barrier_init(shared.tail(), 1);
        for (int stage = 0; stage < stages; stage++) {
            transfer_barrier_init(shared.keys_full(stage), 1);
            transfer_barrier_init(shared.values_full(stage), 1);
            transfer_barrier_init(shared.keys_empty(stage), consumers<D> * group_threads / warp_lanes);
            transfer_barrier_init(shared.values_empty(stage), consumers<D> * group_threads / warp_lanes);
        }
        transfer_barriers_ready();
    }
    block_barrier();
}

// Where a block's work lies.
struct Work {
    Document document;
    int head, key_column, value_column;  // first columns of the key and value heads
    int tile;                            // the first query row in the document
    int steps;                           // tiles of keys
};
// Whether a step's tile reaches over the document's end.
DEVICE bool is_tail(const Work& work, int step) { return (step + 1) * key_rows > work.document.rows; }

// The one thread that copies.
template <int D> DEVICE void produce(const Shared<D>& shared, const TensorMap* map, const Work& work) {
    int row = (int)work.document.first;
    transfer_barrier_expect(shared.queries_full(), query_bytes<D>);
    load_rows<D, query_rows<D>>(shared.queries(), map, work.head * D, row + work.tile, shared.queries_full());
    for (int step = 0; step < work.steps; step++, row += key_rows) {
        transfer_barrier_wait(shared.keys_empty(step), parity(step) ^ 1);
        transfer_barrier_expect(shared.keys_full(step), key_bytes<D>);
        load_rows<D, key_rows>(shared.keys(step), map, work.key_column, row, shared.keys_full(step));
        transfer_barrier_wait(shared.values_empty(step), parity(step) ^ 1);
        SharedAddress full = is_tail(work, step) ? shared.tail() : shared.values_full(step);
        transfer_barrier_expect(full, key_bytes<D>);
        load_rows<D, key_rows>(shared.values(step), map, work.value_column, row, full);
    }
}

// The one warp that zeroes values of the next document.
template <int D> DEVICE void clear_tail(const Shared<D>& shared, const Work& work) {
    int last = work.steps - 1;
    if (!is_tail(work, last)) return;
    transfer_barrier_wait(shared.tail(), 0);
    clear_rows<D, key_rows>(shared.start + shared.values_offset(last), work.document.rows - last * key_rows);
    release(shared.values_full(last));
}

constexpr int score_count = key_rows / 2;  // of a thread: two rows of 128 keys over four threads

// Issues scores[64, 128] of this consumer's queries and the keys of a step.
template <int D>
DEVICE void issue_scores(float (&scores)[score_count], const Shared<D>& shared, int consumer, int step) {
    transfer_barrier_wait(shared.keys_full(step), parity(step));
    warpgroup_fence(scores);
    issue_by_rows<D, query_rows<D>, key_rows>(scores, shared.queries(), consumer * consumer_rows, shared.keys(step));
    warpgroup_commit();
}

// Issues sums[64, D] += shares[64, 128] · values of a step.
template <int D>
DEVICE void issue_values(float (&sums)[D / 2], const Factors<key_rows>& shares, const Shared<D>& shared, int step) {
    transfer_barrier_wait(shared.values_full(step), parity(step));
    warpgroup_fence(sums);
    issue_by_columns<D, key_rows>(sums, shares, shared.values(step));
    warpgroup_commit();
}

// Turns scores into shares, all of both rows; `rescale` is what sums so far are to be multiplied with.
DEVICE void take_shares(float (&scores)[score_count], Softmax& softmax, float (&rescale)[2], float scale) {
    UNROLL
    for (int r = 0; r < 2; r++) {
        float before = softmax.largest[r], largest = before, sum = 0.0f;
        UNROLL
        for (int n = 2 * r; n < score_count; n += 4) largest = maximum(largest, maximum(scores[n], scores[n + 1]));
        largest = maximum(largest, warp_shuffle_xor(largest, 1));
        largest = maximum(largest, warp_shuffle_xor(largest, 2));
        float shift = largest * scale;
        rescale[r] = exponential2_fast(before * scale - shift);
        UNROLL
        for (int n = 2 * r; n < score_count; n += 4) {
            scores[n] = exponential2_fast(scores[n] * scale - shift);
            scores[n + 1] = exponential2_fast(scores[n + 1] * scale - shift);
            sum += scores[n] + scores[n + 1];
        }
        softmax.largest[r] = largest;
        softmax.sum[r] = softmax.sum[r] * rescale[r] + sum;
    }
}

// Hides the keys behind each query; `row` is the warp's first, as the tile's keys count.
DEVICE void hide(float (&scores)[score_count], int row) {
    UNROLL
    for (int n = 0; n < score_count; n++)
        if (column_of(n / 4, n % 4) > row + row_of(n % 4)) scores[n] = -infinity();
}

// Makes shares of scores that have arrived for step `step`; `row` is this warp's first query row in the document.
DEVICE void finish_scores(float (&scores)[score_count], Softmax& softmax, float (&rescale)[2], int row, int step,
                          float scale) {
    int first = step * key_rows;
    if (first + key_rows - 1 > row) hide(scores, row - first);
    take_shares(scores, softmax, rescale, scale * log2_e);
}

// Writes what a warp's rows have summed, those in the document.
template <int D>
DEVICE void finish(const Output& out, float* lse, const Work& work, int row, const float (&sums)[D / 2],
                   const Softmax& softmax, float scale) {
    u64 first = work.document.first + row;
    int rows = work.document.rows - row;
    float parts[2];
    UNROLL
    for (int r = 0; r < 2; r++) {
        float sum = total(softmax, r);
        parts[r] = 1.0f / sum;
        if (fragment_column() == 0 && row_of(2 * r) < rows)
            lse[(first + row_of(2 * r)) * out.heads + work.head] = softmax.largest[r] * scale + logarithm2_fast(sum) * ln_2;
    }
    store_consumer<D>(out, sums, parts, first, rows, work.head);
}

// One warpgroup's 64 query rows over `steps` tiles of keys.
template <int D>
DEVICE void consume(const Shared<D>& shared, const Work& work, int consumer, int steps, const Output& out, float* lse,
                    float scale) {
    int row = work.tile + consumer * consumer_rows + warp_index() % 4 * warp_rows;  // this warp's first
    float scores[score_count], sums[D / 2], rescale[2];
    Factors<key_rows> shares;
    Softmax softmax = {{-infinity(), -infinity()}, {0.0f, 0.0f}};
    UNROLL
    for (int n = 0; n < D / 2; n++) sums[n] = 0.0f;

    transfer_barrier_wait(shared.queries_full(), 0);
    issue_scores<D>(scores, shared, consumer, 0);
    warpgroup_wait<0>(scores);
    release(shared.keys_empty(0));
    finish_scores(scores, softmax, rescale, row, 0, scale);
    pack<key_rows>(shares, scores);
    for (int step = 1; step < steps; step++) {
        issue_scores<D>(scores, shared, consumer, step);
        issue_values<D>(sums, shares, shared, step - 1);
        warpgroup_wait<1>(scores);
        release(shared.keys_empty(step));
        finish_scores(scores, softmax, rescale, row, step, scale);
        warpgroup_wait<0>(sums);
        release(shared.values_empty(step - 1));
        UNROLL
        for (int n = 0; n < D / 2; n++) sums[n] *= rescale[n / 2 % 2];
        pack<key_rows>(shares, scores);
    }
    issue_values<D>(sums, shares, shared, steps - 1);
    warpgroup_wait<0>(sums);
    release(shared.values_empty(steps - 1));
    finish<D>(out, lse, work, row, sums, softmax, scale);
}

// Frees the stages of later keys, which are hidden from all of this consumer's rows.
template <int D> DEVICE void pass(const Shared<D>& shared, const Work& work, int from) {
    for (int step = from; step < work.steps; step++) {
        transfer_barrier_wait(shared.keys_full(step), parity(step));
        release(shared.keys_empty(step));
        transfer_barrier_wait(shared.values_full(step), parity(step));
        release(shared.values_empty(step));
    }
}

// blocks: x head, y tile of query rows from the last on (it sees most), z document; a warpgroup that copies, then the
// consumers.
template <int D>
DEVICE void forward(unsigned char* start, const TensorMap* map, const u32* offsets, const Output& out, float* lse,
                    Heads heads, float scale) {
    Document document = document_of_block(offsets);
    int key_head = heads.query + block_x() / group(heads);
    int tile = (grid_y() - 1 - block_y()) * query_rows<D>;
    if (tile >= document.rows) return;
    int last = tile + query_rows<D> < document.rows ? tile + query_rows<D> : document.rows;
    Work work = {document, block_x(), key_head * D, (key_head + heads.key_value) * D, tile, ceiling_divide(last, key_rows)};
    Shared<D> shared = {start};
    init_barriers(shared);
    int part = warp_index() / 4;
    if (part == 0) {
        registers_decrease<producer_registers<D>>();
        if (thread_index() == 0) produce(shared, map, work);
        if (warp_index() == 1) clear_tail(shared, work);
    } else {
        registers_increase<consumer_registers<D>>();
        int seen = ceiling_divide(tile + part * consumer_rows, key_rows);
        if (seen > work.steps) seen = work.steps;
        consume(shared, work, part - 1, seen, out, lse, scale);
        pass(shared, work, seen);
    }
}

#define FORWARD(D)                                                                                                     \
    KERNEL LAUNCH_BOUNDS((1 + consumers<D>) * group_threads, 1) attention_hopper_forward_##D(                          \
        GRID_CONSTANT TensorMap map, const u32* offsets, bf16* out_half, float* out_full, float* lse, int query_heads, \
        int key_value_heads, int out_width, float scale) {                                                             \
        DYNAMIC_SHARED(shared);                                                                                        \
        Output out = {out_half, out_full, query_heads, out_width};                                                     \
        Heads heads = {query_heads, key_value_heads, D};                                                               \
        forward<D>(shared, &map, offsets, out, lse, heads, scale);                                                     \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_hopper_forward_##D)

FORWARD(64)
FORWARD(96)
FORWARD(128)

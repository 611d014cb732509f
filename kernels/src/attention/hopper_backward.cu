// Gradients of attention over packed documents on sm_90a: bf16 factors, f32 sums, with copies by the tensor memory
// accelerator and products of warpgroups (after Shah et al., "FlashAttention-3", 2024). Tiles: hopper_tiles.cuh.
//
// As in half_backward.cu one kernel's blocks own keys and the other's own queries, so every sum has one owner and one
// order. A block owns 128 rows, 64 for each of two consumers, and meets 64 rows at a time in two stages. Either way there
// are two products of owned with met rows (scores, and dout with values), and then sums of the met rows with shares or
// gradients as left factors, which stay in registers. 136 KiB of shared memory at D 128. Bound by the tensor cores.
#include "hopper_tiles.cuh"

constexpr int consumers = 2;
constexpr int owned_rows = consumers * consumer_rows;  // of a block
constexpr int met_rows = 64;                           // of a step
constexpr int score_count = met_rows / 2;              // of a thread
constexpr int producer_registers = 40;
constexpr int consumer_registers = 232;

template <int D> constexpr int owned_bytes = panel_tile_bytes<D, owned_rows>;
template <int D> constexpr int met_bytes = panel_tile_bytes<D, met_rows>;

// Two tiles of owned rows; of each stage two tiles of met rows; each stage's lse and delta [2, 64]; barriers.
template <int D> struct Shared {
    unsigned char* start;

    MEMBER SharedAddress at(int offset) const { return shared_address(start) + offset; }
    MEMBER SharedAddress owned(int which) const { return at(which * owned_bytes<D>); }
    MEMBER int met_offset(int step, int which) const {
        return 2 * owned_bytes<D> + (step % stages * 2 + which) * met_bytes<D>;
    }
    MEMBER SharedAddress met(int step, int which) const { return at(met_offset(step, which)); }
    static constexpr int statistics_offset = 2 * owned_bytes<D> + 2 * stages * met_bytes<D>;
    MEMBER float* statistics(int step) const {
        return (float*)(start + statistics_offset) + step % stages * 2 * met_rows;
    }
    MEMBER SharedAddress barrier(int index) const {
        return at(statistics_offset + stages * 2 * met_rows * (int)sizeof(float) + index * (int)sizeof(u64));
    }
    MEMBER SharedAddress owned_full() const { return barrier(0); }
    MEMBER SharedAddress full(int step) const { return barrier(1 + step % stages); }
    MEMBER SharedAddress empty(int step) const { return barrier(1 + stages + step % stages); }
    MEMBER SharedAddress tail(int step) const { return barrier(1 + 2 * stages + step % stages); }
};

// A full stage has been told by so many threads.
template <int D> DEVICE void init_barriers(const Shared<D>& shared, int producers) {
    if (thread_index() == 0) {
        transfer_barrier_init(shared.owned_full(), 1);
        for (int stage = 0; stage < stages; stage++) {
            transfer_barrier_init(shared.full(stage), producers);
            transfer_barrier_init(shared.empty(stage), consumers * group_threads / warp_lanes);
            transfer_barrier_init(shared.tail(stage), 1);
        }
        transfer_barriers_ready();
    }
    block_barrier();
}

// What forward saw and left, and the gradient of its output; maps of packed rows and of the gradient's.
struct Saved {
    const TensorMap *packed, *dout;
    const u32* offsets;
    const float *lse, *delta;
    Heads heads;
    float scale;
};

// Whether met rows from `first` on reach over the document's end.
DEVICE bool is_tail(Document document, int first) { return first + met_rows > document.rows; }

// Issues both products of a consumer's owned rows with a step's met rows, in two groups.
template <int D>
DEVICE void issue_products(float (&scores)[score_count], float (&products)[score_count], const Shared<D>& shared,
                           int consumer, int step) {
    warpgroup_fence(scores);
    issue_by_rows<D, owned_rows, met_rows>(scores, shared.owned(0), consumer * consumer_rows, shared.met(step, 0));
    warpgroup_commit();
    warpgroup_fence(products);
    issue_by_rows<D, owned_rows, met_rows>(products, shared.owned(1), consumer * consumer_rows, shared.met(step, 1));
    warpgroup_commit();
}

template <int N> DEVICE void clear(float (&sums)[N]) {
    UNROLL
    for (int n = 0; n < N; n++) sums[n] = 0.0f;
}

// ---- Blocks that own queries ----

template <int D>
DEVICE void produce_keys(const Shared<D>& shared, const Saved& saved, Document document, int tile, int steps) {
    int head = block_x(), key_head = saved.heads.query + head / group(saved.heads), row = (int)document.first;
    transfer_barrier_expect(shared.owned_full(), 2 * owned_bytes<D>);
    load_rows<D, owned_rows>(shared.owned(0), saved.packed, head * D, row + tile, shared.owned_full());
    load_rows<D, owned_rows>(shared.owned(1), saved.dout, head * D, row + tile, shared.owned_full());
    for (int step = 0; step < steps; step++, row += met_rows) {
        transfer_barrier_wait(shared.empty(step), parity(step) ^ 1);
        SharedAddress full = is_tail(document, step * met_rows) ? shared.tail(step) : shared.full(step);
        transfer_barrier_expect(full, 2 * met_bytes<D>);
        load_rows<D, met_rows>(shared.met(step, 0), saved.packed, key_head * D, row, full);
        load_rows<D, met_rows>(shared.met(step, 1), saved.packed, (key_head + saved.heads.key_value) * D, row, full);
    }
}

// The one warp that zeroes keys of the next document.
template <int D> DEVICE void clear_keys(const Shared<D>& shared, Document document, int last) {
    if (!is_tail(document, last * met_rows)) return;
    transfer_barrier_wait(shared.tail(last), 0);
    clear_rows<D, met_rows>(shared.start + shared.met_offset(last, 0), document.rows - last * met_rows);
    release(shared.full(last));
}

// One warpgroup's dq: Σ over keys of p·(dp - delta)·scale · keys; steps from `seen` on are hidden from it.
template <int D>
DEVICE void consume_keys(const Shared<D>& shared, const Saved& saved, Document document, int tile, int consumer, int seen,
                         int steps, const Output& dqkv) {
    int head = block_x(), row = tile + consumer * consumer_rows + warp_index() % 4 * warp_rows, rows = document.rows - row;
    float scores[score_count], products[score_count], sums[D / 2], lse[2], delta[2];
    Factors<met_rows> gradients;
    UNROLL
    for (int r = 0; r < 2; r++) {
        int mine = row_of(2 * r) < rows ? row + row_of(2 * r) : tile;
        u64 index = (document.first + mine) * saved.heads.query + head;
        lse[r] = saved.lse[index] * log2_e, delta[r] = saved.delta[index];
    }
    clear(sums);
    transfer_barrier_wait(shared.owned_full(), 0);
    for (int step = 0; step < steps; step++) {
        transfer_barrier_wait(shared.full(step), parity(step));
        if (step < seen) {
            issue_products<D>(scores, products, shared, consumer, step);
            warpgroup_wait<0>(scores, products);
            UNROLL
            for (int n = 0; n < score_count; n++) {
                int r = n / 2 % 2;
                bool hidden = step * met_rows + column_of(n / 4, n % 4) > row + row_of(n % 4);
                float share = exponential2_fast(scores[n] * (saved.scale * log2_e) - lse[r]);
                products[n] = hidden ? 0.0f : share * (products[n] - delta[r]);
            }
            pack<met_rows>(gradients, products);
            warpgroup_fence(sums);
            issue_by_columns<D, met_rows>(sums, gradients, shared.met(step, 0));
            warpgroup_commit();
            warpgroup_wait<0>(sums);
        }
        release(shared.empty(step));
    }
    float factors[2] = {saved.scale, saved.scale};
    store_consumer<D>(dqkv, sums, factors, document.first + row, rows, head);
}

// blocks: x head, y tile of query rows from the last on (it sees most), z document; 384 threads.
template <int D> DEVICE void backward_queries(unsigned char* start, const Saved& saved, const Output& dqkv) {
    Document document = document_of_block(saved.offsets);
    int tile = (grid_y() - 1 - block_y()) * owned_rows, part = warp_index() / 4;
    if (tile >= document.rows) return;
    Shared<D> shared = {start};
    init_barriers(shared, 1);
    int last = tile + owned_rows < document.rows ? tile + owned_rows : document.rows;
    int steps = ceiling_divide(last, met_rows);
    if (part == 0) {
        registers_decrease<producer_registers>();
        if (thread_index() == 0) produce_keys(shared, saved, document, tile, steps);
        if (warp_index() == 1) clear_keys(shared, document, steps - 1);
    } else {
        registers_increase<consumer_registers>();
        int seen = tile / met_rows + part;
        consume_keys(shared, saved, document, tile, part - 1, seen, steps, dqkv);
    }
}

// ---- Blocks that own keys ----

// Steps go through the group's heads in order, and through their query rows from the tile's first on.
struct Steps {
    int first_head, tiles, count;
};
DEVICE int head_of(const Steps& steps, int step) { return steps.first_head + step / steps.tiles; }
DEVICE int row_of_step(const Steps& steps, int step) { return step % steps.tiles * met_rows; }

// A warp: lane 0 copies tiles, all write lse and delta of the step's queries.
template <int D>
DEVICE void produce_queries(const Shared<D>& shared, const Saved& saved, Document document, int tile, const Steps& steps) {
    int key_head = saved.heads.query + block_x(), row = (int)document.first + tile;
    if (lane_index() == 0) {
        transfer_barrier_expect(shared.owned_full(), 2 * owned_bytes<D>);
        load_rows<D, owned_rows>(shared.owned(0), saved.packed, key_head * D, row, shared.owned_full());
        load_rows<D, owned_rows>(shared.owned(1), saved.packed, (key_head + saved.heads.key_value) * D, row,
                                 shared.owned_full());
    }
    for (int step = 0; step < steps.count; step++) {
        int head = head_of(steps, step), first = row_of_step(steps, step);
        transfer_barrier_wait(shared.empty(step), parity(step) ^ 1);
        for (int query = lane_index(); query < met_rows; query += warp_lanes) {
            int mine = tile + first + query < document.rows ? tile + first + query : tile;
            u64 index = (document.first + mine) * saved.heads.query + head;
            shared.statistics(step)[query] = saved.lse[index] * log2_e;
            shared.statistics(step)[met_rows + query] = saved.delta[index];
        }
        if (lane_index() == 0) {
            SharedAddress full = is_tail(document, tile + first) ? shared.tail(step) : shared.full(step);
            transfer_barrier_expect(full, 2 * met_bytes<D>);
            load_rows<D, met_rows>(shared.met(step, 0), saved.packed, head * D, row + first, full);
            load_rows<D, met_rows>(shared.met(step, 1), saved.dout, head * D, row + first, full);
        } else {
            transfer_barrier_arrive(shared.full(step));
        }
    }
}

// The one warp that zeroes queries and gradients of the next document, in each head's last step.
template <int D>
DEVICE void clear_queries(const Shared<D>& shared, Document document, int tile, const Steps& steps) {
    int first = tile + (steps.tiles - 1) * met_rows;
    if (!is_tail(document, first)) return;
    u32 parities = 0;  // of the stages' tails, a bit each
    for (int step = steps.tiles - 1; step < steps.count; step += steps.tiles) {
        transfer_barrier_wait(shared.tail(step), parities >> step % stages & 1);
        parities ^= 1u << step % stages;
        for (int which = 0; which < 2; which++)
            clear_rows<D, met_rows>(shared.start + shared.met_offset(step, which), document.rows - first);
        release(shared.full(step));
    }
}

// Turns scores [64 keys, 64 queries] into shares, and products into gradients; `key` is the warp's first key and `first`
// the step's first query, both after the tile's first row, of which the document has `rows`.
DEVICE void differentiate(float (&scores)[score_count], float (&products)[score_count], const float* lse, float scale,
                          int key, int first, int rows) {
    UNROLL
    for (int n = 0; n < score_count; n++) {
        int column = column_of(n / 4, n % 4), query = first + column;
        bool visible = query < rows && key + row_of(n % 4) <= query;
        float share = exponential2_fast(scores[n] * (scale * log2_e) - lse[column]);
        scores[n] = visible ? share : 0.0f;
        products[n] = visible ? share * (products[n] - lse[met_rows + column]) : 0.0f;
    }
}

// One warpgroup's dk and dv.
template <int D>
DEVICE void consume_queries(const Shared<D>& shared, const Saved& saved, Document document, int tile, int consumer,
                            const Steps& steps, const Output& dqkv) {
    int key = consumer * consumer_rows + warp_index() % 4 * warp_rows, rows = document.rows - tile;
    float scores[score_count], products[score_count], dkeys[D / 2], dvalues[D / 2];
    Factors<met_rows> shares, gradients;
    clear(dkeys);
    clear(dvalues);
    transfer_barrier_wait(shared.owned_full(), 0);
    for (int step = 0; step < steps.count; step++) {
        transfer_barrier_wait(shared.full(step), parity(step));
        issue_products<D>(scores, products, shared, consumer, step);
        warpgroup_wait<0>(scores, products);
        differentiate(scores, products, shared.statistics(step), saved.scale, key, row_of_step(steps, step), rows);
        pack<met_rows>(shares, scores);
        pack<met_rows>(gradients, products);
        warpgroup_fence(dvalues, dkeys);
        issue_by_columns<D, met_rows>(dvalues, shares, shared.met(step, 1));
        issue_by_columns<D, met_rows>(dkeys, gradients, shared.met(step, 0));
        warpgroup_commit();
        warpgroup_wait<0>(dvalues, dkeys);
        release(shared.empty(step));
    }
    float scales[2] = {saved.scale, saved.scale}, ones[2] = {1.0f, 1.0f};
    int key_head = saved.heads.query + block_x();
    u64 mine = document.first + tile + key;
    store_consumer<D>(dqkv, dkeys, scales, mine, rows - key, key_head);
    store_consumer<D>(dqkv, dvalues, ones, mine, rows - key, key_head + saved.heads.key_value);
}

// blocks: x key/value head, y tile of keys (the first are seen by most), z document; 384 threads.
template <int D> DEVICE void backward_keys(unsigned char* start, const Saved& saved, const Output& dqkv) {
    Document document = document_of_block(saved.offsets);
    int tile = block_y() * owned_rows, part = warp_index() / 4;
    if (tile >= document.rows) return;
    Shared<D> shared = {start};
    init_barriers(shared, warp_lanes);
    int tiles = ceiling_divide(document.rows - tile, met_rows);
    Steps steps = {block_x() * group(saved.heads), tiles, group(saved.heads) * tiles};
    if (part == 0) {
        registers_decrease<producer_registers>();
        if (warp_index() == 0) produce_queries(shared, saved, document, tile, steps);
        if (warp_index() == 1) clear_queries(shared, document, tile, steps);
    } else {
        registers_increase<consumer_registers>();
        consume_queries(shared, saved, document, tile, part - 1, steps, dqkv);
    }
}

#define BACKWARD(D, WAY)                                                                                               \
    KERNEL LAUNCH_BOUNDS((1 + consumers) * group_threads, 1) attention_hopper_backward_##WAY##_##D(                    \
        GRID_CONSTANT TensorMap packed, GRID_CONSTANT TensorMap dout, const u32* offsets, const float* lse,            \
        const float* delta, bf16* dqkv_half, float* dqkv_full, int query_heads, int key_value_heads, int out_width,    \
        float scale) {                                                                                                 \
        DYNAMIC_SHARED(shared);                                                                                        \
        Saved saved = {&packed, &dout, offsets, lse, delta, {query_heads, key_value_heads, D}, scale};                 \
        Output dqkv = {dqkv_half, dqkv_full, query_heads + 2 * key_value_heads, out_width};                            \
        backward_##WAY<D>(shared, saved, dqkv);                                                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_hopper_backward_##WAY##_##D)

BACKWARD(64, queries)
BACKWARD(96, queries)
BACKWARD(128, queries)
BACKWARD(64, keys)
BACKWARD(96, keys)
BACKWARD(128, keys)

// Causal grouped-query attention over packed documents in f32 on plain arithmetic units: training in f32, and head widths
// that the tensor-core kernels have no tile for.
//
// T rows of all documents, H query heads, K key/value heads, D head width (even), N documents.
// qkv, dqkv [T, (H + 2K)·D]; out, dout [T, H·D]; lse (natural logarithm), delta [T, H]; offsets [N + 1].
//
// A block of four or eight warps has a tile of 32 query rows and one of 32 keys at a time. Scores: a warp takes R query
// rows (8, or 4 where D > 128) and a lane is a key. Products with rows of keys, values or queries: a warp takes R rows and
// a lane every 32nd column, so its registers hold R · COLUMNS sums (D <= 32 · COLUMNS). Bound by reads of shared memory
// (one for one to three multiply-adds), not by memory. Every sum has one owner and one order: every run, the same bits.

constexpr int tile_rows = 32;  // query rows of a tile, and keys of one
// Rows of a warp: as many as registers hold sums for.
template <int COLUMNS> constexpr int warp_rows = COLUMNS > 4 ? 4 : 8;
template <int COLUMNS> constexpr int threads = warp_lanes * tile_rows / warp_rows<COLUMNS>;
constexpr float log2_e = 1.4426950408889634f;
constexpr float ln_2 = 0.6931471805599453f;

// Floats from row to row in shared memory: odd, so that 32 lanes reading one column meet 32 banks.
template <int COLUMNS> constexpr int stride = warp_lanes * COLUMNS + 1;
template <int COLUMNS> constexpr int tile_floats = tile_rows * stride<COLUMNS>;

struct Heads {
    int query, key_value, width;
};
DEVICE u64 packed_width(Heads heads) { return (u64)(heads.query + 2 * heads.key_value) * heads.width; }
DEVICE u64 query_width(Heads heads) { return (u64)heads.query * heads.width; }

struct Document {
    u64 first;  // its first row among T
    int rows;
};
DEVICE Document document_of_block(const u32* offsets) {
    u32 first = offsets[block_z()];
    return {first, (int)(offsets[block_z() + 1] - first)};
}

// Copies up to 32 rows of `width` floats to shared memory; what lies behind `rows` or `width` becomes 0.
template <int COLUMNS> DEVICE void load_tile(float* tile, const float* source, u64 source_stride, int rows, int width) {
    for (int index = thread_index(); index < tile_floats<COLUMNS>; index += threads<COLUMNS>) {
        int row = index / stride<COLUMNS>, column = index % stride<COLUMNS>;
        tile[index] = row < rows && column < width ? source[row * source_stride + column] : 0.0f;
    }
}

// products[r] = Σ rows[r, ·] · lane_row[·]
template <int COLUMNS>
DEVICE void multiply_rows(float (&products)[warp_rows<COLUMNS>], const float* rows, const float* lane_row, int width) {
    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) products[r] = 0.0f;
    NO_UNROLL
    for (int column = 0; column < width; column += 2) {
        float even = lane_row[column], odd = lane_row[column + 1];
        UNROLL
        for (int r = 0; r < warp_rows<COLUMNS>; r++) {
            const float* row = rows + r * stride<COLUMNS> + column;
            products[r] = multiply_add(row[1], odd, multiply_add(row[0], even, products[r]));
        }
    }
}

template <int COLUMNS> using Sums = float[warp_rows<COLUMNS>][COLUMNS];

template <int COLUMNS> DEVICE void zero(Sums<COLUMNS>& sums) {
    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) {
        UNROLL
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = 0.0f;
    }
}

// sums[r, ·] += Σ factors[r · row_step + t · term_step] · terms[t, ·] over the 32 rows of `terms`.
template <int COLUMNS>
DEVICE void accumulate(Sums<COLUMNS>& sums, const float* factors, int row_step, int term_step, const float* terms) {
    for (int term = 0; term < tile_rows; term++) {
        float values[COLUMNS];
        UNROLL
        for (int c = 0; c < COLUMNS; c++) values[c] = terms[term * stride<COLUMNS> + warp_lanes * c + lane_index()];
        UNROLL
        for (int r = 0; r < warp_rows<COLUMNS>; r++) {
            float factor = factors[r * row_step + term * term_step];
            UNROLL
            for (int c = 0; c < COLUMNS; c++) sums[r][c] = multiply_add(factor, values[c], sums[r][c]);
        }
    }
}

// Writes this warp's rows of a tile that starts at `target` and has `rows` rows.
template <int COLUMNS>
DEVICE void store_tile(float* target, u64 target_stride, const Sums<COLUMNS>& sums, int rows, int width) {
    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) {
        int row = warp_index() * warp_rows<COLUMNS> + r;
        UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            int column = warp_lanes * c + lane_index();
            if (row < rows && column < width) target[row * target_stride + column] = sums[r][c];
        }
    }
}

// ---- Forward ----

// The running softmax of a warp's rows in powers of two (Milakov and Gimelshein, 2018).
template <int COLUMNS> struct Softmax {
    float largest[warp_rows<COLUMNS>];  // of the scores so far
    float sum[warp_rows<COLUMNS>];      // this lane's part of Σ 2^(score - largest)
};

// Turns the score of this lane's key into its share; `rescale` is what sums so far are to be multiplied with.
template <int COLUMNS>
DEVICE float next_share(Softmax<COLUMNS>& softmax, int r, float score, float& rescale) {
    float before = softmax.largest[r];
    softmax.largest[r] = maximum(before, warp_maximum(score));
    rescale = exponential2_fast(before - softmax.largest[r]);
    float share = exponential2_fast(score - softmax.largest[r]);
    softmax.sum[r] = multiply_add(softmax.sum[r], rescale, share);
    return share;
}

// blocks: x head, y tile of query rows from the last on (it sees most), z document.
template <int COLUMNS>
DEVICE void forward(unsigned char* shared, const float* qkv, const u32* offsets, float* out, float* lse, Heads heads,
                    float scale) {
    Document document = document_of_block(offsets);
    int head = block_x(), tile = (grid_y() - 1 - block_y()) * tile_rows, width = heads.width;
    if (tile >= document.rows) return;
    u64 packed = packed_width(heads);
    const float* rows = qkv + document.first * packed;
    const float* key_rows = rows + (heads.query + head / (heads.query / heads.key_value)) * width;
    const float* value_rows = key_rows + heads.key_value * width;

    float* queries = (float*)shared;                                       // [32, D]
    float* keys = queries + tile_floats<COLUMNS>;                          // [32, D]
    float* values = keys + tile_floats<COLUMNS>;                           // [32, D]
    float* shares = values + tile_floats<COLUMNS>;                         // [32 queries, 32 keys], a part a warp
    shares += warp_index() * warp_rows<COLUMNS> * tile_rows;
    load_tile<COLUMNS>(queries, rows + tile * packed + head * width, packed, document.rows - tile, width);

    Sums<COLUMNS> sums;
    zero<COLUMNS>(sums);
    Softmax<COLUMNS> softmax;
    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) softmax.largest[r] = -infinity(), softmax.sum[r] = 0.0f;
    for (int first = 0; first <= tile; first += tile_rows) {
        block_barrier();
        load_tile<COLUMNS>(keys, key_rows + first * packed, packed, document.rows - first, width);
        load_tile<COLUMNS>(values, value_rows + first * packed, packed, document.rows - first, width);
        block_barrier();
        float scores[warp_rows<COLUMNS>];
        multiply_rows<COLUMNS>(scores, queries + warp_index() * warp_rows<COLUMNS> * stride<COLUMNS>,
                               keys + lane_index() * stride<COLUMNS>, width);
        UNROLL
        for (int r = 0; r < warp_rows<COLUMNS>; r++) {
            bool visible = first + lane_index() <= tile + warp_index() * warp_rows<COLUMNS> + r;
            float rescale, score = visible ? scores[r] * (scale * log2_e) : -infinity();
            shares[r * tile_rows + lane_index()] = next_share(softmax, r, score, rescale);
            UNROLL
            for (int c = 0; c < COLUMNS; c++) sums[r][c] *= rescale;
        }
        warp_barrier();
        accumulate<COLUMNS>(sums, shares, tile_rows, 1, values);
    }

    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) {
        float total = warp_sum(softmax.sum[r]);
        UNROLL
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = divide(sums[r][c], total);
        int row = tile + warp_index() * warp_rows<COLUMNS> + r;
        if (lane_index() == 0 && row < document.rows)
            lse[(document.first + row) * heads.query + head] = (softmax.largest[r] + logarithm2_fast(total)) * ln_2;
    }
    float* target = out + (document.first + tile) * query_width(heads) + head * width;
    store_tile<COLUMNS>(target, query_width(heads), sums, document.rows - tile, width);
}

// ---- Backward (FlashAttention's algorithm 4, in two kernels) ----

// delta[t, h] = Σ out[t, h, ·] · dout[t, h, ·], a warp for each. blocks: x four of T·H; 128 threads.
KERNEL LAUNCH_BOUNDS(128, 1) attention_delta(const float* out, const float* dout, float* delta, u64 count, int width) {
    u64 index = (u64)block_x() * block_warps() + warp_index();
    if (index >= count) return;
    float sum = 0.0f;
    for (int column = lane_index(); column < width; column += warp_lanes)
        sum = multiply_add(out[index * width + column], dout[index * width + column], sum);
    sum = warp_sum(sum);
    if (lane_index() == 0) delta[index] = sum;
}
REGISTER_KERNEL(attention_delta)

// What forward saw and left, and the gradient of its output.
struct Saved {
    const float *qkv, *lse, *delta, *dout;
    Heads heads;
    float scale;
};

// Shares p and gradients p·(dp - delta)·scale of the scores of a warp's query rows and its lanes' keys.
template <int COLUMNS>
DEVICE void score_gradients(float (&shares)[warp_rows<COLUMNS>], float (&gradients)[warp_rows<COLUMNS>], const Saved& saved,
                            Document document, int head, int tile, int key, const float* queries, const float* douts,
                            const float* keys, const float* values) {
    int first = warp_index() * warp_rows<COLUMNS> * stride<COLUMNS>, mine = lane_index() * stride<COLUMNS>;
    float scores[warp_rows<COLUMNS>], products[warp_rows<COLUMNS>];
    multiply_rows<COLUMNS>(scores, queries + first, keys + mine, saved.heads.width);
    multiply_rows<COLUMNS>(products, douts + first, values + mine, saved.heads.width);
    UNROLL
    for (int r = 0; r < warp_rows<COLUMNS>; r++) {
        int row = tile + warp_index() * warp_rows<COLUMNS> + r;
        bool visible = row < document.rows && key <= row;
        u64 index = (document.first + (visible ? row : 0)) * saved.heads.query + head;
        float share = exponential2_fast((scores[r] * saved.scale - saved.lse[index]) * log2_e);
        shares[r] = visible ? share : 0.0f;
        gradients[r] = visible ? share * (products[r] - saved.delta[index]) * saved.scale : 0.0f;
    }
}

// dq of one tile: Σ over keys of gradients · keys. blocks as forward's.
template <int COLUMNS>
DEVICE void backward_queries(unsigned char* shared, const Saved& saved, const u32* offsets, float* dqkv) {
    Document document = document_of_block(offsets);
    Heads heads = saved.heads;
    int head = block_x(), tile = (grid_y() - 1 - block_y()) * tile_rows, width = heads.width;
    if (tile >= document.rows) return;
    u64 packed = packed_width(heads);
    const float* rows = saved.qkv + document.first * packed;
    const float* key_rows = rows + (heads.query + head / (heads.query / heads.key_value)) * width;
    const float* value_rows = key_rows + heads.key_value * width;
    const float* dout_rows = saved.dout + (document.first + tile) * query_width(heads) + head * width;

    float* queries = (float*)shared;                   // [32, D]
    float* douts = queries + tile_floats<COLUMNS>;     // [32, D]
    float* keys = douts + tile_floats<COLUMNS>;        // [32, D]
    float* values = keys + tile_floats<COLUMNS>;       // [32, D]
    float* gradients = values + tile_floats<COLUMNS>;  // [32 queries, 32 keys], a part a warp
    gradients += warp_index() * warp_rows<COLUMNS> * tile_rows;
    load_tile<COLUMNS>(queries, rows + tile * packed + head * width, packed, document.rows - tile, width);
    load_tile<COLUMNS>(douts, dout_rows, query_width(heads), document.rows - tile, width);

    Sums<COLUMNS> sums;
    zero<COLUMNS>(sums);
    for (int first = 0; first <= tile; first += tile_rows) {
        block_barrier();
        load_tile<COLUMNS>(keys, key_rows + first * packed, packed, document.rows - first, width);
        load_tile<COLUMNS>(values, value_rows + first * packed, packed, document.rows - first, width);
        block_barrier();
        float shares[warp_rows<COLUMNS>], mine[warp_rows<COLUMNS>];
        score_gradients<COLUMNS>(shares, mine, saved, document, head, tile, first + lane_index(), queries, douts, keys,
                                 values);
        UNROLL
        for (int r = 0; r < warp_rows<COLUMNS>; r++) gradients[r * tile_rows + lane_index()] = mine[r];
        warp_barrier();
        accumulate<COLUMNS>(sums, gradients, tile_rows, 1, keys);
    }
    float* target = dqkv + (document.first + tile) * packed + head * width;
    store_tile<COLUMNS>(target, packed, sums, document.rows - tile, width);
}

// dk and dv of one tile of keys: Σ over the group's heads in order, over query rows in order.
// blocks: x key/value head, y tile of keys (the first are seen by most), z document.
template <int COLUMNS>
DEVICE void backward_keys(unsigned char* shared, const Saved& saved, const u32* offsets, float* dqkv) {
    Document document = document_of_block(offsets);
    Heads heads = saved.heads;
    int key_head = block_x(), tile = block_y() * tile_rows, width = heads.width, group = heads.query / heads.key_value;
    if (tile >= document.rows) return;
    u64 packed = packed_width(heads);
    const float* rows = saved.qkv + document.first * packed;
    const float* dout_rows = saved.dout + document.first * query_width(heads);
    int key_column = (heads.query + key_head) * width, value_column = key_column + heads.key_value * width;

    float* keys = (float*)shared;                      // [32, D]
    float* values = keys + tile_floats<COLUMNS>;       // [32, D]
    float* queries = values + tile_floats<COLUMNS>;    // [32, D]
    float* douts = queries + tile_floats<COLUMNS>;     // [32, D]
    float* shares = douts + tile_floats<COLUMNS>;      // [32 queries, 32 keys]
    float* gradients = shares + tile_rows * tile_rows; // [32 queries, 32 keys]
    load_tile<COLUMNS>(keys, rows + tile * packed + key_column, packed, document.rows - tile, width);
    load_tile<COLUMNS>(values, rows + tile * packed + value_column, packed, document.rows - tile, width);

    Sums<COLUMNS> dkeys, dvalues;
    zero<COLUMNS>(dkeys);
    zero<COLUMNS>(dvalues);
    for (int head = key_head * group; head < (key_head + 1) * group; head++) {
        for (int first = tile; first < document.rows; first += tile_rows) {
            int rest = document.rows - first;
            block_barrier();
            load_tile<COLUMNS>(queries, rows + first * packed + head * width, packed, rest, width);
            load_tile<COLUMNS>(douts, dout_rows + first * query_width(heads) + head * width, query_width(heads), rest,
                               width);
            block_barrier();
            float share[warp_rows<COLUMNS>], gradient[warp_rows<COLUMNS>];
            score_gradients<COLUMNS>(share, gradient, saved, document, head, first, tile + lane_index(), queries, douts,
                                     keys, values);
            UNROLL
            for (int r = 0; r < warp_rows<COLUMNS>; r++) {
                int index = (warp_index() * warp_rows<COLUMNS> + r) * tile_rows + lane_index();
                shares[index] = share[r];
                gradients[index] = gradient[r];
            }
            block_barrier();
            accumulate<COLUMNS>(dvalues, shares + warp_index() * warp_rows<COLUMNS>, 1, tile_rows, douts);
            accumulate<COLUMNS>(dkeys, gradients + warp_index() * warp_rows<COLUMNS>, 1, tile_rows, queries);
        }
    }
    float* target = dqkv + (document.first + tile) * packed;
    store_tile<COLUMNS>(target + key_column, packed, dkeys, document.rows - tile, width);
    store_tile<COLUMNS>(target + value_column, packed, dvalues, document.rows - tile, width);
}

// ---- One set of kernels for head widths up to WIDTH ----

#define KERNELS_FOR(WIDTH)                                                                                             \
    KERNEL LAUNCH_BOUNDS(threads<WIDTH / warp_lanes>, 1) attention_forward_##WIDTH(const float* qkv, const u32* offsets, float* out, float* lse, \
                                                           int query_heads, int key_value_heads, int width,            \
                                                           float scale) {                                              \
        DYNAMIC_SHARED(shared);                                                                                        \
        forward<WIDTH / warp_lanes>(shared, qkv, offsets, out, lse, {query_heads, key_value_heads, width}, scale);     \
    }                                                                                                                  \
    KERNEL LAUNCH_BOUNDS(threads<WIDTH / warp_lanes>, 1) attention_backward_queries_##WIDTH(                                                   \
        const float* qkv, const u32* offsets, const float* lse, const float* delta, const float* dout, float* dqkv,    \
        int query_heads, int key_value_heads, int width, float scale) {                                                \
        DYNAMIC_SHARED(shared);                                                                                        \
        Saved saved = {qkv, lse, delta, dout, {query_heads, key_value_heads, width}, scale};                           \
        backward_queries<WIDTH / warp_lanes>(shared, saved, offsets, dqkv);                                            \
    }                                                                                                                  \
    KERNEL LAUNCH_BOUNDS(threads<WIDTH / warp_lanes>, 1) attention_backward_keys_##WIDTH(                                                      \
        const float* qkv, const u32* offsets, const float* lse, const float* delta, const float* dout, float* dqkv,    \
        int query_heads, int key_value_heads, int width, float scale) {                                                \
        DYNAMIC_SHARED(shared);                                                                                        \
        Saved saved = {qkv, lse, delta, dout, {query_heads, key_value_heads, width}, scale};                           \
        backward_keys<WIDTH / warp_lanes>(shared, saved, offsets, dqkv);                                               \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_forward_##WIDTH)                                                                         \
    REGISTER_KERNEL(attention_backward_queries_##WIDTH)                                                                \
    REGISTER_KERNEL(attention_backward_keys_##WIDTH)

KERNELS_FOR(64)
KERNELS_FOR(128)
KERNELS_FOR(256)

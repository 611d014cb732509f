// One new row of each running sequence against its keys and values in pages (Kwon et al., "PagedAttention", 2023), in f32;
// in Bf16 precision of factors rounded to bf16.
//
// B rows, H query heads, K key/value heads, G = H / K, D head width, R rows of a page, P pages of a row's table.
// qkv [B, (H + 2K)·D]; keys [pages, K, D, R]; values [pages, K, R, D]; tables [B, P]; lengths [B]; out [B, H·D].
//
// A block takes 256 rows of one sequence and one key/value head for up to eight query heads, so keys and values are read
// once for them; it is bound by that read. Threads are keys while scores are made (neighbours lie side by side in a page),
// lanes are columns while values are summed. Longer sequences are split over blocks, and their parts are put together in
// order, whatever the size of a page.

constexpr int split_rows = 256;
constexpr int threads = 128;
constexpr int warps = threads / warp_lanes;
constexpr int most_heads = 8;  // query heads of a block
constexpr float log2_e = 1.4426950408889634f;

DEVICE float factor(float value, int rounds) { return rounds ? widen(round_to_bf16(value)) : value; }

// Writes the keys and values of qkv's rows at places[b] = page · R + row in it. blocks: x row; 128 threads.
KERNEL LAUNCH_BOUNDS(128, 1) attention_append(const float* qkv, const u32* places, float* keys, float* values,
                                              u64 cache_rows, int query_heads, int key_value_heads, int width,
                                              int page_rows, int rounds) {
    u64 place = places[block_x()], page = place / page_rows, row = place % page_rows;
    require(place < cache_rows);
    int kept = key_value_heads * width;
    const float* source = qkv + (u64)block_x() * (query_heads + 2 * key_value_heads) * width + query_heads * width;
    for (int index = thread_index(); index < kept; index += threads) {
        int head = index / width, column = index % width;
        keys[page * kept * page_rows + index * page_rows + row] = factor(source[index], rounds);
        values[page * kept * page_rows + (head * page_rows + row) * width + column] = factor(source[kept + index], rounds);
    }
}
REGISTER_KERNEL(attention_append)

// Where the pages of one sequence lie.
struct Pages {
    const u32* table;
    u64 floats;  // of a page
    int rows;    // of a page
    u64 count;   // of the cache
};
DEVICE u64 first_float(const Pages& pages, int row) {
    u64 page = pages.table[row / pages.rows];
    require(page < pages.count);
    return page * pages.floats;
}

// scores[g, r] = queries[g, ·] · keys[r, ·] for `count` rows from `first` on, -∞ behind them.
DEVICE void score_rows(float* scores, const float* queries, const float* keys, const Pages& pages, int first, int count,
                       int width) {
    for (int row = thread_index(); row < split_rows; row += threads) {
        float sums[most_heads];
        UNROLL
        for (int g = 0; g < most_heads; g++) sums[g] = row < count ? 0.0f : -infinity();
        if (row < count) {
            const float* key = keys + first_float(pages, first + row) + (first + row) % pages.rows;
            for (int column = 0; column < width; column++) {
                float value = key[(u64)column * pages.rows];
                UNROLL
                for (int g = 0; g < most_heads; g++) sums[g] = multiply_add(queries[g * width + column], value, sums[g]);
            }
        }
        UNROLL
        for (int g = 0; g < most_heads; g++) scores[g * split_rows + row] = sums[g];
    }
}

// Turns one head's scores into 2^(score - largest) and returns the largest and the sum to every lane of the warp.
DEVICE void exponentiate(float* scores, float& largest, float& sum) {
    largest = -infinity(), sum = 0.0f;
    for (int row = lane_index(); row < split_rows; row += warp_lanes) largest = maximum(largest, scores[row]);
    largest = warp_maximum(largest);
    for (int row = lane_index(); row < split_rows; row += warp_lanes)
        sum += scores[row] = exponential2_fast(scores[row] - largest);
    sum = warp_sum(sum);
}

// parts[warp, g, ·] = Σ shares[g, r] · values[r, ·] over a quarter of the rows for each warp.
DEVICE void sum_values(float* parts, const float* shares, const float* values, const Pages& pages, int first, int count,
                       int width) {
    int start = warp_index() * (split_rows / warps), end = start + split_rows / warps;
    if (end > count) end = count;
    for (int column = lane_index(); column < width; column += warp_lanes) {
        float sums[most_heads];
        UNROLL
        for (int g = 0; g < most_heads; g++) sums[g] = 0.0f;
        for (int row = start; row < end; row++) {
            float value = values[first_float(pages, first + row) + (u64)((first + row) % pages.rows) * width + column];
            UNROLL
            for (int g = 0; g < most_heads; g++) sums[g] = multiply_add(shares[g * split_rows + row], value, sums[g]);
        }
        UNROLL
        for (int g = 0; g < most_heads; g++) parts[(warp_index() * most_heads + g) * width + column] = sums[g];
    }
}

// partial [B, S, H, D] and statistics [B, S, H, 2] (largest score in powers of two, sum) of S splits of 256 rows.
// blocks: x key/value head and eight of its query heads, y row, z split; 128 threads.
KERNEL LAUNCH_BOUNDS(128, 1) attention_decode(const float* qkv, const float* keys, const float* values, const u32* tables,
                                              const u32* lengths, float* partial, float* statistics, u64 page_count,
                                              int table_pages, int page_rows, int query_heads, int key_value_heads,
                                              int width, float scale, int rounds) {
    DYNAMIC_SHARED(shared);
    int row = block_y(), first = block_z() * split_rows, length = (int)lengths[row];
    require(length <= table_pages * page_rows);
    if (first >= length) return;
    int count = length - first < split_rows ? length - first : split_rows;
    int group = query_heads / key_value_heads, blocks = ceiling_divide(group, most_heads);
    int key_head = block_x() / blocks, in_group = block_x() % blocks * most_heads;
    int head = key_head * group + in_group, heads = group - in_group < most_heads ? group - in_group : most_heads;
    u64 page_floats = (u64)key_value_heads * width * page_rows, head_floats = (u64)key_head * width * page_rows;
    Pages pages = {tables + (u64)row * table_pages, page_floats, page_rows, page_count};

    float* queries = (float*)shared;                   // [8, D], scaled to powers of two
    float* scores = queries + most_heads * width;      // [8, 256]
    float* parts = scores + most_heads * split_rows;   // [4 warps, 8, D]
    const float* source = qkv + (u64)row * (query_heads + 2 * key_value_heads) * width + head * width;
    for (int index = thread_index(); index < most_heads * width; index += threads)
        queries[index] = index < heads * width ? factor(source[index], rounds) * (scale * log2_e) : 0.0f;
    block_barrier();
    score_rows(scores, queries, keys + head_floats, pages, first, count, width);
    block_barrier();
    u64 target = ((u64)row * grid_z() + block_z()) * query_heads + head;
    for (int g = warp_index(); g < heads; g += warps) {
        float largest, sum;
        exponentiate(scores + g * split_rows, largest, sum);
        if (lane_index() == 0) statistics[2 * (target + g)] = largest, statistics[2 * (target + g) + 1] = sum;
    }
    block_barrier();
    sum_values(parts, scores, values + head_floats, pages, first, count, width);
    block_barrier();
    for (int index = thread_index(); index < heads * width; index += threads) {
        float sum = 0.0f;
        UNROLL
        for (int warp = 0; warp < warps; warp++) sum += parts[warp * most_heads * width + index];
        partial[target * width + index] = sum;
    }
}
REGISTER_KERNEL(attention_decode)

// out[b, h, ·] from the splits of row b, in order. A warp for each b and h. blocks: x head, y row; 32 threads.
KERNEL LAUNCH_BOUNDS(32, 1) attention_combine(const float* partial, const float* statistics, const u32* lengths,
                                              float* out, int splits, int query_heads, int width) {
    int head = block_x(), row = block_y(), used = ceiling_divide((int)lengths[row], split_rows);
    u64 first = (u64)row * splits * query_heads + head, step = query_heads;
    float largest = -infinity(), total = 0.0f;
    for (int split = 0; split < used; split++) largest = maximum(largest, statistics[2 * (first + split * step)]);
    for (int split = 0; split < used; split++) {
        const float* mine = statistics + 2 * (first + split * step);
        total = multiply_add(exponential2_fast(mine[0] - largest), mine[1], total);
    }
    for (int column = lane_index(); column < width; column += warp_lanes) {
        float sum = 0.0f;
        for (int split = 0; split < used; split++) {
            u64 index = first + split * step;
            float weight = exponential2_fast(statistics[2 * index] - largest);
            sum = multiply_add(weight, partial[index * width + column], sum);
        }
        out[((u64)row * query_heads + head) * width + column] = divide(sum, total);
    }
}
REGISTER_KERNEL(attention_combine)

// What attention's bf16 kernels share: documents, tiles in shared memory, and products of a warp's rows with a tile.
//
// T rows of all documents, H query heads, K key/value heads, W head width (a multiple of 8), D the tile's width (64, 96 or
// 128; W at most), N documents. qkv, dqkv [T, (H + 2K)·W]; out, dout [T, H·W]; lse, delta [T, H]; offsets [N + 1].

constexpr int tile_rows = 64;  // that a block owns, and of a tile that it meets
constexpr int threads = 128;   // of a block
constexpr int warp_rows = 16;  // that a warp owns
constexpr float log2_e = 1.4426950408889634f;
constexpr float ln_2 = 0.6931471805599453f;

struct Heads {
    int query, key_value, width;
};
DEVICE int heads_of_row(Heads heads) { return heads.query + 2 * heads.key_value; }
DEVICE int group(Heads heads) { return heads.query / heads.key_value; }
DEVICE u64 packed_width(Heads heads) { return (u64)heads_of_row(heads) * heads.width; }
DEVICE u64 query_width(Heads heads) { return (u64)heads.query * heads.width; }

struct Document {
    u64 first;  // its first row among T
    int rows;
};
DEVICE Document document_of_block(const u32* offsets) {
    u32 first = offsets[block_z()];
    return {first, (int)(offsets[block_z() + 1] - first)};
}

// Rows of one head: of queries, keys, values or gradients.
struct Rows {
    const bf16* first;
    u64 stride;
    int count, width;
};
DEVICE Rows from(Rows rows, int row) { return {rows.first + row * rows.stride, rows.stride, rows.count - row, rows.width}; }

// ---- Tiles: rows of D bf16 in chunks of 16 bytes, turned so that eight rows' chunks meet all 32 banks ----

template <int D, int R> constexpr int tile_bytes = R * D * (int)sizeof(bf16);
template <int D> constexpr int row_chunks = D / 8;

template <int D> DEVICE SharedAddress chunk_address(SharedAddress tile, int row, int chunk) {
    int turn = row_chunks<D> % 8 == 0 ? row & 7 : row >> 1 & 3;
    return tile + (row * row_chunks<D> + (chunk ^ turn)) * 16;
}

// Starts copying R rows to a tile; what lies behind the rows or their width becomes 0.
template <int D, int R> DEVICE void start_copy(SharedAddress tile, Rows rows) {
    NO_UNROLL
    for (int index = thread_index(); index < R * row_chunks<D>; index += threads) {
        int row = index / row_chunks<D>, chunk = index % row_chunks<D>;
        bool inside = row < rows.count && chunk * 8 < rows.width;
        copy_async_16(chunk_address<D>(tile, row, chunk), inside ? rows.first + row * rows.stride + chunk * 8 : rows.first,
                      inside);
    }
}

// ---- Products: a warp's 16 rows of sums, COLUMNS wide ----

// A thread holds of each 8 columns two, from fragment_column() on, of rows fragment_row() and fragment_row() + 8.
template <int COLUMNS> using Sums = float[COLUMNS / 8][4];
DEVICE int fragment_row() { return lane_index() / 4; }
DEVICE int fragment_column() { return 2 * (lane_index() % 4); }
DEVICE int row_of(int element) { return fragment_row() + element / 2 * 8; }
DEVICE int column_of(int fragment, int element) { return 8 * fragment + fragment_column() + element % 2; }

template <int N> DEVICE void zero(float (&sums)[N][4]) {
    UNROLL
    for (int n = 0; n < N; n++) {
        UNROLL
        for (int x = 0; x < 4; x++) sums[n][x] = 0.0f;
    }
}

// sums[16, R] += left[16 rows from `row` on, D] · right[R, D]ᵀ
template <int D, int R> DEVICE void multiply_by_rows(Sums<R>& sums, SharedAddress left, int row, SharedAddress right) {
    int lane = lane_index();
    UNROLL
    for (int k = 0; k < D / 16; k++) {
        u32 a[4];
        load_matrices_4(a, chunk_address<D>(left, row + lane % 16, 2 * k + lane / 16));
        UNROLL
        for (int n = 0; n < R / 16; n++) {
            u32 b[4];
            load_matrices_4(b, chunk_address<D>(right, 16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
            multiply_accumulate_bf16(sums[2 * n], a, b[0], b[1]);
            multiply_accumulate_bf16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, D] += left[16, R] · right[R, D]. Accumulators of one product have the layout of the next one's left factor.
template <int D, int R> DEVICE void multiply_by_columns(Sums<D>& sums, const Sums<R>& left, SharedAddress right) {
    int lane = lane_index();
    UNROLL
    for (int k = 0; k < R / 16; k++) {
        const float(&low)[4] = left[2 * k];
        const float(&high)[4] = left[2 * k + 1];
        u32 a[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                    pack_bf16(high[2], high[3])};
        UNROLL
        for (int n = 0; n < D / 16; n++) {
            u32 b[4];
            load_matrices_4_transposed(b, chunk_address<D>(right, 16 * k + lane % 16, 2 * n + lane / 16));
            multiply_accumulate_bf16(sums[2 * n], a, b[0], b[1]);
            multiply_accumulate_bf16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// ---- Softmax ----

// The running softmax of a thread's two rows in powers of two (Milakov and Gimelshein, 2018).
struct Softmax {
    float largest[2];  // of the scores so far, not scaled
    float sum[2];      // this thread's part of Σ 2^((score - largest) · scale)
};

// The sum of row r over the four threads that share it.
DEVICE float total(const Softmax& softmax, int r) {
    float pair = softmax.sum[r] + warp_shuffle_xor(softmax.sum[r], 1);
    return pair + warp_shuffle_xor(pair, 2);
}

// ---- Results ----

// Rows of heads in bf16, or in f32 where `half` is null; a head is `width` columns wide there, an even number.
struct Output {
    bf16* half;
    float* full;
    int heads, width;
};

struct alignas(8) Pair {
    float low, high;
};

DEVICE void store_pair(const Output& output, u64 row, int head, int column, Pair pair) {
    if (column >= output.width) return;
    u64 index = (row * output.heads + head) * output.width + column;
    if (output.half) *(u32*)(output.half + index) = pack_bf16(pair.low, pair.high);
    else *(Pair*)(output.full + index) = pair;
}

// Writes a warp's sums times a factor for each of a thread's two rows; the warp's first row is row `first` of T, and
// `rows` of its rows are in the document.
template <int D>
DEVICE void store_rows(const Output& output, const Sums<D>& sums, const float (&factors)[2], u64 first, int rows, int head) {
    UNROLL
    for (int r = 0; r < 2; r++) {
        int row = row_of(2 * r);
        if (row >= rows) continue;
        UNROLL
        for (int n = 0; n < D / 8; n++) {
            Pair pair = {sums[n][2 * r] * factors[r], sums[n][2 * r + 1] * factors[r]};
            store_pair(output, first + row, head, column_of(n, 0), pair);
        }
    }
}

// The fused head on Hopper: the tiles of logprob.cu's bf16 way, by asynchronous copies and products of warpgroups.
//
// A block takes 128 rows through one piece of the vocabulary in tiles of 256 columns. One thread of a third warpgroup keeps
// four stages of factors coming, through the ends of tiles; two warpgroups multiply 64 rows each and read off what they
// need from the sums in their registers. As they work apart, one's exponentials run beside the other's products.
#include "hopper.cuh"
#include "seen.cuh"

constexpr int HEAD_ROWS = 128;
constexpr int HEAD_COLUMNS = 256;
constexpr int HEAD_DEPTH = 64;  // terms of each sum in one stage
constexpr int HEAD_STAGES = 4;
constexpr int HEAD_CONSUMERS = 2;  // warpgroups of 64 rows
constexpr int HEAD_THREADS = 128 * (HEAD_CONSUMERS + 1);
constexpr int HEAD_HIDDEN_BYTES = HEAD_ROWS * HEAD_DEPTH * 2;
constexpr int HEAD_WEIGHT_BYTES = HEAD_COLUMNS * HEAD_DEPTH * 2;
constexpr int HEAD_STAGE_BYTES = HEAD_HIDDEN_BYTES + HEAD_WEIGHT_BYTES;
constexpr int HEAD_GROUP_BYTES = 64 * HEAD_DEPTH * 2;  // of one warpgroup's rows
constexpr int HEAD_SUMS = HEAD_COLUMNS / 2;  // sums of a thread: two rows
constexpr int HEAD_ROW_SUMS = HEAD_SUMS / 2;
constexpr int HEAD_PART = HEAD_ROW_SUMS / 4;  // sums of a row that are read off together

// One block's way through rows and columns. Shared memory: the stages, then a barrier for each that says it is full, and
// one that says it is free.
struct Way {
    SharedAddress shared;
    u64 first_row, begin, end;
    int depth;  // stages of a tile

    MEMBER int tiles() const { return int((end - begin + HEAD_COLUMNS - 1) / HEAD_COLUMNS); }
    MEMBER SharedAddress stage(int step) const { return shared + step % HEAD_STAGES * HEAD_STAGE_BYTES; }
    MEMBER SharedAddress full(int step) const { return shared + HEAD_STAGES * HEAD_STAGE_BYTES + step % HEAD_STAGES * 8; }
    MEMBER SharedAddress free(int step) const { return full(step) + HEAD_STAGES * 8; }
    // Barriers end a phase each time the stages come round.
    MEMBER u32 round(int step) const { return step / HEAD_STAGES % 2; }

    MEMBER void prepare() const {
        if (thread_index() == 0) {
            for (int step = 0; step < HEAD_STAGES; step++) {
                transfer_barrier_init(full(step), 1);
                transfer_barrier_init(free(step), HEAD_CONSUMERS * 4);
            }
            transfer_barriers_ready();
        }
        block_barrier();
    }

    // One thread: brings every stage of every tile, each once it is free.
    MEMBER void bring(const TensorMap& hidden, const TensorMap& weight) const {
        int steps = tiles() * depth;
        for (int step = 0; step < steps; step++) {
            transfer_barrier_wait(free(step), round(step) ^ 1);
            transfer_barrier_expect(full(step), HEAD_STAGE_BYTES);
            int term = step % depth * HEAD_DEPTH, column = int(begin) + step / depth * HEAD_COLUMNS;
            load_tile(stage(step), &hidden, term, int(first_row), full(step));
            load_tile(stage(step) + HEAD_HIDDEN_BYTES, &weight, term, column, full(step));
        }
    }

    // One warpgroup: the tile whose first stage is `first`.
    MEMBER void multiply(float (&sums)[HEAD_SUMS], int group, int first) const {
        for (int step = first; step < first + depth; step++) {
            transfer_barrier_wait(full(step), round(step));
            SharedAddress rows = stage(step) + group * HEAD_GROUP_BYTES, columns = stage(step) + HEAD_HIDDEN_BYTES;
            warpgroup_fence(sums);
            UNROLL
            for (int term = 0; term < HEAD_DEPTH; term += 16)
                warpgroup_multiply<HEAD_COLUMNS>(sums, rows_descriptor(rows, term), rows_descriptor(columns, term),
                                                 step > first || term > 0);
            warpgroup_commit();
            warpgroup_wait<0>(sums);
            warp_barrier();
            if (lane_index() == 0) transfer_barrier_arrive(free(step));
        }
    }

    // Copies in one warpgroup, products in the others, which call finish(sums, first column of the tile) after each tile.
    template <class Finish>
    MEMBER void go(const TensorMap& hidden, const TensorMap& weight, Finish finish) const {
        int group = warp_index() / 4;
        if (group == HEAD_CONSUMERS) {
            registers_decrease<24>();
            if (thread_index() == HEAD_CONSUMERS * 128) bring(hidden, weight);
            return;
        }
        registers_increase<240>();
        float sums[HEAD_SUMS];
        for (int tile = 0; tile < tiles(); tile++) {
            multiply(sums, group, tile * depth);
            finish(sums, u32(begin) + tile * HEAD_COLUMNS);
        }
    }
};

// The row (of a block) of a consumer's thread's i-th row, i 0 or 1, and the column (of a tile) of its j-th sum in a row.
DEVICE int head_row(int i) { return warp_index() * 16 + i * 8 + lane_index() / 4; }
DEVICE int head_column(int j) { return j / 2 * 8 + lane_index() % 4 * 2 + j % 2; }
DEVICE int head_sum(int i, int j) { return j / 2 * 4 + i * 2 + j % 2; }

// As logprob_half_forward. `hidden` and `weight` map rounded lines in boxes of 128 and 256 lines by 64 terms.
KERNEL LAUNCH_BOUNDS(HEAD_THREADS, 1)
logprob_hopper_forward(GRID_CONSTANT TensorMap hidden, GRID_CONSTANT TensorMap weight, const u32* targets, float* logp,
                       float* partials, u64 rows, u64 vocabulary, u64 line_length, u64 piece_columns, float scale) {
    DYNAMIC_SHARED(bytes);
    Seen seen = {partials, logp, targets, rows};
    u64 first_row = u64(block_x()) * HEAD_ROWS, piece = block_y(), begin = piece * piece_columns;
    u64 end = begin + piece_columns < vocabulary ? begin + piece_columns : vocabulary;
    Way way = {shared_address(bytes), first_row, begin, end, int((line_length + HEAD_DEPTH - 1) / HEAD_DEPTH)};
    Running running[2];
    UNROLL
    for (int i = 0; i < 2; i++) running[i].clear();
    way.prepare();
    way.go(hidden, weight, [&](float (&sums)[HEAD_SUMS], u32 first) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            u64 row = first_row + head_row(i);
            int target = seen.target(row, first);
            // A quarter of them at a time: all at once would take more registers than there are.
            UNROLL
            for (int part = 0; part < HEAD_ROW_SUMS; part += HEAD_PART) {
                float z[HEAD_PART];
                UNROLL
                for (int j = 0; j < HEAD_PART; j++) z[j] = sums[head_sum(i, part + j)] * scale;
                see_row(running[i], logp + row, target, int(u32(end) - first), z, [&](int j) { return head_column(part + j); });
            }
        }
    });
    if (warp_index() >= HEAD_CONSUMERS * 4) return;
    UNROLL
    for (int i = 0; i < 2; i++) {
        // The four lanes that hold a row's columns.
        for (int mask = 1; mask <= 2; mask *= 2) running[i].merge(running[i].of_lane(mask));
        u64 row = first_row + head_row(i);
        if (lane_index() % 4 == 0 && row < rows) seen.keep(piece, row, running[i]);
    }
}

// As logprob_half_gradient; a block takes `block_columns` of the columns in y.
KERNEL LAUNCH_BOUNDS(HEAD_THREADS, 1)
logprob_hopper_gradient(GRID_CONSTANT TensorMap hidden, GRID_CONSTANT TensorMap weight, const u32* targets, const float* lse,
                        const float* dlogp, const float* entropy, const float* dentropy, bf16* dlogits, u64 rows,
                        u64 columns, u64 line_length, u64 dlogits_line, u64 first_column, u64 block_columns, float scale) {
    DYNAMIC_SHARED(bytes);
    Saved saved = {lse, dlogp, entropy, dentropy, targets, scale};
    RoundedGradients gradients = {dlogits, u32(columns), u32(dlogits_line), u32(first_column)};
    u64 first_row = u64(block_x()) * HEAD_ROWS, begin = u64(block_y()) * block_columns;
    u64 end = begin + block_columns < columns ? begin + block_columns : columns;
    Way way = {shared_address(bytes), first_row, begin, end, int((line_length + HEAD_DEPTH - 1) / HEAD_DEPTH)};
    way.prepare();
    way.go(hidden, weight, [&](float (&sums)[HEAD_SUMS], u32 first) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            u64 row = first_row + head_row(i);
            if (row >= rows) continue;
            RowGradient gradient = saved.of(row);
            UNROLL
            for (int j = 0; j < HEAD_ROW_SUMS; j += 2)
                gradients.keep_pair(gradient, row, first + head_column(j), sums[head_sum(i, j)] * scale,
                                    sums[head_sum(i, j + 1)] * scale);
        }
    });
}

REGISTER_KERNEL(logprob_hopper_forward)
REGISTER_KERNEL(logprob_hopper_gradient)

// One kernel for each of the emulator's words, to be compared with plain C++ (check_words.cpp).
#include "hopper.cuh"

// Each lane's value through every exchange: [7, 32].
KERNEL LAUNCH_BOUNDS(32, 1) words_exchange(const float* input, float* output) {
    int lane = lane_index();
    float value = input[lane];
    output[lane] = warp_shuffle(value, 31 - lane);
    output[32 + lane] = warp_shuffle_xor(value, 5);
    output[64 + lane] = warp_shuffle_down(value, 3);
    output[96 + lane] = warp_shuffle_up(value, 4);
    output[128 + lane] = (float)(warp_ballot(value > 0) >> lane & 1);
    output[160 + lane] = warp_sum(value);
    output[192 + lane] = warp_maximum(value);
}
REGISTER_KERNEL(words_exchange)

// c[16, 8] = a[16, 16] b[16, 8]; `turned` says that b comes as its transpose [8, 16].
KERNEL LAUNCH_BOUNDS(32, 1) words_multiply(const bf16* a, const bf16* b, float* c, int turned) {
    SHARED_ARRAY(bf16, left, 256);
    SHARED_ARRAY(bf16, right, 128);
    int lane = lane_index();
    for (int index = lane; index < 256; index += 32) left[index] = a[index];
    for (int index = lane; index < 128; index += 32) right[index] = b[index];
    warp_barrier();
    u32 left_fragment[4], right_fragment[2];
    load_matrices_4(left_fragment, shared_address(left + lane % 16 * 16 + lane / 16 * 8));
    if (turned) load_matrices_2(right_fragment, shared_address(right + lane % 8 * 16 + lane / 8 % 2 * 8));
    else
        load_matrices_2_transposed(right_fragment, shared_address(right + lane % 16 * 8));
    float sums[4] = {1, 2, 3, 4};
    multiply_accumulate_bf16(sums, left_fragment, right_fragment[0], right_fragment[1]);
    for (int x = 0; x < 4; x++) c[(lane / 4 + x / 2 * 8) * 8 + lane % 4 * 2 + x % 2] = sums[x] - (x + 1);
}
REGISTER_KERNEL(words_multiply)

// Copies the map's box at (x, y) to shared memory and as it lies there to `seen`, then to the map `target` at (x, y).
KERNEL LAUNCH_BOUNDS(32, 1)
words_tile(GRID_CONSTANT TensorMap source, GRID_CONSTANT TensorMap target, bf16* seen, int x, int y, int rows) {
    DYNAMIC_SHARED(bytes);
    SharedAddress tile = shared_address(bytes), barrier = tile + rows * 128;
    if (thread_index() == 0) {
        transfer_barrier_init(barrier, 1);
        transfer_barriers_ready();
        transfer_barrier_expect(barrier, rows * 128);
        load_tile(tile, &source, x, y, barrier);
    }
    warp_barrier();
    transfer_barrier_wait(barrier, 0);
    for (int index = thread_index(); index < rows * 64; index += 32) seen[index] = reinterpret_cast<bf16*>(bytes)[index];
    warp_barrier();
    if (thread_index() == 0) {
        store_tile(&target, x, y, tile);
        store_commit();
        store_wait<0>();
    }
}
REGISTER_KERNEL(words_tile)

// c[64, N] = a[64, 64] b[64, N] in four steps. `a` lies as [64, 64] or (turned) its transpose; `b` as its transpose [N, 64] or
// (turned) [64, N] in pieces of 64 columns; both with the 128-byte swizzle. With a in registers, `a` is not turned.
template <int N, bool turn_a, bool turn_b, bool registers> DEVICE void multiply_group(const bf16* a, const bf16* b, float* c) {
    DYNAMIC_SHARED(bytes);
    SharedAddress left = shared_address(bytes), right = left + 8192;
    bf16* values = reinterpret_cast<bf16*>(bytes);
    auto place = [](int row, int column) { return row * 64 + (column / 8 ^ row % 8) * 8 + column % 8; };
    for (int index = thread_index(); index < 64 * 64; index += 128) {
        int m = index / 64, k = index % 64;
        values[turn_a ? place(k, m) : place(m, k)] = a[index];
    }
    for (int index = thread_index(); index < 64 * N; index += 128) {
        int k = index / N, n = index % N;
        values[4096 + (turn_b ? n / 64 * 4096 + place(k, n % 64) : place(n, k))] = b[index];
    }
    async_fence();
    block_barrier();
    float sums[N / 2];
    warpgroup_fence(sums);
    int row = warp_index() * 16 + lane_index() / 4, pair = lane_index() % 4 * 2;
    for (int k = 0; k < 64; k += 16) {
        u64 right_factor = turn_b ? turned_descriptor(right, k, 8192) : rows_descriptor(right, k);
        if (registers) {
            auto two = [&](int r, int column) { return *reinterpret_cast<const u32*>(a + r * 64 + column); };
            u32 fragment[4] = {two(row, k + pair), two(row + 8, k + pair), two(row, k + pair + 8), two(row + 8, k + pair + 8)};
            warpgroup_multiply_registers<N, turn_b>(sums, fragment, right_factor, k > 0);
        } else {
            u64 left_factor = turn_a ? turned_descriptor(left, k, 8192) : rows_descriptor(left, k);
            warpgroup_multiply<N, turn_a, turn_b>(sums, left_factor, right_factor, k > 0);
        }
    }
    warpgroup_commit();
    warpgroup_wait<0>(sums);
    for (int i = 0; i < N / 2; i++) c[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + pair + i % 2] = sums[i];
}
#define GROUP(N, turn_a, turn_b, registers)                                                                     \
    KERNEL LAUNCH_BOUNDS(128, 1)                                                                                \
    words_group_##N##_##turn_a##turn_b##registers(const bf16* a, const bf16* b, float* c) {                     \
        multiply_group<N, turn_a, turn_b, registers>(a, b, c);                                                  \
    }                                                                                                           \
    REGISTER_KERNEL(words_group_##N##_##turn_a##turn_b##registers)
#define GROUPS(N) GROUP(N, 0, 0, 0) GROUP(N, 0, 1, 0) GROUP(N, 1, 0, 0) GROUP(N, 1, 1, 0) GROUP(N, 0, 0, 1) GROUP(N, 0, 1, 1)
GROUPS(32)
GROUPS(64)
GROUPS(96)
GROUPS(128)
GROUPS(192)
GROUPS(256)

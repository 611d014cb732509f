// A warp-specialised product (TMA, transfer barriers, wgmma) that is right, and the same with one mistake each.
#include "hopper.cuh"

enum Mistake {
    none,
    missing_product_wait, wait_for_too_few_products, missing_full_wait, wrong_full_parity, wrong_empty_parity,
    expect_too_few, expect_too_many, missing_empty_wait, missing_empty_arrive, too_many_arrivals, wrong_inner_step,
    wrong_descriptor_stride, missing_product_fence, missing_commit, sums_read_early, sums_written_early,
    unaligned_tile, barrier_never_initialised, barrier_initialised_twice, barrier_written_over, missing_init_barrier,
    arrive_before_wait, store_written_over, store_never_waited, warps_part,
};

constexpr int stages = 2, tile_bytes = 8192, stage_bytes = 2 * tile_bytes, product_threads = 128;

struct Ring {
    SharedAddress start, full, empty;

    MEMBER SharedAddress left(int step) const { return start + step % stages * stage_bytes; }
    MEMBER SharedAddress right(int step) const { return left(step) + tile_bytes; }
    MEMBER SharedAddress full_of(int step) const { return full + step % stages * 8; }
    MEMBER SharedAddress empty_of(int step) const { return empty + step % stages * 8; }
};

template <Mistake mistake>
DEVICE void produce(const Ring& ring, const TensorMap* left, const TensorMap* right, int steps) {
    constexpr int announced = mistake == expect_too_few ? tile_bytes : mistake == expect_too_many ? stage_bytes + 16 : stage_bytes;
    for (int step = 0; step < steps; step++) {
        int parity = step / stages % 2 ^ (mistake == wrong_empty_parity ? 0 : 1);
        if (mistake != missing_empty_wait) transfer_barrier_wait(ring.empty_of(step), parity);
        transfer_barrier_expect(ring.full_of(step), announced);
        load_tile(ring.left(step) + (mistake == unaligned_tile ? 128 : 0), left, step * 64, block_y() * 64, ring.full_of(step));
        load_tile(ring.right(step), right, step * 64, block_x() * 64, ring.full_of(step));
    }
}

template <Mistake mistake> DEVICE void consume(const Ring& ring, float (&sums)[32], int steps) {
    float early = 0;
    for (int step = 0; step < steps; step++) {
        if (mistake != missing_full_wait)
            transfer_barrier_wait(ring.full_of(step), step / stages % 2 ^ (mistake == wrong_full_parity ? 1 : 0));
        if (mistake != missing_product_fence) warpgroup_fence(sums);
        for (int inner = 0; inner < 64; inner += 16) {
            u64 a = rows_descriptor(ring.left(step), inner);
            if (mistake == wrong_inner_step) a = rows_descriptor(ring.left(step), inner / 2);
            if (mistake == wrong_descriptor_stride) a = matrix_descriptor(ring.left(step) + inner * 2, 16, 512, swizzle_128);
            if (mistake == warps_part && warp_index() == 2) a = rows_descriptor(ring.right(step), inner);
            warpgroup_multiply<64>(sums, a, rows_descriptor(ring.right(step), inner), step + inner > 0);
        }
        if (mistake != missing_commit) warpgroup_commit();
        if (mistake == sums_read_early) early += sums[0];
        if (mistake == sums_written_early) sums[3] = 0;
        if (mistake == arrive_before_wait) transfer_barrier_arrive(ring.empty_of(step));
        if (mistake != missing_product_wait) {
            if (mistake == wait_for_too_few_products && step + 1 < steps) warpgroup_wait<1>(sums);
            else
                warpgroup_wait<0>(sums);
        }
        if (mistake != missing_empty_arrive && mistake != arrive_before_wait) transfer_barrier_arrive(ring.empty_of(step));
        if (mistake == too_many_arrivals && thread_index() == 0) transfer_barrier_arrive(ring.empty_of(step));
    }
    sums[0] += early;
}

// c[m, n] = a[m, k] b[n, k]^T by tiles of 64 x 64; the sums' first 64 x 1 also go out through a bulk store of 256 bytes.
template <Mistake mistake>
DEVICE void gemm(const TensorMap* left, const TensorMap* right, float* c, float* column, int n, int k) {
    DYNAMIC_SHARED(bytes);
    SharedAddress start = shared_address(bytes), barriers = start + stages * stage_bytes;
    Ring ring = {start, barriers, barriers + stages * 8};
    float* first = reinterpret_cast<float*>(bytes + stages * stage_bytes + 64);
    if (thread_index() == 0) {
        for (int stage = 0; stage < stages; stage++) {
            if (mistake != barrier_never_initialised || stage == 0) transfer_barrier_init(ring.full_of(stage), 1);
            transfer_barrier_init(ring.empty_of(stage), product_threads);
        }
        if (mistake == barrier_initialised_twice) transfer_barrier_init(ring.full_of(0), 1);
        if (mistake == barrier_written_over) *reinterpret_cast<u32*>(bytes + stages * stage_bytes) = 7;
        transfer_barriers_ready();
    }
    if (mistake != missing_init_barrier) block_barrier();
    if (warp_index() >= 4) {
        registers_decrease<40>();
        if (thread_index() == product_threads) produce<mistake>(ring, left, right, k / 64);
        return;
    }
    registers_increase<232>();
    float sums[32];
    consume<mistake>(ring, sums, k / 64);
    int row = warp_index() * 16 + lane_index() / 4, pair = lane_index() % 4 * 2;
    for (int j = 0; j < 8; j++)
        for (int x = 0; x < 4; x++)
            c[(u64)(block_y() * 64 + row + x / 2 * 8) * n + block_x() * 64 + pair + j * 8 + x % 2] = sums[j * 4 + x];
    if (pair == 0) first[row] = sums[0], first[row + 8] = sums[2];
    async_fence();
    named_barrier_wait(1, product_threads);
    if (thread_index() == 0) {
        store_bulk(column + (u64)(block_x() * grid_y() + block_y()) * 64, shared_address(first), 256);
        store_commit();
        if (mistake == store_written_over) first[9] = 0;
        if (mistake != store_never_waited) store_wait<0>();
    }
}

#define GEMM(mistake)                                                                                                   \
    KERNEL LAUNCH_BOUNDS(256, 1)                                                                                        \
    gemm_##mistake(GRID_CONSTANT TensorMap left, GRID_CONSTANT TensorMap right, float* c, float* column, int n, int k) { \
        gemm<mistake>(&left, &right, c, column, n, k);                                                                  \
    }                                                                                                                   \
    REGISTER_KERNEL(gemm_##mistake)

GEMM(none)
GEMM(missing_product_wait)
GEMM(wait_for_too_few_products)
GEMM(missing_full_wait)
GEMM(wrong_full_parity)
GEMM(wrong_empty_parity)
GEMM(expect_too_few)
GEMM(expect_too_many)
GEMM(missing_empty_wait)
GEMM(missing_empty_arrive)
GEMM(too_many_arrivals)
GEMM(wrong_inner_step)
GEMM(wrong_descriptor_stride)
GEMM(missing_product_fence)
GEMM(missing_commit)
GEMM(sums_read_early)
GEMM(sums_written_early)
GEMM(unaligned_tile)
GEMM(barrier_never_initialised)
GEMM(barrier_initialised_twice)
GEMM(barrier_written_over)
GEMM(missing_init_barrier)
GEMM(arrive_before_wait)
GEMM(store_written_over)
GEMM(store_never_waited)
GEMM(warps_part)

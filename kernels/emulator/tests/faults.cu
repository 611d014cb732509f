// Small kernels that are right, and beside each the same kernel with one mistake: the emulator must find every one.
// Threads, shared memory and Ampere's words; faults_hopper.cu has the rest.

enum Mistake {
    none,
    // reverse
    missing_barrier, barrier_in_branch, barriers_of_two_lines, read_outside, write_outside, shared_outside,
    // rotate
    missing_warp_barrier, lanes_part, lanes_end,
    // relay
    named_barrier_of_too_many, named_barrier_of_two_counts, named_barrier_twice, named_barrier_missing,
    // multiply
    wait_for_too_few, missing_wait, missing_commit, missing_copy_barrier, missing_reuse_barrier, unaligned_matrix,
    unaligned_copy, copy_never_waited, copy_outside_shared,
};

constexpr int row_threads = 128;

// output[i] = input[127 - i]
template <Mistake mistake> DEVICE void reverse(const float* input, float* output) {
    SHARED_ARRAY(float, row, row_threads);
    int thread = thread_index();
    row[thread] = input[thread + (mistake == read_outside)];
    if (mistake == barrier_in_branch) {
        if (warp_index() < 2) block_barrier();
    } else if (mistake == barriers_of_two_lines) {
        if (warp_index() < 2) block_barrier();
        else
            block_barrier();
    } else if (mistake != missing_barrier) {
        block_barrier();
    }
    output[thread + (mistake == write_outside)] = row[row_threads - 1 - thread - (mistake == shared_outside)];
}

// Lane l of each warp gets the value of lane l + 1 twice over: through shared memory and through a shuffle.
template <Mistake mistake> DEVICE void rotate(const float* input, float* output) {
    SHARED_ARRAY(float, row, row_threads);
    int thread = thread_index(), next = thread / 32 * 32 + (thread + 1) % 32;
    if (mistake == lanes_end && lane_index() == 7) return;
    row[thread] = input[thread];
    if (mistake != missing_warp_barrier) warp_barrier();
    float value = row[next];
    if (mistake == lanes_part && lane_index() == 5) warp_barrier();
    else
        value = 0.5f * (value + warp_shuffle(input[thread], lane_index() + 1));
    output[thread] = value;
}

// Two warps fill a row, two warps double it: they meet at barrier 1, where the writers only count.
template <Mistake mistake> DEVICE void relay(const float* input, float* output) {
    SHARED_ARRAY(float, row, row_threads / 2);
    int thread = thread_index();
    constexpr int meeting = mistake == named_barrier_of_too_many ? 160 : 128;
    if (warp_index() < 2) {
        row[thread] = input[thread] + input[thread + 64];
        if (mistake != named_barrier_missing) named_barrier_arrive(1, meeting);
        if (mistake == named_barrier_twice) named_barrier_arrive(1, meeting);
    } else {
        if (mistake != named_barrier_missing)
            named_barrier_wait(1, mistake == named_barrier_of_two_counts ? 64 : meeting);
        output[thread - 64] = output[thread] = 2 * row[127 - thread];
    }
}

constexpr int inner_step = 16, stage_bytes = 128 * 32 + 32 * 8 * 2;

// c[128, 8] = a[128, k] b[k, 8], four warps of 32 rows each, two stages of 16 inner elements.
template <Mistake mistake> DEVICE void multiply(const bf16* a, const bf16* b, float* c, int k) {
    DYNAMIC_SHARED(bytes);
    SharedAddress start = shared_address(bytes);
    int thread = thread_index(), lane = lane_index(), steps = k / inner_step;
    auto load = [&](int step) {
        SharedAddress tile = start + step % 2 * stage_bytes;
        for (int half = 0; half < 2; half++)
            copy_async_16(tile + (thread * 2 + half) * 16 + (mistake == unaligned_copy ? 8 : 0),
                          a + (u64)thread * k + step * inner_step + half * 8);
        if (thread < 16) copy_async_16(tile + 4096 + thread * 16, b + (step * inner_step + thread) * 8);
        if (mistake != missing_commit) copy_async_commit();
    };
    float sums[2][4] = {};
    load(0);
    for (int step = 0; step < steps; step++) {
        SharedAddress tile = start + step % 2 * stage_bytes;
        if (step + 1 < steps) load(step + 1);
        else
            copy_async_commit();
        if (mistake != missing_wait) copy_async_wait<mistake == wait_for_too_few ? 2 : 1>();
        if (mistake != missing_copy_barrier) block_barrier();
        u32 right[2];
        load_matrices_2_transposed(right, tile + 4096 + lane % 16 * 16);
        for (int part = 0; part < 2; part++) {
            u32 left[4];
            int row = warp_index() * 32 + part * 16 + lane % 16;
            load_matrices_4(left, tile + row * 32 + lane / 16 * 16 + (mistake == unaligned_matrix ? 4 : 0));
            multiply_accumulate_bf16(sums[part], left, right[0], right[1]);
        }
        if (mistake != missing_reuse_barrier) block_barrier();
    }
    if (mistake == copy_never_waited) copy_async_16(start + thread * 16, a), copy_async_commit();
    if (mistake == copy_outside_shared) copy_async_16(start + 2 * stage_bytes + thread * 16, a);
    for (int part = 0; part < 2; part++)
        for (int x = 0; x < 4; x++)
            c[(warp_index() * 32 + part * 16 + lane / 4 + x / 2 * 8) * 8 + lane % 4 * 2 + x % 2] = sums[part][x];
}

#define ROW(kernel, mistake)                                                                     \
    KERNEL LAUNCH_BOUNDS(128, 1) kernel##_##mistake(const float* input, float* output) {         \
        kernel<mistake>(input, output);                                                          \
    }                                                                                            \
    REGISTER_KERNEL(kernel##_##mistake)
#define MULTIPLY(mistake)                                                                                    \
    KERNEL LAUNCH_BOUNDS(128, 1) multiply_##mistake(const bf16* a, const bf16* b, float* c, int k) {         \
        multiply<mistake>(a, b, c, k);                                                                       \
    }                                                                                                        \
    REGISTER_KERNEL(multiply_##mistake)

ROW(reverse, none)
ROW(reverse, missing_barrier)
ROW(reverse, barrier_in_branch)
ROW(reverse, barriers_of_two_lines)
ROW(reverse, read_outside)
ROW(reverse, write_outside)
ROW(reverse, shared_outside)
ROW(rotate, none)
ROW(rotate, missing_warp_barrier)
ROW(rotate, lanes_part)
ROW(rotate, lanes_end)
ROW(relay, none)
ROW(relay, named_barrier_of_too_many)
ROW(relay, named_barrier_of_two_counts)
ROW(relay, named_barrier_twice)
ROW(relay, named_barrier_missing)
MULTIPLY(none)
MULTIPLY(wait_for_too_few)
MULTIPLY(missing_wait)
MULTIPLY(missing_commit)
MULTIPLY(missing_copy_barrier)
MULTIPLY(missing_reuse_barrier)
MULTIPLY(unaligned_matrix)
MULTIPLY(unaligned_copy)
MULTIPLY(copy_never_waited)
MULTIPLY(copy_outside_shared)

// Twins of hopper.cuh's words: barriers that count bytes, bulk copies, products of four warps.
#pragma once
#include "block.hpp"
#include "product_requests.hpp"
#include "tensor_map.hpp"

using TensorMap = emulator::TensorMapFields;

namespace emulator {

void init_transfer_barrier(u32 barrier, u32 arrivals, Place place);
void arrive_transfer_barrier(u32 barrier, Place place);
void expect_transfer_barrier(u32 barrier, u32 bytes, Place place);
void wait_transfer_barrier(u32 barrier, u32 parity, Place place);
void load_tile(u32 to, const TensorMapFields* map, int x, int y, u32 barrier, Place place);
void load_bulk(u32 to, const void* from, u32 bytes, u32 barrier, Place place);
void store_tile(const TensorMapFields* map, int x, int y, u32 from, Place place);
void store_bulk(void* to, u32 from, u32 bytes, Place place);
void commit_stores();
void wait_for_stores(int pending);

}  // namespace emulator

DEVICE void transfer_barrier_init(SharedAddress barrier, u32 arrivals, Place place = Place::here()) {
    emulator::init_transfer_barrier(barrier, arrivals, place);
}
DEVICE void transfer_barriers_ready() {}
DEVICE void transfer_barrier_arrive(SharedAddress barrier, Place place = Place::here()) {
    emulator::arrive_transfer_barrier(barrier, place);
}
DEVICE void transfer_barrier_expect(SharedAddress barrier, u32 bytes, Place place = Place::here()) {
    emulator::expect_transfer_barrier(barrier, bytes, place);
}
DEVICE void transfer_barrier_wait(SharedAddress barrier, u32 parity, Place place = Place::here()) {
    emulator::wait_transfer_barrier(barrier, parity, place);
}

DEVICE void load_tile(SharedAddress to, const TensorMap* map, int x, int y, SharedAddress barrier,
                      Place place = Place::here()) {
    emulator::load_tile(to, map, x, y, barrier, place);
}
DEVICE void load_bulk(SharedAddress to, const void* from, u32 bytes, SharedAddress barrier, Place place = Place::here()) {
    emulator::load_bulk(to, from, bytes, barrier, place);
}
DEVICE void store_tile(const TensorMap* map, int x, int y, SharedAddress from, Place place = Place::here()) {
    emulator::store_tile(map, x, y, from, place);
}
DEVICE void store_bulk(void* to, SharedAddress from, u32 bytes, Place place = Place::here()) {
    emulator::store_bulk(to, from, bytes, place);
}
DEVICE void store_commit() { emulator::commit_stores(); }
template <int pending> DEVICE void store_wait() { emulator::wait_for_stores(pending); }
DEVICE void prefetch_tensor_map(const TensorMap*) {}
DEVICE void async_fence() {}

template <int registers> DEVICE void registers_decrease(Place place = Place::here()) {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "24 to 256 in steps of 8");
    emulator::change_registers("registers_decrease", place);
}
template <int registers> DEVICE void registers_increase(Place place = Place::here()) {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "24 to 256 in steps of 8");
    emulator::change_registers("registers_increase", place);
}

// Packs follow the words' arguments, so their places are this file's.
template <int count> DEVICE void pin_registers(float (&)[count]) {}
template <int count> DEVICE void pin_registers(u32 (&)[count]) {}
template <int... counts> DEVICE void warpgroup_fence(float (&... sums)[counts]) {
    float* starts[] = {sums..., nullptr};
    int lengths[] = {counts..., 0};
    emulator::fence_products({starts, lengths, sizeof...(counts)}, Place::here());
}
DEVICE void warpgroup_commit(Place place = Place::here()) { emulator::commit_products(place); }
template <int pending, int... counts> DEVICE void warpgroup_wait(float (&... sums)[counts]) {
    float* starts[] = {sums..., nullptr};
    int lengths[] = {counts..., 0};
    emulator::wait_for_products(pending, {starts, lengths, sizeof...(counts)}, Place::here());
}

DEVICE u64 matrix_descriptor(SharedAddress start, u32 leading_bytes, u32 stride_bytes, int swizzle,
                             Place place = Place::here()) {
    return emulator::describe_matrix(start, leading_bytes, stride_bytes, swizzle, place);
}
template <int N> constexpr bool is_product_width = N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256;
template <int N, bool turn_a = false, bool turn_b = false>
DEVICE void warpgroup_multiply(float (&sums)[N / 2], u64 a, u64 b, bool accumulate, Place place = Place::here()) {
    static_assert(is_product_width<N>, "hopper.cuh has no product of this width");
    emulator::multiply_warpgroup(sums, {N, false, turn_a, turn_b, accumulate, a, b, {}}, place);
}
template <int N, bool turn_b = false>
DEVICE void warpgroup_multiply_registers(float (&sums)[N / 2], const u32 (&a)[4], u64 b, bool accumulate,
                                         Place place = Place::here()) {
    static_assert(is_product_width<N>, "hopper.cuh has no product of this width");
    emulator::multiply_warpgroup(sums, {N, true, false, turn_b, accumulate, 0, b, {a[0], a[1], a[2], a[3]}}, place);
}

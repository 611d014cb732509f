// The twins of the vocabulary's PTX half: the same words for a C++ compiler (vocabulary.cuh includes this file).
#pragma once
#include <cmath>

#include "block.hpp"
#include "registry.hpp"

#define DEVICE static inline
#define KERNEL extern "C" void
#define LAUNCH_BOUNDS(threads, blocks)
#define UNROLL
#define NO_UNROLL
#define GRID_CONSTANT const
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::block().shared
#define SHARED_ARRAY(type, name, count)                                                                          \
    static const char name##_site = 0;                                                                           \
    type(&name)[count] = *static_cast<type(*)[count]>(                                                           \
        emulator::block().static_shared(&name##_site, sizeof(type) * (count), alignof(type), emulator::Place::here()))

using emulator::Place;

DEVICE int thread_index() { return emulator::block().current->thread; }
DEVICE int block_threads() { return emulator::block().threads; }
DEVICE int block_x() { return emulator::block().index[0]; }
DEVICE int block_y() { return emulator::block().index[1]; }
DEVICE int block_z() { return emulator::block().index[2]; }
DEVICE int grid_x() { return emulator::block().grid[0]; }
DEVICE int grid_y() { return emulator::block().grid[1]; }
DEVICE int grid_z() { return emulator::block().grid[2]; }
DEVICE SharedAddress shared_address(const void* pointer) {
    return static_cast<u32>(static_cast<const unsigned char*>(pointer) - emulator::block().shared);
}

// ---- Meeting points ----
DEVICE void block_barrier(Place place = Place::here()) {
    emulator::block().arrive(0, emulator::block().threads, true, "block_barrier", place);
}
DEVICE void warp_barrier(Place place = Place::here()) {
    emulator::block().meet_warp("warp_barrier", place, [](emulator::Warp&, int) { emulator::block().order_warp(); });
}
namespace emulator {
inline void check_named_barrier(int id, int threads, const char* word, Place place) {
    if (id < 1 || id > 15) block().fail(place, "`%s`: there is no named barrier %d", word, id);
    if (threads < warp_size || threads % warp_size != 0 || threads > block().threads)
        block().fail(place, "`%s`: %d threads cannot meet in a block of %d", word, threads, block().threads);
}
}  // namespace emulator
DEVICE void named_barrier_wait(int id, int threads, Place place = Place::here()) {
    emulator::check_named_barrier(id, threads, "named_barrier_wait", place);
    emulator::block().arrive(id, threads, true, "named_barrier_wait", place);
}
DEVICE void named_barrier_arrive(int id, int threads, Place place = Place::here()) {
    emulator::check_named_barrier(id, threads, "named_barrier_arrive", place);
    emulator::block().arrive(id, threads, false, "named_barrier_arrive", place);
}

// ---- Lanes of one warp ----
namespace emulator {
// Every lane leaves its value and takes that of lane `from`, or keeps its own where `from` is no lane.
template <class T> inline T exchange(T value, int from, const char* word, Place place) {
    deposit(value);
    int phase = block().meet_warp(word, place, [](Warp&, int) {});
    bool inside = from >= 0 && from < warp_size;
    return inside ? deposited<T>(block().warp(), phase, from) : value;
}
}  // namespace emulator
template <class T> DEVICE T warp_shuffle(T value, int lane, Place place = Place::here()) {
    return emulator::exchange(value, lane & 31, "warp_shuffle", place);
}
template <class T> DEVICE T warp_shuffle_xor(T value, int mask, Place place = Place::here()) {
    return emulator::exchange(value, emulator::block().current->lane() ^ mask, "warp_shuffle_xor", place);
}
template <class T> DEVICE T warp_shuffle_down(T value, int distance, Place place = Place::here()) {
    return emulator::exchange(value, emulator::block().current->lane() + distance, "warp_shuffle_down", place);
}
template <class T> DEVICE T warp_shuffle_up(T value, int distance, Place place = Place::here()) {
    return emulator::exchange(value, emulator::block().current->lane() - distance, "warp_shuffle_up", place);
}
DEVICE u32 warp_ballot(bool condition, Place place = Place::here()) {
    emulator::deposit(condition);
    int phase = emulator::block().meet_warp("warp_ballot", place, [](emulator::Warp& warp, int phase) {
        warp.ballot[phase] = 0;
        for (int lane = 0; lane < 32; lane++)
            warp.ballot[phase] |= static_cast<u32>(emulator::deposited<bool>(warp, phase, lane)) << lane;
    });
    return emulator::block().warp().ballot[phase];
}

// ---- Bits and numbers ----
DEVICE u32 float_bits(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
DEVICE float bits_float(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
DEVICE u32 multiply_high(u32 left, u32 right) { return static_cast<u32>(static_cast<u64>(left) * right >> 32); }
DEVICE int count_bits(u32 bits) { return __builtin_popcount(bits); }
DEVICE int trailing_zeros(u32 bits) { return bits ? __builtin_ctz(bits) : 32; }
DEVICE float exponential(float value) { return std::exp(value); }
DEVICE float natural_logarithm(float value) { return std::log(value); }
DEVICE float square_root(float value) { return std::sqrt(value); }
DEVICE double square_root(double value) { return std::sqrt(value); }
DEVICE float divide(float left, float right) { return left / right; }
DEVICE float multiply_add(float left, float right, float addend) { return std::fma(left, right, addend); }
DEVICE float rounded_product(float left, float right) { return left * right; }
DEVICE float rounded_sum(float left, float right) { return left + right; }
DEVICE float maximum(float left, float right) { return std::fmax(left, right); }
DEVICE float minimum(float left, float right) { return std::fmin(left, right); }
DEVICE float absolute(float value) { return std::fabs(value); }

namespace emulator {
// The fast instructions are right to about 22 bits: the last of 24 is dropped, subnormal numbers become 0.
inline float roughen(float value) {
    if (std::isnan(value) || std::isinf(value)) return value;
    return std::fabs(value) < 1.17549435e-38f ? std::copysign(0.0f, value) : bits_float(float_bits(value) & ~1u);
}
}  // namespace emulator
DEVICE float exponential2_fast(float value) { return emulator::roughen(std::exp2(emulator::roughen(value))); }
DEVICE float logarithm2_fast(float value) { return emulator::roughen(std::log2(value)); }
DEVICE float reciprocal_square_root_fast(float value) { return emulator::roughen(1.0f / std::sqrt(value)); }
DEVICE float reciprocal_fast(float value) { return emulator::roughen(1.0f / value); }

namespace emulator {
inline u32 nearest_bf16(float value) {
    u32 bits = float_bits(value);
    return std::isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
}  // namespace emulator
DEVICE u32 pack_bf16(float low, float high) {
    return emulator::nearest_bf16(low) | emulator::nearest_bf16(high) << 16;
}

DEVICE void require(bool condition, Place place = Place::here()) {
    if (!condition) emulator::block().fail(place, "a requirement does not hold");
}

// Blocks run on several OS threads.
DEVICE u32 atomic_add(u32* target, u32 value) { return __atomic_fetch_add(target, value, __ATOMIC_RELAXED); }
DEVICE u32 atomic_maximum(u32* target, u32 value) {
    u32 seen = __atomic_load_n(target, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(target, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

#include "matrix.hpp"

// Twins of cp.async, ldmatrix and mma.sync.
#pragma once
#include "block.hpp"

namespace emulator {
void copy_async(u32 to, const void* from, u32 bytes, bool inside, Place place);
void commit_copies();
void wait_for_copies(int pending);
void load_matrices(u32* fragment, u32 row, int matrices, bool transposed, const char* word, Place place);
void multiply_accumulate(float* c, const u32* a, u32 b0, u32 b1, Place place);
}  // namespace emulator

DEVICE void copy_async_16(SharedAddress to, const void* from, bool inside = true, Place place = Place::here()) {
    emulator::copy_async(to, from, 16, inside, place);
}
DEVICE void copy_async_8(SharedAddress to, const void* from, bool inside = true, Place place = Place::here()) {
    emulator::copy_async(to, from, 8, inside, place);
}
DEVICE void copy_async_4(SharedAddress to, const void* from, bool inside = true, Place place = Place::here()) {
    emulator::copy_async(to, from, 4, inside, place);
}
DEVICE void copy_async_commit() { emulator::commit_copies(); }
template <int pending> DEVICE void copy_async_wait() { emulator::wait_for_copies(pending); }

DEVICE void load_matrices_4(u32 (&fragment)[4], SharedAddress row, Place place = Place::here()) {
    emulator::load_matrices(fragment, row, 4, false, "load_matrices_4", place);
}
DEVICE void load_matrices_4_transposed(u32 (&fragment)[4], SharedAddress row, Place place = Place::here()) {
    emulator::load_matrices(fragment, row, 4, true, "load_matrices_4_transposed", place);
}
DEVICE void load_matrices_2(u32 (&fragment)[2], SharedAddress row, Place place = Place::here()) {
    emulator::load_matrices(fragment, row, 2, false, "load_matrices_2", place);
}
DEVICE void load_matrices_2_transposed(u32 (&fragment)[2], SharedAddress row, Place place = Place::here()) {
    emulator::load_matrices(fragment, row, 2, true, "load_matrices_2_transposed", place);
}
DEVICE void multiply_accumulate_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, Place place = Place::here()) {
    emulator::multiply_accumulate(c, a, b0, b1, place);
}

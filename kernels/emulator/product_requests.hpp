// What threads ask of the products of a warpgroup.
#pragma once
#include "block.hpp"

namespace emulator {

// A list of accumulator arrays: where each starts and how many floats it has.
struct Accumulators {
    float* const* starts;
    const int* counts;
    int length;
};
void fence_products(Accumulators named, Place place);
void commit_products(Place place);
void wait_for_products(int pending, Accumulators named, Place place);

// One product of a warpgroup as a thread asks for it.
struct ProductRequest {
    int n;
    bool a_in_registers, turn_a, turn_b, accumulate;
    u64 a, b;
    u32 a_registers[4];
    bool agrees(const ProductRequest& other) const;
};
void multiply_warpgroup(float* sums, const ProductRequest& request, Place place);
u64 describe_matrix(u32 start, u32 leading_bytes, u32 stride_bytes, int swizzle, Place place);
void change_registers(const char* word, Place place);

}  // namespace emulator

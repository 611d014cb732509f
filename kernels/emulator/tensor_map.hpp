// What a tensor map says, as the emulated copies read it, and how chunks are permuted in shared memory.
#pragma once
#include <cstdint>

namespace emulator {

// A matrix of bf16 in memory and the box that one copy moves; as large as the driver's opaque map.
struct alignas(64) TensorMapFields {
    std::uint64_t magic;  // says that emulator_tensor_map has filled it
    std::uint64_t address, rows, columns, stride_bytes;
    std::uint32_t box_rows, box_columns;
    const char* refusal;  // why the driver would not have made it, or null
    std::uint64_t unused[9];
};
static_assert(sizeof(TensorMapFields) == 128, "as large as a CUtensorMap");

constexpr std::uint64_t tensor_map_magic = 0x70616d726f736e74;

constexpr std::uint32_t swizzled(std::uint32_t address, int swizzle) {
    switch (swizzle) {
        case 1: return address ^ (address >> 7 & 7) << 4;
        case 2: return address ^ (address >> 7 & 3) << 4;
        case 3: return address ^ (address >> 7 & 1) << 4;
        default: return address;
    }
}

}  // namespace emulator

// The emulator's C interface: what kernels/src/accelerator/emulated.rs and the tests call.
#ifndef EMULATOR_H
#define EMULATOR_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    EMULATOR_OK = 0,
    EMULATOR_UNKNOWN_KERNEL = 1,  // no such name is registered
    EMULATOR_BAD_LAUNCH = 2,      // grid, threads or shared memory that a GPU would refuse, or other arguments
    EMULATOR_FAULT = 3            // a deadlock, a misused word, a race: the message says which and where
};

typedef struct {
    uint32_t architecture;  // that the device poses as: 80, 90 (has wgmma), 100
    uint32_t schedule;      // 0: threads in order; 1: reversed; any other number: a shuffle with this seed
    uint32_t threads;       // OS threads that share the blocks; 0: as many as the machine has
} EmulatorSettings;

// Runs every block of the grid and returns when all have ended. `arguments[i]` points at the i-th parameter's value of
// `argument_bytes[i]` bytes. The same settings give the same result bit by bit. 0, or a code above and a sentence in
// `message`. Null settings are 80, 0, 0.
int emulator_launch(const char* kernel, const uint32_t blocks[3], uint32_t threads, uint32_t shared_bytes,
                    void** arguments, const uint32_t* argument_bytes, uint32_t argument_count,
                    const EmulatorSettings* settings, char* message, size_t message_bytes);

// Fills the 128 bytes (64-aligned) of a tensor map for bf16 rows of `stride_bytes`, boxes with the 128-byte swizzle. What the
// driver would refuse is told by the launch that uses the map.
void emulator_tensor_map(void* map, uint64_t address, uint64_t rows, uint64_t columns, uint64_t stride_bytes,
                         uint32_t box_rows, uint32_t box_columns);

// Every access to these bytes is an error, in builds with AddressSanitizer; and none again.
void emulator_forbid(void* address, size_t bytes);
void emulator_allow(void* address, size_t bytes);

// Not 0 where a kernel of this name is registered.
int emulator_has_kernel(const char* kernel);

// How many parameters a kernel has, -1 where there is none of this name; writes the bytes of the first `room` of them.
int emulator_parameters(const char* kernel, uint32_t* bytes, uint32_t room);

#ifdef __cplusplus
}
#endif
#endif

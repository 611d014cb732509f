// A CUDA driver without a GPU: memory is the host's, kernels run on the emulator, whose functions `driver_use` hands in. It
// refuses what a real one would: calls on a thread without the context, addresses that were never allocated, more dynamic
// shared memory than was asked leave for. What it claims to be is set when it is compiled:
//   VERSION 13000, DEVICES 1, CAPABILITY 90, INIT 0 (what cuInit answers), MEMORY_BYTES 1 << 30
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#ifndef VERSION
#define VERSION 13000
#endif
#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef CAPABILITY
#define CAPABILITY 90
#endif
#ifndef INIT
#define INIT 0
#endif
#ifndef MEMORY_BYTES
#define MEMORY_BYTES (1ull << 30)
#endif

namespace {

// Values of CUresult.
constexpr int success = 0, invalid_value = 1, out_of_memory = 2, invalid_context = 201, not_found = 500, illegal_address = 700,
              launch_failed = 719;
// Values of CUdevice_attribute and CUfunction_attribute.
constexpr int capability_major = 75, capability_minor = 76, memory_pools_supported = 115, largest_dynamic_shared = 8;
constexpr unsigned free_shared_bytes = 48 << 10;

using Launch = int (*)(const char*, const uint32_t*, uint32_t, uint32_t, void**, const uint32_t*, uint32_t, const void*, char*,
                       size_t);
using Parameters = int (*)(const char*, uint32_t*, uint32_t);
using DescribeTensor = void (*)(void*, uint64_t, uint64_t, uint64_t, uint64_t, uint32_t, uint32_t);

Launch launch = nullptr;
Parameters parameters = nullptr;
DescribeTensor describe_tensor = nullptr;
std::string said;

struct Function {
    std::string name;
    unsigned shared_bytes = free_shared_bytes;
};

std::mutex lock;
std::map<uint64_t, size_t> allocated;
size_t allocated_bytes = 0;
thread_local bool is_current = false;
char context, stream, pool, module, event;

// Whether all of these bytes lie in one allocation.
bool is_ours(uint64_t address, size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    auto after = allocated.upper_bound(address);
    if (after == allocated.begin()) return false;
    --after;
    return address + bytes <= after->first + after->second;
}

template <class Work> int inside(uint64_t address, size_t bytes, Work work) {
    if (!is_current) return invalid_context;
    if (!is_ours(address, bytes)) return illegal_address;
    work();
    return success;
}

template <class Word> int fill(uint64_t address, Word word, size_t count) {
    return inside(address, count * sizeof word, [&] {
        for (size_t index = 0; index < count; index++) reinterpret_cast<Word*>(address)[index] = word;
    });
}

}  // namespace

extern "C" {

void driver_use(Launch run, Parameters of, DescribeTensor describe) { launch = run, parameters = of, describe_tensor = describe; }
// Bytes that are allocated now: 0 once everything was given back.
uint64_t driver_holds() { return allocated_bytes; }

int cuInit(unsigned) { return INIT; }
int cuDriverGetVersion(int* version) { return *version = VERSION, success; }
int cuGetErrorString(int error, const char** text) {
    said = error == out_of_memory ? "out of memory" : "error " + std::to_string(error) + " of the tests' driver";
    return *text = said.c_str(), success;
}

int cuDeviceGetCount(int* count) { return *count = DEVICES, success; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal < DEVICES ? success : invalid_value; }
int cuDeviceGetName(char* name, int room, int) { return std::strncpy(name, "a GPU of the tests", size_t(room)), success; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    if (attribute == capability_major) *value = CAPABILITY / 10;
    else if (attribute == capability_minor) *value = CAPABILITY % 10;
    else if (attribute == memory_pools_supported) *value = 1;
    else return invalid_value;
    return success;
}

int cuDevicePrimaryCtxRetain(void** out, int) { return *out = &context, success; }
int cuDevicePrimaryCtxRelease_v2(int) { return success; }
int cuCtxSetCurrent(void* of) { return is_current = of == &context, success; }
int cuStreamCreate(void** out, unsigned) { return *out = &stream, is_current ? success : invalid_context; }
int cuStreamSynchronize(void*) { return is_current ? success : invalid_context; }
int cuStreamDestroy_v2(void*) { return success; }

int cuDeviceGetDefaultMemPool(void** out, int) { return *out = &pool, success; }
int cuMemPoolSetAttribute(void*, int, void*) { return success; }
int cuMemPoolGetAttribute(void*, int, void* value) { return *static_cast<uint64_t*>(value) = 0, success; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    return *total = MEMORY_BYTES, *free = MEMORY_BYTES - allocated_bytes, is_current ? success : invalid_context;
}
int cuMemAllocAsync(uint64_t* address, size_t bytes, void*) {
    if (!is_current) return invalid_context;
    std::lock_guard<std::mutex> hold(lock);
    if (allocated_bytes + bytes > MEMORY_BYTES) return out_of_memory;
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xee, bytes);
    allocated[*address = reinterpret_cast<uint64_t>(memory)] = bytes;
    allocated_bytes += bytes;
    return success;
}
int cuMemFreeAsync(uint64_t address, void*) {
    std::lock_guard<std::mutex> hold(lock);
    auto found = allocated.find(address);
    if (found == allocated.end()) return invalid_value;
    allocated_bytes -= found->second;
    allocated.erase(found);
    std::free(reinterpret_cast<void*>(address));
    return success;
}

int cuMemsetD16Async(uint64_t address, unsigned short word, size_t count, void*) { return fill(address, word, count); }
int cuMemsetD32Async(uint64_t address, unsigned word, size_t count, void*) { return fill(address, word, count); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    return inside(to, bytes, [&] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    return inside(from, bytes, [&] { std::memcpy(to, reinterpret_cast<void*>(from), bytes); });
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    if (!is_ours(from, bytes)) return illegal_address;
    return inside(to, bytes, [&] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
}

// A cubin is an ELF file.
int cuModuleLoadData(void** out, const void* image) {
    return *out = &module, std::memcmp(image, "\x7f" "ELF", 4) == 0 ? success : invalid_value;
}
int cuModuleUnload(void*) { return success; }
int cuModuleGetFunction(void** out, void*, const char* name) {
    if (parameters(name, nullptr, 0) < 0) return not_found;
    return *out = new Function{name}, success;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute != largest_dynamic_shared || value > 227 << 10) return invalid_value;
    return static_cast<Function*>(function)->shared_bytes = unsigned(value), success;
}
int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
    uint32_t sizes[64];
    int count = parameters(static_cast<Function*>(function)->name.c_str(), sizes, 64);
    if (index >= size_t(count)) return invalid_value;
    return *offset = 0, *bytes = sizes[index], success;
}
int cuLaunchKernel(void* of, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned shared_bytes,
                   void*, void** arguments, void**) {
    if (!is_current) return invalid_context;
    auto* function = static_cast<Function*>(of);
    if (shared_bytes > function->shared_bytes) return invalid_value;
    uint32_t sizes[64], blocks[3] = {x, y, z};
    int count = parameters(function->name.c_str(), sizes, 64);
    struct { uint32_t architecture, schedule, threads; } settings = {CAPABILITY, 0, 1};
    char message[512];
    int code = launch(function->name.c_str(), blocks, threads, shared_bytes, arguments, sizes, uint32_t(count), &settings,
                      message, sizeof message);
    return code == 0 ? success : launch_failed;
}
int cuTensorMapEncodeTiled(void* map, int, unsigned rank, void* address, const uint64_t* dimensions, const uint64_t* strides,
                           const uint32_t* box, const uint32_t*, int, int, int, int) {
    if (rank != 2 || reinterpret_cast<uint64_t>(address) % 16 != 0 || strides[0] % 16 != 0) return invalid_value;
    describe_tensor(map, reinterpret_cast<uint64_t>(address), dimensions[1], dimensions[0], strides[0], box[1], box[0]);
    return success;
}

int cuEventCreate(void** out, unsigned) { return *out = &event, success; }
int cuEventRecord(void*, void*) { return success; }
int cuEventSynchronize(void*) { return success; }
int cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return *milliseconds = 1.5f, success; }
int cuEventDestroy_v2(void*) { return success; }
}

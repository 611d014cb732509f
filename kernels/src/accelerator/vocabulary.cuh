// The words that kernels are written in: PTX under NVRTC, emulated twins (kernels/emulator) under a C++ compiler.
// It is put in front of every kernel's text and needs no NVIDIA header. PTX names and layouts: PTX ISA 8.x.
#ifndef VOCABULARY
#define VOCABULARY

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using bf16 = u16;           // the upper half of an f32
using SharedAddress = u32;  // a byte address in shared memory, as PTX takes it

struct alignas(16) Words {
    u32 x, y, z, w;
};
struct alignas(16) Floats {
    float x, y, z, w;
};

#ifdef __CUDACC_RTC__

// ---- How a kernel is written ----
#define DEVICE static __device__ __forceinline__
// A function of a struct that belongs to one of its values.
#define MEMBER __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#define NO_UNROLL _Pragma("unroll 1")
#define GRID_CONSTANT const __grid_constant__
// `unsigned char name[]`: the bytes that the launch asked for, aligned to 1,024.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
// `type name[count]`: one array for the block.
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define REGISTER_KERNEL(name)

// ---- Where a thread is ----
DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_threads() { return blockDim.x; }
DEVICE int block_x() { return blockIdx.x; }
DEVICE int block_y() { return blockIdx.y; }
DEVICE int block_z() { return blockIdx.z; }
DEVICE int grid_x() { return gridDim.x; }
DEVICE int grid_y() { return gridDim.y; }
DEVICE int grid_z() { return gridDim.z; }
DEVICE SharedAddress shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// ---- Meeting points ----
// Every thread of the block; what was written to shared memory before is seen after.
DEVICE void block_barrier() { __syncthreads(); }
// Every lane of the warp; orders their shared memory too.
DEVICE void warp_barrier() { __syncwarp(); }
// `threads` threads (whole warps) meet at barrier `id` (1 to 15; 0 is the block's): `wait` waits, `arrive` only counts.
DEVICE void named_barrier_wait(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Lanes of one warp: every lane must take part ----
template <class T> DEVICE T warp_shuffle(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
template <class T> DEVICE T warp_shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// From lane + distance; a lane near the end keeps its own value.
template <class T> DEVICE T warp_shuffle_down(T value, int distance) {
    return __shfl_down_sync(0xffffffffu, value, distance);
}
// From lane - distance; a lane near the start keeps its own value.
template <class T> DEVICE T warp_shuffle_up(T value, int distance) {
    return __shfl_up_sync(0xffffffffu, value, distance);
}
// Bit i is lane i's condition.
DEVICE u32 warp_ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }

// ---- Bits and numbers ----
DEVICE u32 float_bits(float value) { return __float_as_uint(value); }
DEVICE float bits_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 multiply_high(u32 left, u32 right) { return __umulhi(left, right); }
DEVICE int count_bits(u32 bits) { return __popc(bits); }
// The zero bits below the lowest one; 32 for zero.
DEVICE int trailing_zeros(u32 bits) { return bits ? __ffs(bits) - 1 : 32; }
// Accurate to an ulp or two.
DEVICE float exponential(float value) { return expf(value); }
DEVICE float natural_logarithm(float value) { return logf(value); }
DEVICE float square_root(float value) { return __fsqrt_rn(value); }
DEVICE float divide(float left, float right) { return __fdiv_rn(left, right); }
DEVICE float multiply_add(float left, float right, float addend) { return fmaf(left, right, addend); }
// Each rounded by itself, never contracted to one multiply-add: the bits of the CPU.
DEVICE float rounded_product(float left, float right) { return __fmul_rn(left, right); }
DEVICE float rounded_sum(float left, float right) { return __fadd_rn(left, right); }
DEVICE float maximum(float left, float right) { return fmaxf(left, right); }  // a NaN on one side is ignored
DEVICE float minimum(float left, float right) { return fminf(left, right); }
DEVICE float absolute(float value) { return fabsf(value); }
DEVICE double square_root(double value) { return sqrt(value); }
// One instruction each, right to about 22 bits; 2^-inf is 0, subnormal results are 0.
DEVICE float exponential2_fast(float value) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}
DEVICE float logarithm2_fast(float value) {
    float result;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}
DEVICE float reciprocal_square_root_fast(float value) {
    float result;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}
DEVICE float reciprocal_fast(float value) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}
// Two bf16, rounded to nearest even; `low` lands in the lower half (the lower address).
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Ends the launch with an error where the condition does not hold: our own mistake, such as an index past the last row.
DEVICE void require(bool condition) {
    if (!condition) asm volatile("trap;");
}

// Integer atomics only: sums of floats in an order of chance would not repeat. Both return the old value.
DEVICE u32 atomic_add(u32* target, u32 value) { return atomicAdd(target, value); }
DEVICE u32 atomic_maximum(u32* target, u32 value) { return atomicMax(target, value); }

// ---- Copies from global to shared memory behind the thread's back (sm_80) ----
// 16 aligned bytes; zeros where not `inside` (then `from` is not read). Seen after commit, wait and a barrier.
DEVICE void copy_async_16(SharedAddress to, const void* from, bool inside = true) {
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copy_async_8(SharedAddress to, const void* from, bool inside = true) {
    int bytes = inside ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copy_async_4(SharedAddress to, const void* from, bool inside = true) {
    int bytes = inside ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Closes the group of copies issued since the last commit (it may be empty).
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's youngest groups are under way.
template <int pending> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- Matrix fragments (sm_80) ----
// Four 8x8 matrices of bf16: lane l names row l%8 of matrix l/8 (16 aligned bytes) and receives of matrix i, in
// fragment[i], row l/4, columns 2(l%4) and +1; transposed: column l/4, rows 2(l%4) and +1.
DEVICE void load_matrices_4(u32 (&fragment)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row)
                 : "memory");
}
DEVICE void load_matrices_4_transposed(u32 (&fragment)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row)
                 : "memory");
}
// The same with two matrices; lanes 16 to 31 name nothing.
DEVICE void load_matrices_2(u32 (&fragment)[2], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(row)
                 : "memory");
}
DEVICE void load_matrices_2_transposed(u32 (&fragment)[2], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(row)
                 : "memory");
}
// c[16x8] += a[16x16] b[16x8], with g = lane/4 and t = lane%4:
//   a[0], a[1]: rows g, g+8 of columns 2t, 2t+1; a[2], a[3]: the same of columns 2t+8, 2t+9
//   b0: rows 2t, 2t+1 of column g; b1: rows 2t+8, 2t+9
//   c[0], c[1]: row g, columns 2t, 2t+1; c[2], c[3]: row g+8
DEVICE void multiply_accumulate_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else
#define MEMBER inline
#define UNROLL_4
#include "device.hpp"
#endif

// ---- What both sides build from the words above ----
constexpr int warp_lanes = 32;
constexpr u32 infinity_bits = 0x7f800000u;

DEVICE float infinity() { return bits_float(infinity_bits); }
DEVICE int lane_index() { return thread_index() % warp_lanes; }
DEVICE int warp_index() { return thread_index() / warp_lanes; }
DEVICE int block_warps() { return block_threads() / warp_lanes; }

template <class T> DEVICE constexpr T ceiling_divide(T dividend, T divisor) {
    return (dividend + divisor - 1) / divisor;
}

DEVICE bf16 round_to_bf16(float value) { return (bf16)pack_bf16(value, 0.0f); }
DEVICE float widen(bf16 value) { return bits_float((u32)value << 16); }
DEVICE float unpack_low(u32 pair) { return bits_float(pair << 16); }
DEVICE float unpack_high(u32 pair) { return bits_float(pair & 0xffff0000u); }

// The warp's sum, the same bits in every lane: a fixed tree.
template <class T> DEVICE T warp_sum(T value) {
    UNROLL
    for (int mask = warp_lanes / 2; mask > 0; mask /= 2) value += warp_shuffle_xor(value, mask);
    return value;
}
DEVICE float warp_maximum(float value) {
    UNROLL
    for (int mask = warp_lanes / 2; mask > 0; mask /= 2) value = maximum(value, warp_shuffle_xor(value, mask));
    return value;
}

// The block's sum in every thread, in a fixed order. `partial`: a shared array of block_warps() values, free for reuse
// after the call. Every thread of the block must call.
template <class T> DEVICE T block_sum(T value, T* partial) {
    value = warp_sum(value);
    if (lane_index() == 0) partial[warp_index()] = value;
    block_barrier();
    T total = 0;
    for (int warp = 0; warp < block_warps(); warp++) total += partial[warp];
    block_barrier();
    return total;
}
DEVICE float block_maximum(float value, float* partial) {
    value = warp_maximum(value);
    if (lane_index() == 0) partial[warp_index()] = value;
    block_barrier();
    float most = partial[0];
    for (int warp = 1; warp < block_warps(); warp++) most = maximum(most, partial[warp]);
    block_barrier();
    return most;
}

#endif

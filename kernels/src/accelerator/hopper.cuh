// The words that only sm_90a has: barriers that count bytes, copies by the tensor memory accelerator, products of four
// warps. Layouts of descriptors and fragments: PTX ISA 8.x, "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

// How 16-byte chunks are permuted in shared memory: chunk c of row r (of `bytes` bytes) lies where chunk c ^ (r mod 8)
// (128), c ^ (r/2 mod 4) (64) or c ^ (r/4 mod 2) (32) would.
constexpr int swizzle_none = 0, swizzle_128 = 1, swizzle_64 = 2, swizzle_32 = 3;

#ifdef __CUDACC_RTC__

struct alignas(64) TensorMap {
    u64 words[16];
};

// ---- Barriers in shared memory (8 aligned bytes) that wait for arrivals and for bytes; a phase ends when both are in ----
DEVICE void transfer_barrier_init(SharedAddress barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After the last init, by the thread that did it and before a block_barrier(): others and the copies see the barriers.
DEVICE void transfer_barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
}
DEVICE void transfer_barrier_arrive(SharedAddress barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and announces `bytes` that copies are going to bring; before those copies.
DEVICE void transfer_barrier_expect(SharedAddress barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended: 0 for the first, third, ... use; 1 passes a fresh barrier at once.
DEVICE void transfer_barrier_wait(SharedAddress barrier, u32 parity) {
    u32 ended = 0;
    while (!ended)
        asm volatile(
            "{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended; }"
            : "=r"(ended)
            : "r"(barrier), "r"(parity)
            : "memory");
}

// ---- Copies by the tensor memory accelerator; one thread issues each ----
// The map's box at column x, row y (elements; what lies outside the matrix becomes 0) with the 128-byte swizzle.
DEVICE void load_tile(SharedAddress to, const TensorMap* map, int x, int y, SharedAddress barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
            "r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier)
        : "memory");
}
// `bytes` bytes as they are; addresses and count multiples of 16.
DEVICE void load_bulk(SharedAddress to, const void* from, u32 bytes, SharedAddress barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
// The way back; what lies outside the matrix is not written. Needs async_fence() by those who wrote shared memory.
DEVICE void store_tile(const TensorMap* map, int x, int y, SharedAddress from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
                 "r"(y), "r"(from)
                 : "memory");
}
DEVICE void store_bulk(void* to, SharedAddress from, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
                 : "memory");
}
DEVICE void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's groups of stores still read shared memory.
template <int pending> DEVICE void store_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
DEVICE void prefetch_tensor_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// What this thread wrote to shared memory is seen by copies and products that start after it (and a barrier).
DEVICE void async_fence() { asm volatile("fence.proxy.async;" ::: "memory"); }

// ---- Registers move between warpgroups; all four warps of one call ----
template <int registers> DEVICE void registers_decrease() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> DEVICE void registers_increase() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// ---- Products of a warpgroup: 128 threads whose first warp's index is a multiple of 4 ----
// The compiler moves no use of the array over this point.
template <int count> DEVICE void pin_registers(float (&values)[count]) {
    UNROLL
    for (int index = 0; index < count; index++) asm volatile("" : "+f"(values[index])::"memory");
}
template <int count> DEVICE void pin_registers(u32 (&values)[count]) {
    UNROLL
    for (int index = 0; index < count; index++) asm volatile("" : "+r"(values[index])::"memory");
}
// Before the first product of each group; names the accumulators that the group starts with.
template <int... counts> DEVICE void warpgroup_fence(float (&... sums)[counts]) {
    (pin_registers(sums), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Closes the group of the products issued since the last commit.
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` groups are under way; names the accumulators that it makes ready. Before it neither they
// nor the factors in shared memory may be touched.
template <int pending, int... counts> DEVICE void warpgroup_wait(float (&... sums)[counts]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
    (pin_registers(sums), ...);
}

DEVICE u64 matrix_descriptor(SharedAddress start, u32 leading_bytes, u32 stride_bytes, int swizzle) {
    return (u64)((start & 0x3ffff) >> 4) | (u64)(leading_bytes >> 4) << 16 | (u64)(stride_bytes >> 4) << 32 |
           (u64)swizzle << 62;
}

template <int N> struct WarpgroupProduct;

#define REGISTERS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define REGISTERS_3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define REGISTERS_5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define REGISTERS_7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define REGISTERS_0_TO_1 REGISTERS_0 ", " REGISTERS_1
#define REGISTERS_0_TO_2 REGISTERS_0_TO_1 ", " REGISTERS_2
#define REGISTERS_0_TO_3 REGISTERS_0_TO_2 ", " REGISTERS_3
#define REGISTERS_0_TO_5 REGISTERS_0_TO_3 ", " REGISTERS_4 ", " REGISTERS_5
#define REGISTERS_0_TO_7 REGISTERS_0_TO_5 ", " REGISTERS_6 ", " REGISTERS_7
#define FOUR_SUMS(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SIXTEEN_SUMS(i) FOUR_SUMS(i), FOUR_SUMS(i + 4), FOUR_SUMS(i + 8), FOUR_SUMS(i + 12)
#define SUMS_16 SIXTEEN_SUMS(0)
#define SUMS_32 SUMS_16, SIXTEEN_SUMS(16)
#define SUMS_48 SUMS_32, SIXTEEN_SUMS(32)
#define SUMS_64 SUMS_48, SIXTEEN_SUMS(48)
#define SUMS_96 SUMS_64, SIXTEEN_SUMS(64), SIXTEEN_SUMS(80)
#define SUMS_128 SUMS_96, SIXTEEN_SUMS(96), SIXTEEN_SUMS(112)

// i0 to i6: the operands' numbers behind the N / 2 accumulators.
#define WARPGROUP_PRODUCT(N, registers, outputs, i0, i1, i2, i3, i4, i5, i6)                                         \
    template <> struct WarpgroupProduct<N> {                                                                        \
        template <bool turn_a, bool turn_b>                                                                         \
        static MEMBER void shared(float (&sums)[N / 2], u64 a, u64 b, int accumulate) {                             \
            asm volatile("{ .reg .pred more; setp.ne.b32 more, " i2 ", 0; "                                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" registers "}, " i0 ", " i1    \
                         ", more, 1, 1, " i3 ", " i4 "; }"                                                          \
                         : outputs                                                                                  \
                         : "l"(a), "l"(b), "r"(accumulate), "n"((int)turn_a), "n"((int)turn_b));                     \
        }                                                                                                           \
        template <bool turn_b>                                                                                      \
        static MEMBER void registers_of_a(float (&sums)[N / 2], const u32 (&a)[4], u64 b, int accumulate) {         \
            asm volatile("{ .reg .pred more; setp.ne.b32 more, " i5 ", 0; "                                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" registers "}, {" i0 ", " i1   \
                         ", " i2 ", " i3 "}, " i4 ", more, 1, 1, " i6 "; }"                                         \
                         : outputs                                                                                  \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"((int)turn_b));   \
        }                                                                                                           \
    };
WARPGROUP_PRODUCT(32, REGISTERS_0, SUMS_16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
WARPGROUP_PRODUCT(64, REGISTERS_0_TO_1, SUMS_32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
WARPGROUP_PRODUCT(96, REGISTERS_0_TO_2, SUMS_48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
WARPGROUP_PRODUCT(128, REGISTERS_0_TO_3, SUMS_64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
WARPGROUP_PRODUCT(192, REGISTERS_0_TO_5, SUMS_96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
WARPGROUP_PRODUCT(256, REGISTERS_0_TO_7, SUMS_128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

// sums[64, N] (= | +=) a[64, 16] b[16, N], N one of 32, 64, 96, 128, 192, 256. Thread t of the warpgroup, with w = t/32,
// g = t%32/4, p = t%4, holds in sums[4j..4j+3]: row 16w+g, columns 8j+2p and +1, then row 16w+g+8, the same columns.
// Factors lie in dynamic shared memory: `a` as rows of m, `b` as rows of n, both along the inner dimension; or, turned,
// as rows of the inner dimension.
template <int N, bool turn_a = false, bool turn_b = false>
DEVICE void warpgroup_multiply(float (&sums)[N / 2], u64 a, u64 b, bool accumulate) {
    WarpgroupProduct<N>::template shared<turn_a, turn_b>(sums, a, b, accumulate);
}
// The same with a in registers, each warp its 16 rows in the layout of multiply_accumulate_bf16's a.
template <int N, bool turn_b = false>
DEVICE void warpgroup_multiply_registers(float (&sums)[N / 2], const u32 (&a)[4], u64 b, bool accumulate) {
    WarpgroupProduct<N>::template registers_of_a<turn_b>(sums, a, b, accumulate);
}

#else
#include "hopper.hpp"
#endif

// A factor whose rows (of m or n) lie along the inner dimension as load_tile lays them: 64 bf16 a row, eight rows and
// their swizzle in each 1,024 bytes, which `tile` is a multiple of. Sixteen inner elements from `inner` on (0, 16, 32, 48).
DEVICE u64 rows_descriptor(SharedAddress tile, int inner) {
    return matrix_descriptor(tile + inner * 2, 16, 1024, swizzle_128);
}
// A turned factor: rows of the inner dimension, each of 64 elements of m or n; further 64 follow `leading_bytes` later.
// Sixteen inner elements from `inner` on (a multiple of 8).
DEVICE u64 turned_descriptor(SharedAddress tile, int inner, u32 leading_bytes) {
    return matrix_descriptor(tile + inner * 128, leading_bytes, 1024, swizzle_128);
}

// Several numbers of a row at once, and the warps that share a row: what the kernels bound by memory are made of.
#pragma once

// N neighbours, which move in one instruction: 128 bits for 4. Their address is a multiple of their size.
template <int N>
struct alignas(4 * N) Pack {
  float at[N];
};

template <int N>
DEVICE Pack<N> load_pack(const float* from) {
  return *(const Pack<N>*)from;
}

template <int N>
DEVICE void store_pack(float* to, Pack<N> pack) {
  *(Pack<N>*)to = pack;
}

DEVICE u64 smaller(u64 left, u64 right) { return left < right ? left : right; }

// The first of a thread's N columns, where x of the grid counts rows and y the blocks that share a row.
template <int N>
DEVICE u32 grid_column() {
  return (block_y() * block_threads() + thread_index()) * N;
}

// A block of 256 threads, cut into groups of WARPS warps that share a row each.
constexpr u32 group_block_warps = 8;

template <int WARPS>
DEVICE u32 group_in_block() {
  return warp_index() / WARPS;
}

template <int WARPS>
DEVICE u64 group_index() {
  return (u64)block_x() * (group_block_warps / WARPS) + group_in_block<WARPS>();
}

// The thread's place in its group.
template <int WARPS>
DEVICE u32 group_member() {
  return thread_index() % (WARPS * warp_lanes);
}

// The block's sum, the same in every thread.
template <class T>
DEVICE T block_total(T value) {
  SHARED_ARRAY(T, partial, warp_lanes);
  return block_sum(value, partial);
}

// The group's sum, the same in every thread of it. A group of one warp needs no other.
template <int WARPS>
DEVICE float group_sum(float value) {
  static_assert(WARPS == 1 || WARPS == group_block_warps, "a warp or the block");
  if constexpr (WARPS == 1)
    return warp_sum(value);
  else
    return block_total(value);
}

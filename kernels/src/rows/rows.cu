// Picks rows of a matrix and adds rows back, equal rows in their order: the chosen positions of a loss, and the
// embedding.
//
// Gathering is bound by memory, 8 bytes a number. So is scattering, 12 bytes, while the list of indices is short: each
// row that is written reads the whole list from the cache, N² / 2 comparisons of 4 bytes at most.
#include "packs.cuh"

// out[N, d]: row n is source[known, d]'s row indices[n]; one block row of the grid is one n.
template <int N>
DEVICE void rows_gather(const float* source, const u32* indices, float* out, u64 known, u32 width) {
  u32 column = grid_column<N>();
  u64 row = indices[block_x()];
  require(row < known);
  if (column < width) store_pack<N>(out + (u64)block_x() * width + column, load_pack<N>(source + row * width + column));
}

// How many threads of the block fulfil the condition, and for one that does, how many of them stand before it.
struct Rank {
  u32 count, before;
};

DEVICE Rank block_rank(bool condition) {
  SHARED_ARRAY(u32, counts, warp_lanes);
  u32 warp_bits = warp_ballot(condition);
  if (lane_index() == 0) counts[warp_index()] = count_bits(warp_bits);
  block_barrier();
  Rank rank = {0, (u32)count_bits(warp_bits & ((1u << lane_index()) - 1))};
  for (int warp = 0; warp < block_warps(); warp++) {
    if (warp < warp_index()) rank.before += counts[warp];
    rank.count += counts[warp];
  }
  block_barrier();
  return rank;
}

// Whether `index` stands among indices[0..len), the same for every thread.
DEVICE bool stands_among(const u32* indices, u32 len, u32 index) {
  bool seen = false;
  for (u32 place = thread_index(); place < len; place += block_threads()) seen |= indices[place] == index;
  return block_rank(seen).count > 0;
}

// target[known, d]: row indices[n] += source[len, d]'s row n. The block of an index's first place adds all of them, in
// the order of n; every other block finds that it is not the first, and ends.
template <int N>
DEVICE void rows_scatter_add(const float* source, const u32* indices, float* target, u64 known, u32 len, u32 width) {
  SHARED_ARRAY(u32, found, 256);
  u32 column = grid_column<N>(), index = indices[block_x()];
  require(index < known);
  if (stands_among(indices, block_x(), index)) return;
  target += (u64)index * width + column;
  Pack<N> sum = column < width ? load_pack<N>(target) : Pack<N>{};
  for (u32 first = block_x(); first < len; first += block_threads()) {
    u32 place = first + thread_index();
    bool equal = place < len && indices[place] == index;
    Rank rank = block_rank(equal);
    if (equal) found[rank.before] = place;
    block_barrier();
    for (u32 i = 0; i < rank.count && column < width; i++) {
      Pack<N> values = load_pack<N>(source + (u64)found[i] * width + column);
      for (int j = 0; j < N; j++) sum.at[j] += values.at[j];
    }
    block_barrier();
  }
  if (column < width) store_pack<N>(target, sum);
}

#define ROWS_KERNELS(N)                                                                                                \
  KERNEL LAUNCH_BOUNDS(256, 8) rows_gather_##N(const float* source, const u32* indices, float* out, u64 known,         \
                                               u32 width) {                                                            \
    rows_gather<N>(source, indices, out, known, width);                                                                \
  }                                                                                                                    \
  KERNEL LAUNCH_BOUNDS(256, 8) rows_scatter_add_##N(const float* source, const u32* indices, float* target, u64 known, \
                                                    u32 len, u32 width) {                                              \
    rows_scatter_add<N>(source, indices, target, known, len, width);                                                   \
  }                                                                                                                    \
  REGISTER_KERNEL(rows_gather_##N)                                                                                     \
  REGISTER_KERNEL(rows_scatter_add_##N)

ROWS_KERNELS(4)
ROWS_KERNELS(1)

// Rotary embedding: turns the pairs (i, i + D/2) of the first H + K heads of each packed row, in place.
//
// Bound by memory: reads and writes what it turns, 8 bytes a number (the cosines and sines of a position are shared by
// its heads and stay in the cache). A thread turns N pairs; one block row of the grid is one row of tokens.
#include "packs.cuh"

// qkv[T, row_width] from positions[T] and tables[known, D], D/2 cosines then D/2 sines; pairs are those of a row, (H +
// K)·D/2.
template <int N>
DEVICE void rope_rotate(const u32* positions, const float* tables, float* qkv, u32 known, u32 half, u32 pairs,
                        u32 row_width, float direction) {
  u64 row = block_x();
  u32 pair = grid_column<N>();
  if (pair >= pairs) return;
  u32 position = positions[row], head = pair / half, offset = pair % half;
  require(position < known);
  const float* table = tables + (u64)position * 2 * half + offset;
  float* low = qkv + row * row_width + head * 2 * half + offset;
  Pack<N> cosines = load_pack<N>(table), sines = load_pack<N>(table + half), x = load_pack<N>(low),
          y = load_pack<N>(low + half);
  for (int i = 0; i < N; i++) {
    float sine = direction * sines.at[i], before = x.at[i];
    x.at[i] = before * cosines.at[i] - y.at[i] * sine;
    y.at[i] = y.at[i] * cosines.at[i] + before * sine;
  }
  store_pack<N>(low, x);
  store_pack<N>(low + half, y);
}

#define ROPE_KERNEL(N)                                                                                           \
  KERNEL LAUNCH_BOUNDS(256, 8) rope_rotate_##N(const u32* positions, const float* tables, float* qkv, u32 known, \
                                               u32 half, u32 pairs, u32 row_width, float direction) {            \
    rope_rotate<N>(positions, tables, qkv, known, half, pairs, row_width, direction);                            \
  }                                                                                                              \
  REGISTER_KERNEL(rope_rotate_##N)

ROPE_KERNEL(4)
ROPE_KERNEL(1)

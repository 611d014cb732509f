// Parts of a matrix's columns, scaled: added to, or taken out.
//
// Bound by memory: adding moves 12 bytes a number of the part, taking 8. A thread takes N columns; one block row of the
// grid is one row.
#include "packs.cuh"

// target[T, width], its columns from `first` on, += factor · source[T, part].
template <int N>
DEVICE void columns_add(const float* source, float* target, u32 width, u32 first, u32 part, float factor) {
  u32 column = grid_column<N>();
  if (column >= part) return;
  source += (u64)block_x() * part + column;
  target += (u64)block_x() * width + first + column;
  Pack<N> values = load_pack<N>(target), added = load_pack<N>(source);
  for (int i = 0; i < N; i++) values.at[i] += factor * added.at[i];
  store_pack<N>(target, values);
}

// out[T, part] = factor · the columns of source[T, width] from `first` on.
template <int N>
DEVICE void columns_take(const float* source, float* out, u32 width, u32 first, u32 part, float factor) {
  u32 column = grid_column<N>();
  if (column >= part) return;
  Pack<N> values = load_pack<N>(source + (u64)block_x() * width + first + column);
  for (int i = 0; i < N; i++) values.at[i] *= factor;
  store_pack<N>(out + (u64)block_x() * part + column, values);
}

#define COLUMNS_KERNELS(N)                                                                                         \
  KERNEL LAUNCH_BOUNDS(256, 8) columns_add_##N(const float* source, float* target, u32 width, u32 first, u32 part, \
                                               float factor) {                                                     \
    columns_add<N>(source, target, width, first, part, factor);                                                    \
  }                                                                                                                \
  KERNEL LAUNCH_BOUNDS(256, 8) columns_take_##N(const float* source, float* out, u32 width, u32 first, u32 part,   \
                                                float factor) {                                                    \
    columns_take<N>(source, out, width, first, part, factor);                                                      \
  }                                                                                                                \
  REGISTER_KERNEL(columns_add_##N)                                                                                 \
  REGISTER_KERNEL(columns_take_##N)

COLUMNS_KERNELS(4)
COLUMNS_KERNELS(1)

// Adds one row to every row of a matrix, and sums rows for its gradient.
//
// Bound by memory: adding reads and writes 8 bytes a number, summing reads 4. A thread takes N columns.
#include "packs.cuh"

// target[T, n] += bias[n]; one block row of the grid is one row.
template <int N>
DEVICE void bias_add(const float* bias, float* target, u32 width) {
  u32 column = grid_column<N>();
  if (column >= width) return;
  target += (u64)block_x() * width + column;
  Pack<N> values = load_pack<N>(target), added = load_pack<N>(bias + column);
  for (int i = 0; i < N; i++) values.at[i] += added.at[i];
  store_pack<N>(target, values);
}

// partial[strips, n] = Σ over the strip's rows of dout[T, n], each in the order of the rows.
template <int N>
DEVICE void bias_sum(const float* dout, float* partial, u64 rows, u32 width, u32 strip_rows) {
  u32 column = grid_column<N>();
  if (column >= width) return;
  u64 first = (u64)block_x() * strip_rows, last = smaller(first + strip_rows, rows);
  Pack<N> sum = {};
  for (u64 row = first; row < last; row++) {
    Pack<N> values = load_pack<N>(dout + row * width + column);
    for (int i = 0; i < N; i++) sum.at[i] += values.at[i];
  }
  store_pack<N>(partial + (u64)block_x() * width + column, sum);
}

#define BIAS_KERNELS(N)                                                                                               \
  KERNEL LAUNCH_BOUNDS(256, 8) bias_add_##N(const float* bias, float* target, u32 width) {                            \
    bias_add<N>(bias, target, width);                                                                                 \
  }                                                                                                                   \
  KERNEL LAUNCH_BOUNDS(256, 4) bias_sum_##N(const float* dout, float* partial, u64 rows, u32 width, u32 strip_rows) { \
    bias_sum<N>(dout, partial, rows, width, strip_rows);                                                              \
  }                                                                                                                   \
  REGISTER_KERNEL(bias_add_##N)                                                                                       \
  REGISTER_KERNEL(bias_sum_##N)

BIAS_KERNELS(4)
BIAS_KERNELS(1)

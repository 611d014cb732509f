// RMSNorm of rows x[T, d], forward and backward.
//
// Bound by memory. Forward reads x and writes out: 8 bytes a number. Backward reads x and dout and writes dx: 12 bytes
// a number, 16 where it accumulates. The second look at a row finds it in the multiprocessor's own cache. A block has
// 256 threads; WARPS of them share a row (1 for narrow rows, all 8 for wide ones), and a thread moves N numbers at
// once.
#include "packs.cuh"

// 1 / √(mean(x²) + ε) of one row, the same for every thread of the group that shares it.
template <int WARPS, int N>
DEVICE float inverse_root_mean_square(const float* x, u32 width, float epsilon) {
  float sum = 0;
  for (u32 column = group_member<WARPS>() * N; column < width; column += WARPS * 32 * N) {
    Pack<N> values = load_pack<N>(x + column);
    for (int i = 0; i < N; i++) sum += values.at[i] * values.at[i];
  }
  return 1.0f / square_root(group_sum<WARPS>(sum) / (float)width + epsilon);
}

// out[T, d] = w ∘ x · rstd and rstd[T], from x[T, d] and weight[d].
template <int WARPS, int N>
DEVICE void norm_forward(const float* x, const float* weight, float* out, float* rstd, u64 rows, u32 width,
                         float epsilon) {
  u64 row = group_index<WARPS>();
  if (row >= rows) return;
  x += row * width;
  out += row * width;
  float scale = inverse_root_mean_square<WARPS, N>(x, width, epsilon);
  if (group_member<WARPS>() == 0) rstd[row] = scale;
  for (u32 column = group_member<WARPS>() * N; column < width; column += WARPS * 32 * N) {
    Pack<N> values = load_pack<N>(x + column), weights = load_pack<N>(weight + column);
    for (int i = 0; i < N; i++) values.at[i] = values.at[i] * scale * weights.at[i];
    store_pack<N>(out + column, values);
  }
}

// mean(w ∘ dout ∘ x̂) of one row.
template <int WARPS, int N>
DEVICE float mean_of_products(const float* x, const float* weight, const float* dout, u32 width, float scale) {
  float sum = 0;
  for (u32 column = group_member<WARPS>() * N; column < width; column += WARPS * 32 * N) {
    Pack<N> values = load_pack<N>(x + column), weights = load_pack<N>(weight + column),
            gradients = load_pack<N>(dout + column);
    for (int i = 0; i < N; i++) sum += weights.at[i] * gradients.at[i] * values.at[i];
  }
  return group_sum<WARPS>(sum) * scale / (float)width;
}

// dx[T, d] (= | +=) of a strip of rows for each block, and partial[strips, d], the strip's Σ dout ∘ x̂. Each thread owns
// its columns of sums[8 / WARPS, d] in shared memory, so that adding to them needs no barrier.
template <int WARPS, int N>
DEVICE void norm_backward(const float* x, const float* weight, const float* rstd, const float* dout, float* dx,
                          float* partial, u64 rows, u32 width, u32 strip_rows, u32 accumulate) {
  DYNAMIC_SHARED(shared);
  float* sums = (float*)shared + group_in_block<WARPS>() * width;
  u32 first_column = group_member<WARPS>() * N;
  for (u32 column = first_column; column < width; column += WARPS * 32 * N) store_pack<N>(sums + column, Pack<N>{});
  u64 first = (u64)block_x() * strip_rows, last = smaller(first + strip_rows, rows);
  for (u64 row = first + group_in_block<WARPS>(); row < last; row += 8 / WARPS) {
    const float *x_row = x + row * width, *dout_row = dout + row * width;
    float* dx_row = dx + row * width;
    float scale = rstd[row], mean = mean_of_products<WARPS, N>(x_row, weight, dout_row, width, scale);
    for (u32 column = first_column; column < width; column += WARPS * 32 * N) {
      Pack<N> values = load_pack<N>(x_row + column), gradients = load_pack<N>(dout_row + column);
      Pack<N> weights = load_pack<N>(weight + column), own = load_pack<N>(sums + column), result = {};
      if (accumulate) result = load_pack<N>(dx_row + column);
      for (int i = 0; i < N; i++) {
        float normed = values.at[i] * scale;
        own.at[i] += gradients.at[i] * normed;
        result.at[i] += scale * (weights.at[i] * gradients.at[i] - normed * mean);
      }
      store_pack<N>(sums + column, own);
      store_pack<N>(dx_row + column, result);
    }
  }
  block_barrier();
  for (u32 column = thread_index(); column < width; column += 256) {
    float sum = 0;
    for (int group = 0; group < 8 / WARPS; group++) sum += ((float*)shared)[group * width + column];
    partial[(u64)block_x() * width + column] = sum;
  }
}

#define NORM_KERNELS(suffix, WARPS, N)                                                                             \
  KERNEL LAUNCH_BOUNDS(256, 4) norm_forward_##suffix(const float* x, const float* weight, float* out, float* rstd, \
                                                     u64 rows, u32 width, float epsilon) {                         \
    norm_forward<WARPS, N>(x, weight, out, rstd, rows, width, epsilon);                                            \
  }                                                                                                                \
  KERNEL LAUNCH_BOUNDS(256, 3) norm_backward_##suffix(const float* x, const float* weight, const float* rstd,      \
                                                      const float* dout, float* dx, float* partial, u64 rows,      \
                                                      u32 width, u32 strip_rows, u32 accumulate) {                 \
    norm_backward<WARPS, N>(x, weight, rstd, dout, dx, partial, rows, width, strip_rows, accumulate);              \
  }                                                                                                                \
  REGISTER_KERNEL(norm_forward_##suffix)                                                                           \
  REGISTER_KERNEL(norm_backward_##suffix)

NORM_KERNELS(warp_4, 1, 4)
NORM_KERNELS(warp_1, 1, 1)
NORM_KERNELS(block_4, 8, 4)
NORM_KERNELS(block_1, 8, 1)

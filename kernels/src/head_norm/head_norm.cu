// RMSNorm of every query and key head by itself, forward and backward, in rows q[H·D] | k[K·D] | v[K·D].
//
// Bound by memory: forward 8 bytes a number, backward 12. A warp takes a head, and its lanes N numbers at once.
#include "packs.cuh"

// Σ term(column) over one head's columns, the same for every lane.
template <int N, class Term>
DEVICE float head_sum(u32 width, Term term) {
  float sum = 0;
  for (u32 column = lane_index() * N; column < width; column += 32 * N) sum += term(column);
  return warp_sum(sum);
}

// out[T, (H+2K)·D] and rstd[T, H+K] from x[T, (H+2K)·D] and weight[2, D]; heads = H+2K, normed = H+K, queries = H;
// values pass.
template <int N>
DEVICE void head_norm_forward(const float* x, const float* weight, float* out, float* rstd, u64 rows, u32 queries,
                              u32 normed, u32 heads, u32 width, float epsilon) {
  u64 place = (u64)block_x() * 8 + warp_index(), row = place / heads;
  if (row >= rows) return;
  u32 head = (u32)(place % heads), first = lane_index() * N;
  x += place * width;
  out += place * width;
  if (head >= normed) {
    for (u32 column = first; column < width; column += 32 * N) store_pack<N>(out + column, load_pack<N>(x + column));
    return;
  }
  weight += head < queries ? 0 : width;
  float squares = head_sum<N>(width, [&](u32 column) {
    Pack<N> values = load_pack<N>(x + column);
    float sum = 0;
    for (int i = 0; i < N; i++) sum += values.at[i] * values.at[i];
    return sum;
  });
  float scale = 1.0f / square_root(squares / (float)width + epsilon);
  if (first == 0) rstd[row * normed + head] = scale;
  for (u32 column = first; column < width; column += 32 * N) {
    Pack<N> values = load_pack<N>(x + column), weights = load_pack<N>(weight + column);
    for (int i = 0; i < N; i++) values.at[i] = values.at[i] * scale * weights.at[i];
    store_pack<N>(out + column, values);
  }
}

// The gradient dqkv[D] of one head in place, and what it adds to sums[D], of which each lane owns its columns.
template <int N>
DEVICE void head_norm_backward_head(const float* x, const float* weight, float scale, float* dqkv, float* sums,
                                    u32 width) {
  float products = head_sum<N>(width, [&](u32 column) {
    Pack<N> values = load_pack<N>(x + column), weights = load_pack<N>(weight + column),
            gradients = load_pack<N>(dqkv + column);
    float sum = 0;
    for (int i = 0; i < N; i++) sum += weights.at[i] * gradients.at[i] * values.at[i];
    return sum;
  });
  float mean = products * scale / (float)width;
  for (u32 column = lane_index() * N; column < width; column += 32 * N) {
    Pack<N> values = load_pack<N>(x + column), weights = load_pack<N>(weight + column);
    Pack<N> gradients = load_pack<N>(dqkv + column), own = load_pack<N>(sums + column);
    for (int i = 0; i < N; i++) {
      float normed = values.at[i] * scale;
      own.at[i] += gradients.at[i] * normed;
      gradients.at[i] = scale * (weights.at[i] * gradients.at[i] - normed * mean);
    }
    store_pack<N>(sums + column, own);
    store_pack<N>(dqkv + column, gradients);
  }
}

// dqkv[T, (H+2K)·D] in place for a strip of rows a block, and partial[strips, 2, D], the strip's part of the weight's
// gradient. Each of the 8 warps keeps sums[2, D] of its own in shared memory.
template <int N>
DEVICE void head_norm_backward(const float* x, const float* weight, const float* rstd, float* dqkv, float* partial,
                               u64 rows, u32 queries, u32 normed, u32 heads, u32 width, u32 strip_rows) {
  DYNAMIC_SHARED(shared);
  u32 warp = warp_index(), first_column = lane_index() * N;
  float* sums = (float*)shared + warp * 2 * width;
  for (u32 half = 0; half < 2; half++)
    for (u32 column = first_column; column < width; column += 32 * N)
      store_pack<N>(sums + half * width + column, Pack<N>{});
  u64 first = (u64)block_x() * strip_rows, last = smaller(first + strip_rows, rows);
  for (u64 place = first * normed + warp; place < last * normed; place += 8) {
    u64 row = place / normed, head = place % normed, start = (row * heads + head) * width;
    u32 half = head < queries ? 0 : width;
    head_norm_backward_head<N>(x + start, weight + half, rstd[place], dqkv + start, sums + half, width);
  }
  block_barrier();
  for (u32 column = thread_index(); column < 2 * width; column += 256) {
    float sum = 0;
    for (int other = 0; other < 8; other++) sum += ((float*)shared)[other * 2 * width + column];
    partial[(u64)block_x() * 2 * width + column] = sum;
  }
}

#define HEAD_NORM_KERNELS(N)                                                                                          \
  KERNEL LAUNCH_BOUNDS(256, 4) head_norm_forward_##N(const float* x, const float* weight, float* out, float* rstd,    \
                                                     u64 rows, u32 queries, u32 normed, u32 heads, u32 width,         \
                                                     float epsilon) {                                                 \
    head_norm_forward<N>(x, weight, out, rstd, rows, queries, normed, heads, width, epsilon);                         \
  }                                                                                                                   \
  KERNEL LAUNCH_BOUNDS(256, 2) head_norm_backward_##N(const float* x, const float* weight, const float* rstd,         \
                                                      float* dqkv, float* partial, u64 rows, u32 queries, u32 normed, \
                                                      u32 heads, u32 width, u32 strip_rows) {                         \
    head_norm_backward<N>(x, weight, rstd, dqkv, partial, rows, queries, normed, heads, width, strip_rows);           \
  }                                                                                                                   \
  REGISTER_KERNEL(head_norm_forward_##N)                                                                              \
  REGISTER_KERNEL(head_norm_backward_##N)

HEAD_NORM_KERNELS(4)
HEAD_NORM_KERNELS(1)

// Elementwise sums and products.
//
// Bound by memory: adding moves 12 bytes a number, scaling 8. A thread takes N numbers; where the length is no multiple
// of N, the last thread takes the rest one by one.
#include "packs.cuh"

// target[len] += source[len]
template <int N>
DEVICE void elementwise_add(const float* source, float* target, u64 len) {
  u64 place = ((u64)block_x() * block_threads() + thread_index()) * N;
  if (place + N <= len) {
    Pack<N> sum = load_pack<N>(target + place), added = load_pack<N>(source + place);
    for (int i = 0; i < N; i++) sum.at[i] += added.at[i];
    store_pack<N>(target + place, sum);
  } else {
    for (u64 i = place; i < len; i++) target[i] += source[i];
  }
}

// target[len] *= factor
template <int N>
DEVICE void elementwise_scale(float* target, u64 len, float factor) {
  u64 place = ((u64)block_x() * block_threads() + thread_index()) * N;
  if (place + N <= len) {
    Pack<N> values = load_pack<N>(target + place);
    for (int i = 0; i < N; i++) values.at[i] *= factor;
    store_pack<N>(target + place, values);
  } else {
    for (u64 i = place; i < len; i++) target[i] *= factor;
  }
}

#define ELEMENTWISE_KERNELS(N)                                                                    \
  KERNEL LAUNCH_BOUNDS(256, 8) elementwise_add_##N(const float* source, float* target, u64 len) { \
    elementwise_add<N>(source, target, len);                                                      \
  }                                                                                               \
  KERNEL LAUNCH_BOUNDS(256, 8) elementwise_scale_##N(float* target, u64 len, float factor) {      \
    elementwise_scale<N>(target, len, factor);                                                    \
  }                                                                                               \
  REGISTER_KERNEL(elementwise_add_##N)                                                            \
  REGISTER_KERNEL(elementwise_scale_##N)

ELEMENTWISE_KERNELS(4)
ELEMENTWISE_KERNELS(1)

// Sums in one order: of a whole view in f64, and of strips of columns that other kernels leave behind.
//
// Bound by memory: 4 bytes a number.
#include "packs.cuh"

// Numbers that one block sums.
static const u32 CHUNK = 32768;

// partial[blocks] = Σ x (or x²) of each chunk of values[n]; the host adds the partial sums up in order.
template <int N, bool SQUARED>
DEVICE void reduce_sum(const float* values, double* partial, u64 len) {
  u64 first = (u64)block_x() * CHUNK, last = smaller(first + CHUNK, len);
  auto term = [](float value) { return SQUARED ? (double)value * (double)value : (double)value; };
  double sum = 0;
  for (u64 place = first + thread_index() * N; place < last; place += 256 * N) {
    if (place + N <= last) {
      Pack<N> pack = load_pack<N>(values + place);
      for (int i = 0; i < N; i++) sum += term(pack.at[i]);
    } else {
      for (u64 i = place; i < last; i++) sum += term(values[i]);
    }
  }
  sum = block_total(sum);
  if (thread_index() == 0) partial[block_x()] = sum;
}

KERNEL LAUNCH_BOUNDS(256, 8) reduce_sum_4(const float* values, double* partial, u64 len) {
  reduce_sum<4, false>(values, partial, len);
}
KERNEL LAUNCH_BOUNDS(256, 8) reduce_sum_1(const float* values, double* partial, u64 len) {
  reduce_sum<1, false>(values, partial, len);
}
KERNEL LAUNCH_BOUNDS(256, 8) reduce_squares_4(const float* values, double* partial, u64 len) {
  reduce_sum<4, true>(values, partial, len);
}
KERNEL LAUNCH_BOUNDS(256, 8) reduce_squares_1(const float* values, double* partial, u64 len) {
  reduce_sum<1, true>(values, partial, len);
}
REGISTER_KERNEL(reduce_sum_4)
REGISTER_KERNEL(reduce_sum_1)
REGISTER_KERNEL(reduce_squares_4)
REGISTER_KERNEL(reduce_squares_1)

// target[width] += Σ of partial[strips, width]: a block takes 32 columns, each of its 16 warps every 16th strip, in
// f64.
KERNEL LAUNCH_BOUNDS(512, 2) reduce_strips(const float* partial, float* target, u64 strips, u32 width) {
  SHARED_ARRAY(double, sums, 16 * 32);
  u32 warp = warp_index(), lane = lane_index(), column = block_x() * 32 + lane;
  double sum = 0;
  if (column < width)
    for (u64 strip = warp; strip < strips; strip += 16) sum += partial[strip * width + column];
  sums[warp * 32 + lane] = sum;
  block_barrier();
  if (warp > 0 || column >= width) return;
  for (int other = 1; other < 16; other++) sum += sums[other * 32 + lane];
  target[column] = (float)(target[column] + sum);
}
REGISTER_KERNEL(reduce_strips)

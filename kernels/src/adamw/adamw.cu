// One step of AdamW over parameters, gradient and both moments, all in f32.
//
// Bound by memory: reads four numbers and writes three, 28 bytes a parameter. A thread takes N parameters; where the
// length is no multiple of N, the last thread takes the rest one by one.
#include "packs.cuh"

// What does not change inside a step; the corrections for the step are worked into the factors on the host.
struct AdamWFactors {
  float beta1, beta2, epsilon, gradient_scale, decay, rate, second_correction;
};

DEVICE void adamw_parameter(const AdamWFactors& by, float gradient, float& parameter, float& first, float& second) {
  gradient *= by.gradient_scale;
  first = by.beta1 * first + (1.0f - by.beta1) * gradient;
  second = by.beta2 * second + (1.0f - by.beta2) * gradient * gradient;
  float root = square_root(second) * by.second_correction;
  parameter = parameter * by.decay - by.rate * first / (root + by.epsilon);
}

// parameters[n], first[n], second[n] in place, from gradient[n].
template <int N>
DEVICE void adamw_step(const AdamWFactors& by, const float* gradient, float* parameters, float* first, float* second,
                       u64 len) {
  u64 place = ((u64)block_x() * 256 + thread_index()) * N;
  if (place + N <= len) {
    Pack<N> g = load_pack<N>(gradient + place), p = load_pack<N>(parameters + place);
    Pack<N> m = load_pack<N>(first + place), v = load_pack<N>(second + place);
    for (int i = 0; i < N; i++) adamw_parameter(by, g.at[i], p.at[i], m.at[i], v.at[i]);
    store_pack<N>(parameters + place, p);
    store_pack<N>(first + place, m);
    store_pack<N>(second + place, v);
  } else {
    for (u64 i = place; i < len; i++) adamw_parameter(by, gradient[i], parameters[i], first[i], second[i]);
  }
}

#define ADAMW_KERNEL(N)                                                                                               \
  KERNEL LAUNCH_BOUNDS(256, 4) adamw_step_##N(const float* gradient, float* parameters, float* first, float* second,  \
                                              u64 len, float beta1, float beta2, float epsilon, float gradient_scale, \
                                              float decay, float rate, float second_correction) {                     \
    AdamWFactors by = {beta1, beta2, epsilon, gradient_scale, decay, rate, second_correction};                        \
    adamw_step<N>(by, gradient, parameters, first, second, len);                                                      \
  }                                                                                                                   \
  REGISTER_KERNEL(adamw_step_##N)

ADAMW_KERNEL(4)
ADAMW_KERNEL(1)

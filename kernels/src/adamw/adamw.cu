// One step of AdamW over a gradient in f32 and parameters and moments in f32, or in bf16 rounded at random.
//
// Bound by memory: in f32 four numbers are read and three written, 28 bytes a parameter; in bf16 it is 16 bytes, and
// the random numbers cost about as much arithmetic as an H200 has for them. A thread takes N parameters; where the
// length is no multiple of N, the last thread takes the rest one by one.
#include "packs.cuh"
#include "philox.cuh"

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

// N neighbours in bf16.
template <int N>
struct alignas(2 * N) HalfPack {
  bf16 at[N];
};

// The bf16 below or above in magnitude, by the low half of `random`.
DEVICE bf16 round_at_random(float value, u32 random) {
  u32 bits = float_bits(value);
  if ((bits & infinity_bits) == infinity_bits) return round_to_bf16(value);
  return (bf16)((bits + (random & 0xffffu)) >> 16);
}

struct RandomWords {
  u32 low, high;
};

// Of parameter `index`: neighbours 2j and 2j + 1 share the words of counter + j.
DEVICE RandomWords random_words(u64 seed, u64 counter, u64 index) {
  PhiloxWords words = philox_words(seed, counter + index / 2);
  return index % 2 ? RandomWords{words.at[2], words.at[3]} : RandomWords{words.at[0], words.at[1]};
}

DEVICE void adamw_half_parameter(const AdamWFactors& by, RandomWords random, float gradient, bf16& parameter,
                                 bf16& first, bf16& second) {
  float p = widen(parameter), m = widen(first), v = widen(second);
  adamw_parameter(by, gradient, p, m, v);
  parameter = round_at_random(p, random.low);
  first = round_at_random(m, random.low >> 16);
  second = round_at_random(v, random.high);
}

// parameters[n], first[n], second[n] in place, from gradient[n].
template <int N>
DEVICE void adamw_step_half(const AdamWFactors& by, u64 seed, u64 counter, const float* gradient, bf16* parameters,
                            bf16* first, bf16* second, u64 len) {
  u64 place = ((u64)block_x() * 256 + thread_index()) * N;
  if (place + N <= len) {
    Pack<N> g = load_pack<N>(gradient + place);
    HalfPack<N> p = *(HalfPack<N>*)(parameters + place), m = *(HalfPack<N>*)(first + place),
                v = *(HalfPack<N>*)(second + place);
    UNROLL
    for (int i = 0; i < N; i++)
      adamw_half_parameter(by, random_words(seed, counter, place + i), g.at[i], p.at[i], m.at[i], v.at[i]);
    *(HalfPack<N>*)(parameters + place) = p;
    *(HalfPack<N>*)(first + place) = m;
    *(HalfPack<N>*)(second + place) = v;
  } else {
    for (u64 i = place; i < len; i++)
      adamw_half_parameter(by, random_words(seed, counter, i), gradient[i], parameters[i], first[i], second[i]);
  }
}

#define ADAMW_KERNELS(N)                                                                                               \
  KERNEL LAUNCH_BOUNDS(256, 4) adamw_step_##N(const float* gradient, float* parameters, float* first, float* second,   \
                                              u64 len, float beta1, float beta2, float epsilon, float gradient_scale,  \
                                              float decay, float rate, float second_correction) {                      \
    AdamWFactors by = {beta1, beta2, epsilon, gradient_scale, decay, rate, second_correction};                         \
    adamw_step<N>(by, gradient, parameters, first, second, len);                                                       \
  }                                                                                                                    \
  KERNEL LAUNCH_BOUNDS(256, 4) adamw_step_half_##N(                                                                    \
      const float* gradient, bf16* parameters, bf16* first, bf16* second, u64 len, u64 seed, u64 counter, float beta1, \
      float beta2, float epsilon, float gradient_scale, float decay, float rate, float second_correction) {            \
    AdamWFactors by = {beta1, beta2, epsilon, gradient_scale, decay, rate, second_correction};                         \
    adamw_step_half<N>(by, seed, counter, gradient, parameters, first, second, len);                                   \
  }                                                                                                                    \
  REGISTER_KERNEL(adamw_step_##N)                                                                                      \
  REGISTER_KERNEL(adamw_step_half_##N)

ADAMW_KERNELS(4)
ADAMW_KERNELS(1)

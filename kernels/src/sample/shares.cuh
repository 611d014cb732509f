// What the kernels of sampling know of one row: its logits, and the share e^(logit·scale − lse) of each token.
//
// Shares are the CPU's bit for bit, so that both see the same ties: its polynomial, each step rounded by itself.
#pragma once

// Tokens that a warp takes at once, 32 for each lane; the sum of a row adds up in such pieces, as on the CPU.
constexpr u32 PIECE = 1024;
constexpr u32 THREADS = 1024;
constexpr u32 WARPS = THREADS / warp_lanes;

// e^x with a relative error below 2^-22 on [-87, 88]; 0 below, infinity above, NaN for NaN. See `exp` in cpu/simd.rs.
DEVICE float portable_exponential(float x) {
  const float shift = 12582912.0f;  // 1.5·2²³: adding and subtracting it rounds to the nearest integer
  float clamped = x < -87.3f ? -87.3f : x > 88.0f ? 88.0f : x;
  float rounded = rounded_sum(rounded_product(clamped, 1.44269504f), shift), power = rounded_sum(rounded, -shift);
  float rest = rounded_sum(clamped, -rounded_product(power, 0.6933594f));
  rest = rounded_sum(rest, -rounded_product(power, -2.1219444e-4f));
  const float factors[5] = {1.3981999e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f};
  float tail = 1.9875691e-4f;
  UNROLL
  for (int i = 0; i < 5; i++) tail = rounded_sum(rounded_product(tail, rest), factors[i]);
  float mantissa = rounded_sum(rounded_sum(rounded_product(rounded_product(tail, rest), rest), rest), 1.0f);
  float scale = bits_float((float_bits(rounded) - float_bits(shift) + 127u) << 23);
  return x < -87.3f ? 0.0f : x > 88.0f ? infinity() : rounded_product(mantissa, scale);
}

struct Row {
  const float* logits;  // [V]
  u32 vocabulary;
  float scale;  // 1 / temperature
  float lse;

  MEMBER float log_share(u32 token) const { return rounded_sum(rounded_product(logits[token], scale), -lse); }
  MEMBER float share(u32 token) const { return portable_exponential(log_share(token)); }
  MEMBER u32 pieces() const { return ceiling_divide(vocabulary, PIECE); }
};

// Tokens in descending order of their shares, equal ones by index, have descending keys, and no two have one key.
struct Order {
  u32 index_bits;  // of the vocabulary

  MEMBER u64 key(float share, u32 token) const {
    return ((u64)float_bits(share) << index_bits) + ((1u << index_bits) - 1 - token);
  }
  MEMBER u64 above_all() const { return 1ull << (32 + index_bits); }
};

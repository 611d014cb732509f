// Losses of policy-gradient learning and their gradients: a few thousand numbers, so plainly and in f64, as on the CPU.
//
// Bound by the launch. Each block leaves one row of partial sums, which the host adds up in order. Token-wise losses: a
// thread a token. Answer-wise: a warp an answer.
#include "packs.cuh"

// Sums of one block, or of one token of it.
struct PolicySums {
  double loss, clipped, divergence, weight, ratio_max;
};

// What one ratio adds to the sums; its gradient with respect to log π. A sum that is no number must be seen.
DEVICE float policy_term(double low, double high, double log_ratio, double advantage, double weight, PolicySums& sums) {
  double ratio = exp(log_ratio), bounded_ratio = ratio < 1.0 - low    ? 1.0 - low
                                                 : ratio > 1.0 + high ? 1.0 + high
                                                                      : ratio;
  double free = -advantage * ratio, bounded = -advantage * bounded_ratio;
  sums.loss = weight * fmax(free, bounded);
  sums.clipped = ratio - 1.0 > high || 1.0 - ratio > low ? weight : 0.0;
  sums.divergence = weight * (ratio - 1.0 - log_ratio);
  sums.weight = weight;
  sums.ratio_max = weight > 0.0 ? fmax(0.0, ratio) : 0.0;
  return bounded > free ? 0.0f : (float)(weight * free);
}

DEVICE void write_policy_sums(double* partial, PolicySums sums) {
  partial[0] = sums.loss;
  partial[1] = sums.clipped;
  partial[2] = sums.divergence;
  partial[3] = sums.weight;
  partial[4] = sums.ratio_max;
}

// The largest number of the block's threads, none of which is below 0.
DEVICE double block_largest(double value) {
  SHARED_ARRAY(double, largest, warp_lanes);
  for (int mask = warp_lanes / 2; mask > 0; mask /= 2) value = fmax(value, warp_shuffle_xor(value, mask));
  if (lane_index() == 0) largest[warp_index()] = value;
  block_barrier();
  for (int warp = 0; warp < block_warps(); warp++) value = fmax(value, largest[warp]);
  return value;
}

// dlogp[n] and partial[blocks, 5] from logp[n], old_logp[n], advantages[n], weights[n].
KERNEL LAUNCH_BOUNDS(256, 4) ppo_policy_loss(const float* logp, const float* old_logp, const float* advantages,
                                             const float* weights, float* dlogp, double* partial, u64 len, float low,
                                             float high) {
  u64 n = (u64)block_x() * 256 + thread_index();
  PolicySums sums = {};
  if (n < len)
    dlogp[n] = policy_term(low, high, (double)logp[n] - (double)old_logp[n], advantages[n], weights[n], sums);
  sums.loss = block_total(sums.loss);
  sums.clipped = block_total(sums.clipped);
  sums.divergence = block_total(sums.divergence);
  sums.weight = block_total(sums.weight);
  sums.ratio_max = block_largest(sums.ratio_max);
  if (thread_index() == 0) write_policy_sums(partial + (u64)block_x() * 5, sums);
}
REGISTER_KERNEL(ppo_policy_loss)

// Σ of logp − old_logp over one answer's tokens, the same for every lane of its warp.
DEVICE double answer_log_ratio(const float* logp, const float* old_logp, u32 first, u32 last) {
  double sum = 0;
  for (u32 n = first + lane_index(); n < last; n += 32) sum += (double)logp[n] - (double)old_logp[n];
  return warp_sum(sum);
}

// dlogp[n] and partial[answers, 5], one ratio an answer, from offsets[answers + 1], logp[n], old_logp[n],
// advantages[answers] and weights[answers].
KERNEL LAUNCH_BOUNDS(128, 8) ppo_answer_loss(const u32* offsets, const float* logp, const float* old_logp,
                                             const float* advantages, const float* weights, float* dlogp,
                                             double* partial, u32 answers, float low, float high) {
  u32 answer = block_x() * 4 + warp_index(), lane = lane_index();
  if (answer >= answers) return;
  u32 first = offsets[answer], last = offsets[answer + 1];
  PolicySums sums = {};
  double log_ratio = answer_log_ratio(logp, old_logp, first, last);
  float gradient = policy_term(low, high, log_ratio, advantages[answer], weights[answer], sums);
  for (u32 n = first + lane; n < last; n += 32) dlogp[n] = gradient;
  if (lane == 0) write_policy_sums(partial + (u64)answer * 5, sums);
}
REGISTER_KERNEL(ppo_answer_loss)

// dlogp[n] += β · ∂/∂logp of Σ w · k3, and partial[blocks] = Σ w · k3, from logp[n], reference[n], weights[n].
KERNEL LAUNCH_BOUNDS(256, 4) ppo_kl_loss(const float* logp, const float* reference, const float* weights, float* dlogp,
                                         double* partial, u64 len, float beta) {
  u64 n = (u64)block_x() * 256 + thread_index();
  double sum = 0;
  if (n < len) {
    double weight = weights[n], away = (double)reference[n] - (double)logp[n], growth = expm1(away);
    sum = weight * (growth - away);
    dlogp[n] += (float)(-(double)beta * weight * growth);
  }
  sum = block_total(sum);
  if (thread_index() == 0) partial[block_x()] = sum;
}
REGISTER_KERNEL(ppo_kl_loss)

// dvalues[n] and partial[blocks, 3] (loss, clipped, weight) from values[n], old_values[n], returns[n], weights[n].
KERNEL
LAUNCH_BOUNDS(256, 4) ppo_value_loss(const float* values, const float* old_values, const float* returns,
                                     const float* weights, float* dvalues, double* partial, u64 len, float clip) {
  u64 n = (u64)block_x() * 256 + thread_index();
  double loss = 0, clipped = 0, total = 0;
  if (n < len) {
    double value = values[n], old = old_values[n], target = returns[n], weight = weights[n];
    double step = value - old, held = step < -clip ? -clip : step > clip ? clip : step;
    double free = (value - target) * (value - target), bounded = (old + held - target) * (old + held - target);
    bool inside = held == step;
    dvalues[n] = free >= bounded || inside ? (float)(weight * (value - target)) : 0.0f;
    loss = 0.5 * weight * fmax(free, bounded);
    clipped = bounded > free && !inside ? weight : 0.0;
    total = weight;
  }
  loss = block_total(loss);
  clipped = block_total(clipped);
  total = block_total(total);
  if (thread_index() > 0) return;
  partial[(u64)block_x() * 3] = loss;
  partial[(u64)block_x() * 3 + 1] = clipped;
  partial[(u64)block_x() * 3 + 2] = total;
}
REGISTER_KERNEL(ppo_value_loss)

// The preference loss over pairs of answers, with its gradient: sums of a few thousand tokens, so plainly and in f64,
// as on the CPU.
//
// Bound by the launch. A warp takes a pair and leaves one row of sums, which the host adds up in order.

DEVICE double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// log σ(x) = −log(1 + exp(−x)), also where exp(−x) has no number.
DEVICE double log_sigmoid(double x) { return fmin(x, 0.0) - log1p(exp(-fabs(x))); }

// Σ of logp − reference over one answer's tokens, the same for every lane.
DEVICE double answer_gain(const float* logp, const float* reference, u32 first, u32 last) {
  double sum = 0;
  for (u32 n = first + lane_index(); n < last; n += 32) sum += (double)logp[n] - (double)reference[n];
  return warp_sum(sum);
}

// dlogp[n] = weight · ∂loss/∂logp and partial[pairs, 4] (loss, chosen, rejected, right), from offsets[2·pairs + 1], the
// chosen answer of a pair before its rejected one, logp[n] and reference[n].
KERNEL LAUNCH_BOUNDS(128, 8) dpo_loss(const u32* offsets, const float* logp, const float* reference, float* dlogp,
                                      double* partial, u32 pairs, float beta, float smoothing, float weight) {
  u32 pair = block_x() * 4 + warp_index(), lane = lane_index();
  if (pair >= pairs) return;
  u32 first = offsets[2 * pair], middle = offsets[2 * pair + 1], last = offsets[2 * pair + 2];
  double better = (double)beta * answer_gain(logp, reference, first, middle);
  double worse = (double)beta * answer_gain(logp, reference, middle, last), margin = better - worse, noise = smoothing;
  double slope = noise * sigmoid(margin) - (1.0 - noise) * sigmoid(-margin);
  float gradient = (float)((double)weight * (double)beta * slope);
  for (u32 n = first + lane; n < last; n += 32) dlogp[n] = n < middle ? gradient : -gradient;
  if (lane > 0) return;
  partial += (u64)pair * 4;
  partial[0] = -((1.0 - noise) * log_sigmoid(margin) + noise * log_sigmoid(-margin));
  partial[1] = better;
  partial[2] = worse;
  partial[3] = margin > 0.0 ? 1.0 : 0.0;
}
REGISTER_KERNEL(dpo_loss)

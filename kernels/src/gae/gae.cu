// Advantages over ragged rows: A(t) = δ(t) + γλ·A(t+1), a scan of affine maps from the end of each segment to its
// start.
//
// Bound by memory, 16 bytes a token, and for small batches by the launch itself. A warp takes a segment, 32 tokens at a
// time. The map of token t is x ↦ δ(t) + γλ·x; all have one factor, so the composition of d neighbours is Σ + (γλ)^d·x,
// and one scan of the δ suffices. In f64, as on the CPU.

// advantages[T] and returns[T] = advantages + values, from rewards[T], values[T] and offsets[segments + 1].
KERNEL
LAUNCH_BOUNDS(128, 8) gae_forward(const u32* offsets, const float* rewards, const float* values, float* advantages,
                                  float* returns, u32 segments, float gamma, float lambda) {
  u32 segment = block_x() * 4 + warp_index(), lane = lane_index();
  if (segment >= segments) return;
  u32 first = offsets[segment], last = offsets[segment + 1];
  double decay = (double)gamma * (double)lambda, next_value = 0, next_advantage = 0;
  double reach = decay;  // (γλ)^(32 − lane): how much of the advantage behind these 32 tokens is felt here
  for (u32 step = lane; step < 31; step++) reach *= decay;
  // Whole pieces end at the segment's end; the first tokens make a shorter one.
  for (u32 end = last; end > first; end = end > first + 32 ? end - 32 : first) {
    long long t = (long long)end - 32 + lane;
    bool inside = t >= (long long)first;
    double value = inside ? values[t] : 0, after = warp_shuffle_down(value, 1);
    if (lane == 31) after = next_value;
    double sum = inside ? rewards[t] + (double)gamma * after - value : 0, factor = decay;
    for (u32 distance = 1; distance < 32; distance *= 2, factor *= factor) {
      double other = warp_shuffle_down(sum, distance);
      if (lane + distance < 32) sum += factor * other;
    }
    double advantage = sum + reach * next_advantage;
    if (inside) {
      advantages[t] = (float)advantage;
      returns[t] = (float)(advantage + value);
    }
    next_value = warp_shuffle(value, 0);
    next_advantage = warp_shuffle(advantage, 0);
  }
}
REGISTER_KERNEL(gae_forward)

// Draws the next token of each row: the log-sum of the row, then the key from which on the filters keep tokens, then
// the draw.
//
// A block of 1,024 threads takes a row [V] and reads it from its own cache after the first time: bound by the reading
// speed of one multiprocessor, 4 bytes a token and pass; 3 passes without filters, up to 20 with top-k or top-p.
#include "philox.cuh"
#include "shares.cuh"

// ---- the log-sum: log Σ e^(logit·scale), piece by piece under the largest logit so far, as the CPU adds it up ----

struct Best {
  float value;
  u32 token;
};

// The larger one, the lower index among equals. A NaN is never larger.
DEVICE Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.token < a.token) ? b : a; }

DEVICE Best warp_best(Best best) {
  for (int mask = warp_lanes / 2; mask > 0; mask /= 2)
    best = better(best, {warp_shuffle_xor(best.value, mask), warp_shuffle_xor(best.token, mask)});
  return best;
}

// The best of one piece, the same for every lane.
DEVICE Best best_of_piece(const float* logits, u32 vocabulary, u32 piece) {
  Best best = {-infinity(), 0xffffffffu};
  for (u32 step = 0; step < PIECE; step += warp_lanes) {
    u32 token = piece * PIECE + step + lane_index();
    if (token < vocabulary && logits[token] > best.value) best = {logits[token], token};
  }
  return warp_best(best);
}

// Σ e^(logit·scale − shift) of one piece: a running sum a lane, folded in halves.
DEVICE float sum_of_piece(const float* logits, u32 vocabulary, u32 piece, float scale, float shift) {
  float sum = 0;
  for (u32 step = 0; step < PIECE; step += warp_lanes) {
    u32 token = piece * PIECE + step + lane_index();
    if (token < vocabulary) sum += portable_exponential(rounded_sum(rounded_product(logits[token], scale), -shift));
  }
  for (int distance = warp_lanes / 2; distance > 0; distance /= 2) sum += warp_shuffle_down(sum, distance);
  return sum;
}

// Replaces each piece's largest by the largest up to it.
DEVICE void running_maximum(float* largest, u32 pieces) {
  float running = -infinity();
  for (u32 piece = 0; piece < pieces; piece++)
    largest[piece] = running = largest[piece] > running ? largest[piece] : running;
}

DEVICE float log_sum(const float* largest, const float* sums, u32 pieces) {
  float shift = -infinity();
  double sum = 0;
  for (u32 piece = 0; piece < pieces; piece++) {
    if (largest[piece] > shift) {
      if (sum > 0) sum *= exp((double)shift - (double)largest[piece]);
      shift = largest[piece];
    }
    sum += (double)sums[piece];
  }
  return (float)((double)shift + log(sum));
}

// lse[B] of logits[B, V]; where `greedy`, also tokens[B] and logp[B] of the largest logits. Shared memory holds 2
// numbers a piece.
KERNEL LAUNCH_BOUNDS(THREADS, 1) sample_measure(const float* logits, float* lse, u32* tokens, float* logp,
                                                u32 vocabulary, float scale, u32 greedy) {
  DYNAMIC_SHARED(shared);
  SHARED_ARRAY(float, best_values, WARPS);
  SHARED_ARRAY(u32, best_tokens, WARPS);
  logits += (u64)block_x() * vocabulary;
  u32 pieces = ceiling_divide(vocabulary, PIECE);
  float *largest = (float*)shared, *sums = largest + pieces;
  Best best = {-infinity(), 0xffffffffu};
  for (u32 piece = warp_index(); piece < pieces; piece += WARPS) {
    Best here = best_of_piece(logits, vocabulary, piece);
    if (lane_index() == 0) largest[piece] = rounded_product(here.value, scale);
    best = better(best, here);
  }
  if (lane_index() == 0) best_values[warp_index()] = best.value, best_tokens[warp_index()] = best.token;
  block_barrier();
  if (thread_index() == 0) running_maximum(largest, pieces);
  block_barrier();
  for (u32 piece = warp_index(); piece < pieces; piece += WARPS) {
    float sum = sum_of_piece(logits, vocabulary, piece, scale, largest[piece]);
    if (lane_index() == 0) sums[piece] = sum;
  }
  block_barrier();
  if (thread_index() > 0) return;
  float total = lse[block_x()] = log_sum(largest, sums, pieces);
  if (!greedy) return;
  for (u32 warp = 1; warp < WARPS; warp++) best = better(best, {best_values[warp], best_tokens[warp]});
  // Nothing is larger than a NaN in the first place; where all are NaN or −∞, the first place it is.
  u32 token = logits[0] != logits[0] || best.token >= vocabulary ? 0 : best.token;
  tokens[block_x()] = token;
  logp[block_x()] = Row{logits, vocabulary, scale, total}.log_share(token);
}
REGISTER_KERNEL(sample_measure)

// ---- top-k and top-p: the lowest key that is kept ----

// Thresholds tried at once, as many as 64 registers hold: each pass leaves a sixth of the keys.
constexpr u32 PROBES = 5;
constexpr u32 PARTS = PROBES * WARPS;  // a warp's tally of a probe each

// How many tokens have keys of at least a threshold, and their shares together.
struct Tally {
  u32 count;
  double mass;
};

// The tallies of the thresholds low + step, low + 2·step, …
DEVICE void tally_probes(const float* shares, u32 vocabulary, Order order, u64 low, u64 step, Tally* tallies) {
  SHARED_ARRAY(u32, counts, PARTS);
  SHARED_ARRAY(double, masses, PARTS);
  Tally own[PROBES] = {};
  NO_UNROLL
  for (u32 token = thread_index(); token < vocabulary; token += THREADS) {
    float share = shares[token];
    u64 key = order.key(share, token), threshold = low;
    UNROLL
    for (u32 probe = 0; probe < PROBES; probe++) {
      threshold += step;
      own[probe].count += key >= threshold;
      own[probe].mass += key >= threshold ? (double)share : 0.0;
    }
  }
  UNROLL
  for (u32 probe = 0; probe < PROBES; probe++) {
    u32 count = warp_sum(own[probe].count);
    double mass = warp_sum(own[probe].mass);
    if (lane_index() == 0) counts[probe * WARPS + warp_index()] = count, masses[probe * WARPS + warp_index()] = mass;
  }
  block_barrier();
  u32 probe = warp_index(), place = probe * WARPS + lane_index();
  if (probe < PROBES) {
    Tally sum = {warp_sum(counts[place]), warp_sum(masses[place])};
    if (lane_index() == 0) tallies[probe] = sum;
  }
  block_barrier();
}

// The highest threshold whose tokens are enough: at least `count` of them, and `mass` together. `all` are the tokens
// from `floor` on, which are enough. The same for every thread.
DEVICE u64 highest_threshold(const float* shares, u32 vocabulary, Order order, u64 floor, u32 all, u32 count,
                             double mass) {
  SHARED_ARRAY(Tally, tallies, PROBES);
  u64 low = floor, high = order.above_all();
  u32 count_low = all, count_high = 0;
  // With one token between them, the two thresholds keep sets that differ in it alone. Masses that are no numbers are
  // never enough, and end where nothing lies between.
  while (high - low > 1 && count_low > count_high + 1) {
    u64 step = ceiling_divide(high - low, (u64)(PROBES + 1));
    tally_probes(shares, vocabulary, order, low, step, tallies);
    u64 base = low;
    for (u32 probe = 0; probe < PROBES; probe++) {
      Tally tally = tallies[probe];
      u64 threshold = base + (probe + 1) * step;
      if (threshold >= high) break;
      if (tally.count >= count && tally.mass >= mass) {
        low = threshold;
        count_low = tally.count;
      } else {
        high = threshold;
        count_high = tally.count;
      }
    }
    block_barrier();
  }
  return low;
}

// limits[B]: the key of the last token that top-k and top-p keep, from logits[B, V] and lse[B]; shares[B, V] is work
// space.
KERNEL LAUNCH_BOUNDS(THREADS, 1) sample_limit(const float* logits, const float* lse, float* shares, u64* limits,
                                              u32 vocabulary, float scale, u32 top_k, float top_p, u32 index_bits) {
  SHARED_ARRAY(Tally, whole, PROBES);
  Row row = {logits + (u64)block_x() * vocabulary, vocabulary, scale, lse[block_x()]};
  Order order = {index_bits};
  shares += (u64)block_x() * vocabulary;
  for (u32 token = thread_index(); token < vocabulary; token += THREADS) shares[token] = row.share(token);
  u64 limit = 0;
  u32 kept = vocabulary;
  if (top_k > 0 && top_k < vocabulary) {
    limit = highest_threshold(shares, vocabulary, order, 0, vocabulary, top_k, 0.0);
    kept = top_k;
  }
  if (top_p < 1.0f) {
    tally_probes(shares, vocabulary, order, limit, 0, whole);
    limit = highest_threshold(shares, vocabulary, order, limit, kept, 1, (double)top_p * whole[0].mass);
  }
  if (thread_index() == 0) limits[block_x()] = limit;
}
REGISTER_KERNEL(sample_limit)

// ---- the draw: candidates side by side in the order of the vocabulary ----

// The lane at which `left` runs out when the lanes' shares are taken from it in order; where rounding leaves a crumb,
// the last lane that has any; none (32) where no lane has.
struct Pick {
  int lane;
  bool ran_out;
  double left;  // before that lane, or behind all

  // What to take from the parts of that lane; where it did not run out, more than they hold.
  MEMBER double inside() const { return ran_out ? left : (double)infinity(); }
};

DEVICE Pick warp_pick(double share, double left) {
  Pick pick = {warp_lanes, false, left};
  for (int lane = 0; lane < warp_lanes; lane++) {
    double other = warp_shuffle(share, lane);
    if (pick.ran_out) continue;
    pick.ran_out = pick.left - other < 0;
    if (pick.ran_out || other > 0) pick.lane = lane;
    if (!pick.ran_out) pick.left -= other;
  }
  return pick;
}

// A row with what its filters keep.
struct Candidates {
  Row row;
  Order order;
  u64 limit;
  float least;

  MEMBER double share(u32 token) const {
    if (token >= row.vocabulary) return 0;
    float share = row.share(token);
    return order.key(share, token) < limit || share < least ? 0.0 : (double)share;
  }

  // Σ of `count` neighbours, in their order.
  MEMBER double sum(u32 first, u32 count) const {
    double sum = 0;
    for (u32 token = first; token < first + count; token++) sum += share(token);
    return sum;
  }
};

DEVICE float largest_share(const Row& row) {
  SHARED_ARRAY(float, partial, WARPS);
  float largest = 0;
  for (u32 token = thread_index(); token < row.vocabulary; token += THREADS)
    largest = maximum(largest, row.share(token));
  return block_maximum(largest, partial);
}

// The token where left = uniform · Σ runs out, from the sums of the pieces; one warp's work. 0 where there is no
// candidate.
DEVICE u32 draw(const Candidates& candidates, const double* sums, u32 pieces, double uniform) {
  double total = 0;
  for (u32 piece = 0; piece < pieces; piece++) total += sums[piece];
  u32 chosen = pieces;
  Pick pick = {warp_lanes, false, uniform * total};
  for (u32 first = 0; first < pieces && !pick.ran_out; first += warp_lanes) {
    u32 piece = first + lane_index();
    pick = warp_pick(piece < pieces ? sums[piece] : 0, pick.left);
    if (pick.lane < warp_lanes) chosen = first + pick.lane;
  }
  if (chosen == pieces) return 0;
  u32 token = chosen * PIECE;
  pick = warp_pick(candidates.sum(token + lane_index() * warp_lanes, warp_lanes), pick.inside());
  token += pick.lane * warp_lanes;
  return token + warp_pick(candidates.share(token + lane_index()), pick.inside()).lane;
}

// tokens[B] and logp[B], from logits[B, V], lse[B], limits[B] (none: all are kept), seeds[B] and counters[B]. Shared
// memory holds an f64 a piece.
KERNEL LAUNCH_BOUNDS(THREADS, 1) sample_draw(const float* logits, const float* lse, const u64* limits, const u64* seeds,
                                             const u64* counters, u32* tokens, float* logp, u32 vocabulary, float scale,
                                             float min_p, u32 index_bits) {
  DYNAMIC_SHARED(shared);
  double* sums = (double*)shared;
  Row row = {logits + (u64)block_x() * vocabulary, vocabulary, scale, lse[block_x()]};
  float least = min_p > 0 ? rounded_product(largest_share(row), min_p) : 0.0f;
  Candidates candidates = {row, {index_bits}, limits ? limits[block_x()] : 0, least};
  for (u32 piece = warp_index(); piece < row.pieces(); piece += WARPS) {
    double sum = 0;
    for (u32 step = 0; step < PIECE; step += warp_lanes) sum += candidates.share(piece * PIECE + step + lane_index());
    sum = warp_sum(sum);
    if (lane_index() == 0) sums[piece] = sum;
  }
  block_barrier();
  if (warp_index() > 0) return;
  u32 token = draw(candidates, sums, row.pieces(), philox_uniform(seeds[block_x()], counters[block_x()]));
  if (lane_index() > 0) return;
  tokens[block_x()] = token;
  logp[block_x()] = row.log_share(token);
}
REGISTER_KERNEL(sample_draw)

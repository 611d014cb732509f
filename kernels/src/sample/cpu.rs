//! Sampling on the CPU.

use super::Sampling;
use crate::Stream;
use crate::cpu::parallel::{Disjoint, for_each_rows};
use crate::cpu::scratch;
use crate::cpu::simd::{exp, multiversion};
use crate::cpu::softmax::RunningSoftmax;
use crate::philox;

/// Shares that are passed over at once on the way to the token that is drawn.
const BLOCK: usize = 256;

pub(super) fn forward(
    stream: &Stream,
    vocabulary: usize,
    sampling: &Sampling,
    logits: &[f32],
    (seeds, counters): (&[u64], &[u64]),
    tokens: &mut [u32],
    logp: &mut [f32],
) {
    let rows = tokens.len();
    let (tokens, logp) = (Disjoint::new(tokens), Disjoint::new(logp));
    for_each_rows(stream, rows, 40 * vocabulary, |range| {
        for row in range {
            let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
            let (token, value) = sample_row(sampling, logits, philox::uniform(seeds[row], counters[row]));
            // SAFETY: rows are disjoint.
            unsafe { (tokens.range(row..row + 1)[0], logp.range(row..row + 1)[0]) = (token as u32, value) };
        }
    });
}

/// The token that `uniform` in [0, 1) points at, and its log-probability.
fn sample_row(sampling: &Sampling, logits: &[f32], uniform: f64) -> (usize, f32) {
    let greedy = sampling.temperature == 0.0;
    let scale = if greedy { 1.0 } else { 1.0 / sampling.temperature };
    let lse = RunningSoftmax::of(logits, scale).log_sum_exp();
    let token = if greedy { argmax(logits) } else { draw(sampling, logits, scale, lse, uniform) };
    (token, logits[token] * scale - lse)
}

/// The lowest index of the largest value.
fn argmax(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

fn draw(sampling: &Sampling, logits: &[f32], scale: f32, lse: f32, uniform: f64) -> usize {
    scratch::with(logits.len(), |shares| {
        to_shares(logits, scale, lse, shares);
        filter(sampling, shares);
        let sums: Vec<f64> = shares.chunks(BLOCK).map(sum_of_block).collect();
        let mut left = uniform * sums.iter().sum::<f64>();
        let passed = sums.iter().take_while(|&&sum| {
            let is_passed = left >= sum;
            left -= if is_passed { sum } else { 0.0 };
            is_passed
        });
        let first = passed.count() * BLOCK;
        for (place, &share) in shares[first.min(shares.len())..].iter().enumerate() {
            left -= f64::from(share);
            if left < 0.0 {
                return first + place;
            }
        }
        // Rounding can leave a crumb past the last candidate; NaN logits have none.
        shares.iter().rposition(|&share| share > 0.0).unwrap_or(0)
    })
}

multiversion! {
    fn sum_of_block(shares: &[f32]) -> f64 {
        let mut sums = [0.0f64; 8];
        let chunks = shares.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..8 {
                sums[lane] += f64::from(chunk[lane]);
            }
        }
        for (sum, &share) in sums.iter_mut().zip(rest) {
            *sum += f64::from(share);
        }
        sums.iter().sum()
    }
}

multiversion! {
    fn to_shares(logits: &[f32], scale: f32, lse: f32, shares: &mut [f32]) {
        for (share, logit) in shares.iter_mut().zip(logits) {
            *share = exp::<M>(logit * scale - lse);
        }
    }
}

/// Sets the shares of tokens that the filters drop to 0.
fn filter(sampling: &Sampling, shares: &mut [f32]) {
    let limits_count = sampling.top_k > 0 && sampling.top_k < shares.len();
    if limits_count || sampling.top_p < 1.0 {
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]).then(a.cmp(&b)));
        let mut kept = if limits_count { sampling.top_k } else { shares.len() };
        if sampling.top_p < 1.0 {
            kept = nucleus(order[..kept].iter().map(|&token| f64::from(shares[token])), f64::from(sampling.top_p));
        }
        order[kept..].iter().for_each(|&token| shares[token] = 0.0);
    }
    if sampling.min_p > 0.0 {
        let least = shares.iter().copied().fold(0.0, f32::max) * sampling.min_p;
        shares.iter_mut().filter(|share| **share < least).for_each(|share| *share = 0.0);
    }
}

/// How many of the descending shares it takes to hold `top_p` of their sum; at least one.
fn nucleus(shares: impl Iterator<Item = f64> + Clone, top_p: f64) -> usize {
    let wanted = top_p * shares.clone().sum::<f64>();
    let mut held = 0.0;
    let before = shares.take_while(|share| {
        held += share;
        held < wanted
    });
    before.count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 3.0, 2.0, -4.0];

    fn candidates(sampling: Sampling) -> Vec<usize> {
        let draws = (0..400).map(|step| sample_row(&sampling, &LOGITS, f64::from(step) / 400.0).0);
        let mut seen: Vec<usize> = draws.collect();
        seen.dedup();
        seen
    }

    #[test]
    fn filters_keep_what_they_say() {
        let check = |sampling, expected: &[usize]| assert_eq!(candidates(sampling), expected, "{sampling:?}");
        let all = Sampling::at(1.0);
        check(all, &[0, 1, 2, 3]); // the last one holds less than one draw in 400
        check(Sampling::GREEDY, &[1]);
        check(Sampling { top_k: 1, ..all }, &[1]);
        check(Sampling { top_k: 3, ..all }, &[1, 2, 3]);
        check(Sampling { top_p: 0.39, ..all }, &[1]);
        check(Sampling { top_p: 0.79, ..all }, &[1, 2]);
        check(Sampling { top_p: 0.0, ..all }, &[1]);
        check(Sampling { min_p: 0.9, ..all }, &[1, 2]);
        check(Sampling { min_p: 0.2, ..all }, &[1, 2, 3]);
        check(Sampling { top_k: 3, top_p: 0.8, ..all }, &[1, 2]);
    }

    #[test]
    fn shares_of_draws_are_the_probabilities() {
        let draws = 100_000;
        let mut counts = [0usize; 5];
        for step in 0..draws {
            counts[sample_row(&Sampling::at(0.5), &LOGITS, f64::from(step) / f64::from(draws)).0] += 1;
        }
        let total: f64 = LOGITS.iter().map(|&logit| f64::from(logit / 0.5).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let expected = f64::from(logit / 0.5).exp() / total;
            assert!((*count as f64 / f64::from(draws) - expected).abs() < 1e-4);
        }
    }
}

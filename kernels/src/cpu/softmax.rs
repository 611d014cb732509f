//! Softmax of a long row taken in pieces: the running maximum, sum and entropy.

use super::simd::{LANES, exp, fold_lanes, max, multiversion, padded};

/// Columns taken at once; the log-probabilities of training and of sampling add up in the same pieces.
pub(crate) const PIECE: usize = 1024;

/// What has been seen of a row of logits: `max`, Σ e^(l - max), and Σ e^(l - max)·(l - max).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningSoftmax {
    max: f32,
    sum: f64,
    weighted: f64,
}

impl RunningSoftmax {
    pub(crate) fn new() -> RunningSoftmax {
        RunningSoftmax { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 }
    }

    /// A whole row, piece by piece.
    pub(crate) fn of(logits: &[f32], scale: f32) -> RunningSoftmax {
        let mut running = RunningSoftmax::new();
        logits.chunks(PIECE).for_each(|piece| running.push(piece, scale));
        running
    }

    /// Takes the next piece of logits, each times `scale`.
    pub(crate) fn push(&mut self, piece: &[f32], scale: f32) {
        let largest = max_of(piece) * scale;
        if largest > self.max {
            if self.sum > 0.0 {
                let step = f64::from(self.max) - f64::from(largest);
                self.weighted = step.exp() * (self.weighted + step * self.sum);
                self.sum *= step.exp();
            }
            self.max = largest;
        }
        let [sum, weighted] = moments(piece, scale, self.max);
        self.sum += f64::from(sum);
        self.weighted += f64::from(weighted);
    }

    /// log Σ eˡ.
    pub(crate) fn log_sum_exp(&self) -> f32 {
        (f64::from(self.max) + self.sum.ln()) as f32
    }

    /// -Σ p·log p.
    pub(crate) fn entropy(&self) -> f32 {
        (self.sum.ln() - self.weighted / self.sum) as f32
    }
}

multiversion! {
    fn max_of(values: &[f32]) -> f32 {
        max(values)
    }
}

multiversion! {
    /// Σ e^x and Σ e^x·x of x = scale·value - shift.
    fn moments(values: &[f32], scale: f32, shift: f32) -> [f32; 2] {
        let (mut sums, mut weighted) = ([0.0f32; LANES], [0.0f32; LANES]);
        let chunks = values.chunks_exact(LANES);
        let rest = padded(chunks.remainder());
        for chunk in chunks.chain([&rest[..]]) {
            for lane in 0..LANES {
                let x = scale * chunk[lane] - shift;
                let power = exp::<M>(x);
                sums[lane] += power;
                // Where the power is 0 its logarithm may be infinite.
                weighted[lane] += if power == 0.0 { 0.0 } else { power * x };
            }
        }
        [fold_lanes(sums), fold_lanes(weighted)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_to_the_whole() {
        let logits: Vec<f32> =
            (0..2500).map(|index| 9.0 * (index as f32 * 0.37).sin() - index as f32 * 0.001).collect();
        let scale = 0.7;
        let running = RunningSoftmax::of(&logits, scale);
        let exact: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) * f64::from(scale)).collect();
        let lse = exact.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let entropy: f64 = exact.iter().map(|logit| (logit - lse).exp() * (lse - logit)).sum();
        assert!((f64::from(running.log_sum_exp()) - lse).abs() < 1e-5);
        assert!((f64::from(running.entropy()) - entropy).abs() < 1e-5);
    }

    #[test]
    fn a_nan_is_not_hidden() {
        assert!(RunningSoftmax::of(&[0.0, f32::NAN, 1.0], 1.0).log_sum_exp().is_nan());
    }
}

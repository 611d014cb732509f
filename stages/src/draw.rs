//! Counter-based random draws: a draw depends on what it is for, never on how many were made before it.

/// A generator keyed by (seed, stream, row, use). Two draws with equal keys are equal on every machine and in every order.
#[derive(Clone)]
pub struct Draw {
    hasher: blake3::Hasher,
}

impl Draw {
    /// `seed` is the recipe's, `stream` tells nodes of one kind apart (`kind` or `kind/stream`).
    pub fn new(seed: u64, stream: &str) -> Draw {
        Draw { hasher: blake3::Hasher::new_derive_key("decoct draw 1") }
            .with(&seed.to_le_bytes())
            .with(stream.as_bytes())
    }

    /// The same generator, narrowed to one row, one use or one index.
    pub fn of(&self, part: &str) -> Draw {
        self.clone().with(part.as_bytes())
    }

    pub fn at(&self, index: u64) -> Draw {
        self.clone().with(&index.to_le_bytes())
    }

    /// 64 uniform bits.
    pub fn bits(&self) -> u64 {
        u64::from_le_bytes(self.hasher.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..n. The bias of a 64-bit multiply-shift is below n / 2^64.
    pub fn below(&self, n: usize) -> usize {
        assert!(n > 0, "a draw needs something to draw from");
        ((self.bits() as u128 * n as u128) >> 64) as usize
    }

    pub fn chance(&self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// An index drawn in proportion to non-negative `weights`; `None` when they sum to nothing.
    pub fn weighted(&self, weights: &[f64]) -> Option<usize> {
        let total: f64 = weights.iter().sum();
        let mut left = self.unit() * total;
        let last = weights.iter().rposition(|&weight| weight > 0.0)?;
        weights
            .iter()
            .position(|&weight| {
                left -= weight;
                weight > 0.0 && left < 0.0
            })
            .or(Some(last))
    }

    fn with(mut self, part: &[u8]) -> Draw {
        self.hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_its_key_alone() {
        let draw = Draw::new(7, "search");
        assert_eq!(draw.of("row").at(1).bits(), Draw::new(7, "search").of("row").at(1).bits());
        assert_ne!(draw.of("row").at(1).bits(), draw.of("row").at(2).bits());
        assert_ne!(draw.of("ab").of("c").bits(), draw.of("a").of("bc").bits());
        assert_ne!(draw.bits(), Draw::new(8, "search").bits());
    }

    #[test]
    fn weights_are_kept_and_zero_is_never_drawn() {
        let draw = Draw::new(1, "weights");
        let mut counts = [0usize; 3];
        for index in 0..30_000 {
            counts[draw.at(index).weighted(&[1.0, 0.0, 3.0]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[0] as f64 / 30_000.0 - 0.25).abs() < 0.01, "{counts:?}");
        assert_eq!(draw.weighted(&[0.0, 0.0]), None);
    }
}

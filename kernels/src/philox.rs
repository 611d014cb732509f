//! Philox4x32-10: random numbers as a pure function of (key, counter), the same on every device.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Four random words for a 128-bit counter under a 64-bit key.
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut words, mut key) = (counter, key);
    for _ in 0..ROUNDS {
        words = round(words, key);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

fn round(words: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let first = u64::from(words[0]) * u64::from(MULTIPLIERS[0]);
    let second = u64::from(words[2]) * u64::from(MULTIPLIERS[1]);
    let (high, low) = (|product: u64| (product >> 32) as u32, |product: u64| product as u32);
    [high(second) ^ words[1] ^ key[0], low(second), high(first) ^ words[3] ^ key[1], low(first)]
}

/// Four random words for `(seed, counter)`.
pub fn words(seed: u64, counter: u64) -> [u32; 4] {
    block([counter as u32, (counter >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32])
}

/// A uniform number in [0, 1) with 53 random bits for `(seed, counter)`.
pub fn uniform(seed: u64, counter: u64) -> f64 {
    let [low, high, ..] = words(seed, counter);
    ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The published vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
        let check = |counter, key, expected: [u32; 4]| assert_eq!(block(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        check(pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let draws = 20_000;
        let mean = (0..draws).map(|counter| uniform(7, counter)).sum::<f64>() / draws as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..draws).all(|counter| (0.0..1.0).contains(&uniform(9, counter))));
    }
}

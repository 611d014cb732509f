//! How good answers are: the final-response part, shares with intervals, pass@k.

/// Opens the chain of thought in a target text.
pub const THINKING: &str = "## Thinking\n\n";
/// Opens the answer in a target text.
pub const FINAL_RESPONSE: &str = "## Final Response\n\n";

/// The text that a model is taught: thought, then answer.
pub fn target(thought: &str, response: &str) -> String {
    format!("{THINKING}{thought}\n\n{FINAL_RESPONSE}{response}")
}

/// The final-response part of a text that keeps the think-then-answer format: exactly one `## Thinking` before exactly one
/// `## Final Response`. `None` is what PPO rewards with nothing.
pub fn final_response(text: &str) -> Option<&str> {
    let (head, rest) = text.split_once(THINKING.trim_end())?;
    let (thought, response) = rest.split_once(FINAL_RESPONSE)?;
    let again = [THINKING.trim_end(), FINAL_RESPONSE.trim_end()];
    let clean = again
        .iter()
        .all(|heading| !head.contains(heading) && !thought.contains(heading) && !response.contains(heading));
    clean.then_some(response.trim())
}

/// A share of successes with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

/// Wilson's score interval (1927); of nothing nothing is known.
pub fn wilson(successes: usize, count: usize) -> Share {
    if count == 0 {
        return Share { share: f64::NAN, low: 0.0, high: 1.0 };
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (count as f64, successes as f64 / count as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Share { share: p, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// The chance that at least one of `k` answers drawn from `count`, of which `right` are right, is right (Chen 2021, eq. 1).
pub fn pass_at_k(count: usize, right: usize, k: usize) -> f64 {
    assert!(right <= count && 0 < k && k <= count, "pass@{k} of {right} right in {count}");
    1.0 - (0..k).map(|drawn| (count - right).saturating_sub(drawn) as f64 / (count - drawn) as f64).product::<f64>()
}

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub error: f64,
}

impl Estimate {
    /// Of values that are independent of each other, such as one a problem; of nothing nothing is known.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Estimate {
        let sums = |(n, sum, squares): (f64, f64, f64), value: f64| (n + 1.0, sum + value, squares + value * value);
        let (n, sum, squares) = values.into_iter().fold((0.0, 0.0, 0.0), sums);
        let mean = sum / n;
        let variance = (squares - n * mean * mean).max(0.0) / (n - 1.0).max(1.0);
        Estimate { mean, error: (variance / n).sqrt() }
    }

    /// Half of the 95 % interval.
    pub fn half(&self) -> f64 {
        1.96 * self.error
    }
}

/// The chance that of `better + worse` fair coins at least so many fall on one side: the exact sign test, two-sided, which is
/// McNemar's (1947) where each of two answers is right or wrong.
pub fn sign_test(better: usize, worse: usize) -> f64 {
    let (fewer, n) = (better.min(worse), better + worse);
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for heads in 0..=fewer {
        tail += term.exp();
        term += ((n - heads) as f64 / (heads + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_thought_before_one_response_has_the_format() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(final_response(text), expected, "{text:?}");
        check(&target("90*1 200", "121"), Some("121"));
        check("## Thinking\n\n\n\n## Final Response\n\n121\n", Some("121"));
        check("121", None);
        check("## Final Response\n\n121", None);
        check("## Final Response\n\n1## Thinking\n\n2", None);
        check("## Thinking\n\na\n\n## Thinking\n\nb\n\n## Final Response\n\nc", None);
        check("## Thinking\n\na\n\n## Final Response\n\nb## Final Response\n\nc", None);
        check("## Thinking\n\na", None);
    }

    #[test]
    fn intervals_are_wilsons() {
        let check = |successes, count, low: f64, high: f64| {
            let share = wilson(successes, count);
            assert!((share.low - low).abs() < 5e-4 && (share.high - high).abs() < 5e-4, "{share:?}");
        };
        // Newcombe (1998), table I, method 3.
        check(81, 263, 0.2553, 0.3662);
        check(15, 148, 0.0624, 0.1605);
        check(0, 20, 0.0, 0.1611);
        check(29, 29, 0.8830, 1.0);
        assert!(wilson(0, 0).share.is_nan());
    }

    #[test]
    fn pass_at_k_counts_the_draws() {
        let check = |count, right, k, expected: f64| assert!((pass_at_k(count, right, k) - expected).abs() < 1e-12);
        check(4, 1, 1, 0.25);
        check(4, 1, 4, 1.0);
        check(4, 2, 2, 1.0 - 1.0 / 6.0);
        check(5, 0, 3, 0.0);
    }
    /// Chen's estimator is the mean over all ways to draw `k` of the answers, which can be counted out.
    #[test]
    fn pass_at_k_is_the_mean_over_all_draws() {
        for (count, right, k) in [(8u32, 3u32, 2u32), (8, 1, 5), (6, 4, 3), (7, 0, 4), (5, 5, 1), (8, 7, 8)] {
            let draws: Vec<u32> = (0u32..1 << count).filter(|draw| draw.count_ones() == k).collect();
            let hits = draws.iter().filter(|&&draw| draw & ((1 << right) - 1) != 0).count();
            let expected = hits as f64 / draws.len() as f64;
            let found = pass_at_k(count as usize, right as usize, k as usize);
            assert!((found - expected).abs() < 1e-12, "{count} {right} {k}: {found}, counted {expected}");
        }
    }

    #[test]
    fn an_estimate_has_the_error_of_its_mean() {
        let estimate = Estimate::of([0.0, 0.0, 1.0, 0.0]);
        // Mean 1/4, variance 1/4, standard error 1/4.
        assert!((estimate.mean - 0.25).abs() < 1e-12 && (estimate.error - 0.25).abs() < 1e-12, "{estimate:?}");
        assert!((estimate.half() - 0.49).abs() < 1e-12);
        assert_eq!(Estimate::of([0.5; 3]), Estimate { mean: 0.5, error: 0.0 });
        assert!(Estimate::of([]).mean.is_nan());
    }

    #[test]
    fn the_sign_test_is_exact() {
        let check = |better, worse, expected: f64| {
            let (found, turned) = (sign_test(better, worse), sign_test(worse, better));
            assert!((found - expected).abs() < 1e-9 * expected && found == turned, "{better} {worse}: {found}");
        };
        check(0, 0, 1.0);
        check(3, 3, 1.0);
        check(0, 5, 2.0 / 32.0);
        // 2 (1 + 10 + 45) / 1024
        check(2, 8, 112.0 / 1024.0);
        // Agresti (2002), section 10.1: 150 against 86; far tails keep their digits.
        assert!((sign_test(150, 86) - 3.7e-5).abs() < 0.1e-5, "{}", sign_test(150, 86));
        check(0, 1000, 2.0 * 0.5f64.powi(1000));
    }
}

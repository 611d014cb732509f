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
}

//! `verify`: compares a conclusion with the known answer, wrong at the stated rate.

use super::case::{Case, normalised};
use crate::tablets::text::read_counts;

pub fn reply(case: &Case) -> String {
    if case.draw.of("unparsable").chance(case.settings.unparsable) {
        return "I cannot tell whether the two agree.".to_string();
    }
    let agrees = agree(case.text("conclusion"), case.truth());
    let verdict = agrees != case.draw.of("verdict").of(case.text("conclusion")).chance(case.settings.verifier_error);
    if verdict { "True".to_string() } else { "False".to_string() }
}

fn agree(conclusion: &str, truth: &str) -> bool {
    match truth.contains('/').then(|| read_counts(truth)).flatten() {
        Some(counts) => read_counts(conclusion) == Some(counts),
        None => {
            let said = normalised(conclusion);
            said.strip_prefix("the answer is ").unwrap_or(&said) == normalised(truth)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_agree_and_near_misses_do_not() {
        for (conclusion, truth, expected) in [
            ("1, 2 and 1", "1/2/1", true),
            ("1/2/2", "1/2/1", false),
            ("Aspirin.", "aspirin", true),
            ("The answer is aspirin.", "Aspirin", true),
            ("not aspirin", "aspirin", false),
            ("", "1/2/1", false),
        ] {
            assert_eq!(agree(conclusion, truth), expected, "{conclusion} against {truth}");
        }
    }
}

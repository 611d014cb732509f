//! `filter`: labels an exam question; mistaken at the stated rate.

use super::case::Case;
use crate::tablets::text::stem_needs_options;
use serde_json::json;

const LABELS: [&str; 4] = ["pass", "too_simple", "ambiguous_answer", "not_reformulatable"];
/// Words of questions that ask for the exception and so have several right answers.
const EXCEPTIONS: [&str; 5] = ["except", "incorrect", "not true", "false statement", "all of the following"];
/// How real question banks are made up, roughly: what else is said of a question that is no tablet problem.
const FOREIGN_SHARES: [f64; 4] = [0.88, 0.05, 0.04, 0.03];

pub fn reply(case: &Case) -> String {
    let label = match case.draw.of("error").chance(case.settings.label_error) {
        true => LABELS[case.draw.of("label").below(LABELS.len())],
        false => fitting(case),
    };
    json!({"reason": "rehearsal", "label": label}).to_string()
}

fn fitting(case: &Case) -> &'static str {
    if stem_needs_options(case.question()) {
        return "not_reformulatable";
    }
    let Some(problem) = case.tablets() else { return foreign(case) };
    match problem.solutions()[..] {
        [counts] if counts.iter().sum::<u32>() <= 1 => "too_simple",
        [_] => "pass",
        _ => "ambiguous_answer",
    }
}

fn foreign(case: &Case) -> &'static str {
    let folded = case.question().to_lowercase();
    if EXCEPTIONS.iter().any(|words| folded.contains(words)) {
        return "ambiguous_answer";
    }
    LABELS[case.draw.of("foreign").weighted(&FOREIGN_SHARES).expect("the shares are positive")]
}

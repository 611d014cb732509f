//! How tablet problems and their answers are written down, and read again from text that others wrote.

use super::{Counts, Problem};

/// The exam's stem. Its first number stands early and its last one late, so that any 64 consecutive characters hold all five
/// (once punctuation is folded): different problems do not contaminate each other.
pub fn stem(problem: &Problem) -> String {
    let Problem { dose_mg, strengths_mg: [a, b, c], tablets_max } = problem;
    format!("Stock: {a}, {b} and {c} mg tablets. Give {dose_mg} mg with at most {tablets_max}: how many each?")
}

/// A stem that only its options can answer.
pub fn nearest_stem(problem: &Problem) -> String {
    let Problem { dose_mg, strengths_mg: [a, b, c], tablets_max } = problem;
    format!("Stock: {a}, {b} and {c} mg tablets. Which option is nearest to {dose_mg} mg with at most {tablets_max}?")
}

/// Whether a stem is one of those.
pub fn stem_needs_options(text: &str) -> bool {
    let folded = text.to_lowercase();
    folded.contains("tablets") && folded.contains("nearest")
}

/// The open question: short, since it is the student's prompt.
pub fn open_question(problem: &Problem) -> String {
    let Problem { dose_mg, strengths_mg: [a, b, c], tablets_max } = problem;
    format!("Dose {dose_mg} mg, tablets {a} {b} {c} mg, max {tablets_max}?")
}

/// `1/2/1`: the counts in the order of the strengths.
pub fn answer(counts: &Counts) -> String {
    counts.map(|count| count.to_string()).join("/")
}

/// Reads a stem or an open question; anything else is no tablet problem.
pub fn read_problem(text: &str) -> Option<Problem> {
    let folded = text.to_lowercase();
    if !folded.contains("tablets") || stem_needs_options(&folded) {
        return None;
    }
    let [first, second, third, fourth, tablets_max] = numbers(&folded).try_into().ok()?;
    let (dose_mg, strengths_mg) = match folded.trim_start().starts_with("dose") {
        true => (first, [second, third, fourth]),
        false => (fourth, [first, second, third]),
    };
    let falling = strengths_mg[0] > strengths_mg[1] && strengths_mg[1] > strengths_mg[2] && strengths_mg[2] > 0;
    // Bounds of what may be searched, far beyond the family: text comes from anywhere.
    let bounded = dose_mg <= 10_000 && tablets_max <= 30;
    (falling && bounded).then_some(Problem { dose_mg, strengths_mg, tablets_max })
}

/// Reads counts in any of the forms that models write: `1/2/1`, `1, 2 and 1`, `1 x 90 mg, 2 x 70 mg, 1 x 60 mg`.
pub fn read_counts(text: &str) -> Option<Counts> {
    let found = numbers(text);
    match found[..] {
        [x, y, z] => Some([x, y, z]),
        [x, _, y, _, z, _] if text.contains("mg") => Some([x, y, z]),
        _ => None,
    }
}

fn numbers(text: &str) -> Vec<u32> {
    let digits = text.split(|character: char| !character.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBLEM: Problem = Problem { dose_mg: 275, strengths_mg: [90, 70, 60], tablets_max: 5 };

    #[test]
    fn every_form_is_read_back() {
        for text in [stem(&PROBLEM), open_question(&PROBLEM), stem(&PROBLEM).to_uppercase()] {
            assert_eq!(read_problem(&text), Some(PROBLEM), "{text}");
        }
        for text in [
            "What is the capital of France?",
            "tablets 1 2 3",
            "tablets 10 20 30 of 5 max 3",
            "tablets 99999999999 5 4 3 2",
        ] {
            assert_eq!(read_problem(text), None, "{text}");
        }
        assert_eq!(read_problem(&nearest_stem(&PROBLEM)), None);
    }

    #[test]
    fn counts_are_read_under_their_aliases() {
        for (text, expected) in [
            ("1/2/1", Some([1, 2, 1])),
            ("1, 2 and 1", Some([1, 2, 1])),
            ("Give 1 x 90 mg, 2 x 70 mg and 1 x 60 mg.", Some([1, 2, 1])),
            ("1/2", None),
            ("none", None),
        ] {
            assert_eq!(read_counts(text), expected, "{text}");
        }
    }
}

//! Whether an answer is right: free text against a ground truth, and replies to multiple-choice questions against their options.

use crate::kinds::text::fold;

/// Says whether a final response gives the ground truth: the same text once case, white space and punctuation are folded, or the same
/// number; a lead-in such as `the answer is` may stand before it.
pub fn matches_truth(response: &str, truth: &str) -> bool {
    let truth = fold(truth);
    let candidates = [Some(response), stated(response, End::First), stated(response, End::Last)];
    !truth.is_empty() && candidates.into_iter().flatten().any(|answer| same(&fold(answer), &truth))
}

fn same(answer: &str, truth: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    answer == truth || number(answer).is_some_and(|answer| number(truth) == Some(answer))
}

/// Which of several matches counts: both are scored, the better is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    First,
    Last,
}

/// How an option was found in a reply, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `the answer is X`
    Stated,
    /// A lone option letter.
    Letter,
    /// The option's text occurs.
    OptionText,
    /// No text occurs; this one is the most similar.
    Similar,
    /// The reply is empty.
    NoAnswer,
}

impl Rule {
    pub const ALL: [Rule; 5] = [Rule::Stated, Rule::Letter, Rule::OptionText, Rule::Similar, Rule::NoAnswer];

    pub fn word(self) -> &'static str {
        match self {
            Rule::Stated => "answer is X",
            Rule::Letter => "lone letter",
            Rule::OptionText => "option text",
            Rule::Similar => "most similar",
            Rule::NoAnswer => "no answer",
        }
    }
}

/// One option: its letter and its text.
pub type Choice<'a> = (&'a str, &'a str);

/// The letter of the option that a reply chooses, and how that was found. Each rule is tried only when those before found nothing.
pub fn chosen_option<'a>(response: &str, options: &[Choice<'a>], end: End) -> (Option<&'a str>, Rule) {
    if response.trim().is_empty() || options.is_empty() {
        return (None, Rule::NoAnswer);
    }
    let by_statement = || stated(response, end).and_then(|answer| named_option(answer, options));
    let found = by_statement().map(|letter| (letter, Rule::Stated));
    let found = found.or_else(|| Some((lone_letter(response, options, end)?, Rule::Letter)));
    let found = found.or_else(|| Some((occurring_option(response, options, end)?, Rule::OptionText)));
    let (letter, rule) = found.unwrap_or_else(|| (most_similar(response, options), Rule::Similar));
    (Some(letter), rule)
}

const LEAD_INS: [&str; 5] = ["answer is", "answer:", "answer would be", "option is", "conclusion:"];

/// What follows `answer is`, up to the end of its sentence or line.
fn stated(response: &str, end: End) -> Option<&str> {
    let lower = response.to_ascii_lowercase();
    let places = LEAD_INS.iter().flat_map(|lead| lower.match_indices(lead).map(|(at, lead)| at + lead.len()));
    let start = match end {
        End::First => places.min()?,
        End::Last => places.max()?,
    };
    let rest = response[start..].trim_start_matches([':', ' ', '*', '\n']);
    let stop = rest.find(['\n', ';']).unwrap_or(rest.len());
    let stop = rest[..stop].find(". ").unwrap_or(stop);
    let answer = rest[..stop].trim_end_matches(['.', '*', ' ', '!']);
    (!answer.is_empty()).then_some(answer)
}

/// The option that a statement opens with (`B`, `(B) Aspirin`, `option B`) or spells out.
fn named_option<'a>(answer: &str, options: &[Choice<'a>]) -> Option<&'a str> {
    let opening = answer.trim_start_matches(|c: char| !c.is_alphanumeric());
    let opening = opening.strip_prefix("option ").or_else(|| opening.strip_prefix("Option ")).unwrap_or(opening);
    let first: &str = opening.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let spelt = || options.iter().find(|(_, text)| same(&fold(answer), &fold(text)));
    // `A` before a word is an article: then the text decides.
    let letter = options.iter().find(|(letter, _)| first == *letter);
    let article = first == "A" && opening[1..].starts_with(' ') && opening.len() > 2;
    let found = if article { spelt() } else { letter.or_else(spelt) };
    found.map(|(letter, _)| *letter)
}

/// A letter that stands alone: between marks or spaces, not inside a word; `A` and `I` as words of a sentence do not count.
fn lone_letter<'a>(response: &str, options: &[Choice<'a>], end: End) -> Option<&'a str> {
    let mut words = response.split_whitespace().filter_map(|word| {
        let letter = word.trim_matches(|c: char| !c.is_alphanumeric());
        let marked = letter.len() < word.len() || response.trim().len() == letter.len();
        let found = options.iter().find(|(option, _)| *option == letter)?.0;
        (marked || !["A", "I"].contains(&found)).then_some(found)
    });
    match end {
        End::First => words.next(),
        End::Last => words.last(),
    }
}

/// The option whose text occurs as whole words; of several at one place the longest.
fn occurring_option<'a>(response: &str, options: &[Choice<'a>], end: End) -> Option<&'a str> {
    let response = format!(" {} ", fold(response));
    let place = |text: &str| {
        let text = format!(" {} ", fold(text));
        let found = if end == End::First { response.find(&text) } else { response.rfind(&text) };
        found.filter(|_| text.len() > 2).map(|at| (at, text.len()))
    };
    let places = options.iter().filter_map(|(letter, text)| Some((place(text)?, *letter)));
    let best = match end {
        End::First => places.min_by_key(|((at, length), _)| (*at, usize::MAX - length)),
        End::Last => places.max_by_key(|((at, length), _)| (at + length, *length)),
    };
    best.map(|(_, letter)| letter)
}

/// By Jaro and Winkler's similarity of the folded texts; the first of equals.
fn most_similar<'a>(response: &str, options: &[Choice<'a>]) -> &'a str {
    let response = fold(response);
    let similarity = |text: &str| strsim::jaro_winkler(&response, &fold(text));
    let mut best = (f64::NEG_INFINITY, options[0].0);
    for (letter, text) in options {
        let similarity = similarity(text);
        if similarity > best.0 {
            best = (similarity, letter);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_truth_is_matched_in_form_and_in_number() {
        let check = |response: &str, truth: &str, expected: bool| {
            assert_eq!(matches_truth(response, truth), expected, "`{response}` against `{truth}`");
        };
        check("1/2/1", "1/2/1", true);
        check(" 1/2/1.\n", "1/2/1", true);
        check("1/2/2", "1/2/1", false);
        check("The answer is **Aspirin**.", "aspirin", true);
        check("So the answer is: Aspirin. It thins the blood.", "Aspirin", true);
        check("Aspirin is wrong", "aspirin", false);
        check("5.0", "5", true);
        check("-5", "5", false);
        check("", "aspirin", false);
        check("", "", false);
        check("...", "?", false);
    }

    const OPTIONS: [Choice; 4] =
        [("A", "Aspirin"), ("B", "Beta blocker"), ("C", "Calcium"), ("D", "Long-acting beta blocker")];

    #[test]
    fn rules_are_tried_from_the_surest_down() {
        let check = |response: &str, end: End, letter: Option<&str>, rule: Rule| {
            assert_eq!(chosen_option(response, &OPTIONS, end), (letter, rule), "{response}");
        };
        check("I think B. But the answer is C.", End::First, Some("C"), Rule::Stated);
        check("The answer is (B) Beta blocker.", End::First, Some("B"), Rule::Stated);
        check("The answer is A beta blocker, B.", End::First, Some("B"), Rule::Letter);
        check("The answer is calcium.", End::First, Some("C"), Rule::Stated);
        check("The answer is A. No: the answer is B.", End::First, Some("A"), Rule::Stated);
        check("The answer is A. No: the answer is B.", End::Last, Some("B"), Rule::Stated);
        check("D", End::First, Some("D"), Rule::Letter);
        check("A", End::First, Some("A"), Rule::Letter);
        check("A patient needs calcium", End::First, Some("C"), Rule::OptionText);
        check("give a long-acting beta blocker", End::First, Some("D"), Rule::OptionText);
        check("a beta blocker, or calcium", End::First, Some("B"), Rule::OptionText);
        check("a beta blocker, or calcium", End::Last, Some("C"), Rule::OptionText);
        check("asprin", End::First, Some("A"), Rule::Similar);
        check(" \n", End::First, None, Rule::NoAnswer);
    }

    proptest! {
        #[test]
        fn no_reply_panics(response in "\\PC{0,60}", truth in "\\PC{0,20}", lead in "[aA]nswer(:| is) ?\\PC{0,10}") {
            for text in [response.clone(), lead.clone(), format!("{response}{lead}"), format!("{lead}\n{response}")] {
                matches_truth(&text, &truth);
                for end in [End::First, End::Last] {
                    let (letter, rule) = chosen_option(&text, &OPTIONS, end);
                    prop_assert_eq!(letter.is_none(), rule == Rule::NoAnswer);
                }
            }
        }
    }
}

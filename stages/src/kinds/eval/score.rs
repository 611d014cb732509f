//! The figures of an evaluation: shares with Wilson's intervals, paired differences with theirs, and which rule found each option.

use super::{EvalSettings, Matching, Mode};
use crate::answers::{Choice, End, Rule, chosen_option};
use crate::report::{Report, ReportTable};
use crate::train::evaluate::wilson;

/// What one model answered in one mode, in the order of the problems.
pub struct Answered {
    pub label: String,
    pub mode: Mode,
    pub answers: Vec<Answer>,
}

pub struct Answer {
    pub text: String,
    /// The final response.
    pub answer: String,
    pub right: bool,
    /// Whether the text keeps the think-then-answer format.
    pub formatted: bool,
    pub tokens: usize,
    /// Whether it ran into the length limit.
    pub truncated: bool,
}

/// How replies chose among options, by their first match and by their last: the better of the two is the score.
pub struct Choices {
    first: Vec<(bool, Rule)>,
    last: Vec<(bool, Rule)>,
}

impl Choices {
    /// From (reply, options, right letter).
    pub fn of<'a>(replies: impl Iterator<Item = (&'a str, &'a [(String, String)], &'a str)>) -> Choices {
        let mut choices = Choices { first: Vec::new(), last: Vec::new() };
        for (reply, options, right) in replies {
            let options: Vec<Choice> = options.iter().map(|(letter, text)| (letter.as_str(), text.as_str())).collect();
            let choose = |end| {
                let (letter, rule) = chosen_option(reply, &options, end);
                (letter == Some(right), rule)
            };
            choices.first.push(choose(End::First));
            choices.last.push(choose(End::Last));
        }
        choices
    }

    fn best(self) -> Vec<(bool, Rule)> {
        let rights = |matches: &[(bool, Rule)]| matches.iter().filter(|(right, _)| *right).count();
        if rights(&self.last) > rights(&self.first) { self.last } else { self.first }
    }

    /// Whether each reply is right and by which rule.
    pub fn better(self) -> Vec<(bool, Rule)> {
        self.best()
    }
}

pub fn report(settings: &EvalSettings, answered: &[Answered]) -> Report {
    let mut tables = vec![scores(settings, answered)];
    if settings.models.len() > 1 {
        tables.push(differences(settings, answered));
    }
    tables.push(outcomes(answered));
    Report { tables }
}

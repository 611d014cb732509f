//! The figures of an evaluation: shares with Wilson's intervals, paired differences with theirs, and which rule found each option.

use super::{EvalSettings, Matching, Mode, arm};
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
    /// How its option was found, where options are compared.
    pub rule: Option<Rule>,
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

    /// Whether each reply is right and by which rule.
    pub fn better(self) -> Vec<(bool, Rule)> {
        let rights = |matches: &[(bool, Rule)]| matches.iter().filter(|(right, _)| *right).count();
        if rights(&self.last) > rights(&self.first) { self.last } else { self.first }
    }
}

pub fn report(settings: &EvalSettings, answered: &[Answered]) -> Report {
    let mut tables = vec![scores(settings, answered)];
    if settings.models.len() > 1 {
        tables.push(differences(settings, answered));
    }
    tables.push(outcomes(answered));
    if settings.matching == Matching::Options {
        tables.push(rules(answered));
    }
    Report { tables }
}

impl Answered {
    fn count(&self, holds: impl Fn(&Answer) -> bool) -> usize {
        self.answers.iter().filter(|answer| holds(answer)).count()
    }

    fn percent(&self, holds: impl Fn(&Answer) -> bool) -> String {
        format!("{:.1}", 100.0 * self.count(holds) as f64 / self.answers.len() as f64)
    }

    fn mean_tokens(&self) -> String {
        let total: usize = self.answers.iter().map(|answer| answer.tokens).sum();
        format!("{:.1}", total as f64 / self.answers.len() as f64)
    }

    /// `83.3 (81.6–84.9)`: the share that is right, with its 95 % interval.
    fn accuracy(&self) -> String {
        let share = wilson(self.count(|answer| answer.right), self.answers.len());
        format!("{:.1} ({:.1}–{:.1})", 100.0 * share.share, 100.0 * share.low, 100.0 * share.high)
    }
}

/// All answers of one model, a mode each.
fn by_label<'a>(
    settings: &'a EvalSettings,
    answered: &'a [Answered],
) -> impl Iterator<Item = (&'a str, Vec<&'a Answered>)> {
    settings.models.keys().map(|label| (label.as_str(), answered.iter().filter(|set| set.label == *label).collect()))
}

fn mode_title(settings: &EvalSettings, mode: Mode) -> String {
    match mode {
        Mode::Greedy => "greedy %".to_string(),
        Mode::Sampled => format!("T={} %", settings.temperature),
    }
}

fn scores(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let titles = settings.modes.iter().map(|&mode| format!("{} (95 %)", mode_title(settings, mode)));
    let axes = arm::axes(&settings.models);
    let columns = std::iter::once("model").chain(axes.iter().copied()).map(str::to_string);
    let columns = columns.chain(titles).chain(["format %".to_string(), "mean tokens".to_string()]);
    let joined = |sets: &[&Answered], cell: &dyn Fn(&Answered) -> String| {
        sets.iter().map(|set| cell(set)).collect::<Vec<_>>().join(" / ")
    };
    let line = |(label, sets): (&str, Vec<&Answered>)| {
        let arm = &settings.models[label];
        let mut cells = vec![arm.plain_label(label).to_string()];
        cells.extend(arm.place(&axes).into_iter().map(|value| value.unwrap_or_default().to_string()));
        cells.extend(sets.iter().map(|set| set.accuracy()));
        cells.push(joined(&sets, &|set| set.percent(|answer| answer.formatted)));
        cells.push(joined(&sets, &Answered::mean_tokens));
        cells
    };
    let problems = answered.first().map_or(0, |set| set.answers.len());
    let title = format!("accuracy on {problems} problems");
    ReportTable {
        title,
        columns: columns.collect(),
        rows: by_label(settings, answered).map(line).collect(),
        headline: true,
    }
}

/// Each model against the one before it, on the same problems.
fn differences(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let titles = settings.modes.iter().map(|&mode| format!("{} points (95 %)", mode_title(settings, mode)));
    let columns = ["difference".to_string()].into_iter().chain(titles).collect();
    let sets: Vec<(&str, Vec<&Answered>)> = by_label(settings, answered).collect();
    let line = |pair: &[(&str, Vec<&Answered>)]| {
        let [(before, earlier), (label, later)] = pair else { unreachable!("windows of two") };
        let cells = earlier.iter().zip(later).map(|(earlier, later)| paired_difference(later, earlier).shown());
        [format!("{label} − {before}")].into_iter().chain(cells).collect()
    };
    let rows = sets.windows(2).map(line).collect();
    ReportTable { title: "paired differences".to_string(), columns, rows, headline: true }
}

/// A mean difference and half of its 95 % interval.
#[derive(Debug, PartialEq)]
struct Difference {
    mean: f64,
    half: f64,
}

impl Difference {
    fn shown(&self) -> String {
        let points = |share: f64| 100.0 * share;
        format!(
            "{:+.1} ({:+.1} to {:+.1})",
            points(self.mean),
            points(self.mean - self.half),
            points(self.mean + self.half)
        )
    }
}

/// Over dᵢ = rightᵢ(later) − rightᵢ(earlier): the mean, and 1.96 standard errors of a mean of paired differences.
fn paired_difference(later: &Answered, earlier: &Answered) -> Difference {
    let differences = later
        .answers
        .iter()
        .zip(&earlier.answers)
        .map(|(l, e)| f64::from(u8::from(l.right)) - f64::from(u8::from(e.right)));
    let (n, sum, squares) =
        differences.fold((0.0, 0.0, 0.0), |(n, sum, squares), d| (n + 1.0, sum + d, squares + d * d));
    let mean = sum / n;
    let variance = (squares - n * mean * mean) / (n - 1.0_f64).max(1.0);
    Difference { mean, half: 1.96 * (variance / n).sqrt() }
}

/// What became of the answers; what is not right is told apart.
fn outcomes(answered: &[Answered]) -> ReportTable {
    let columns = ["model", "mode", "right", "wrong", "no answer", "no format", "cut off"].map(str::to_string).to_vec();
    let line = |set: &Answered| {
        let none = set.count(|answer| answer.answer.is_empty());
        let right = set.count(|answer| answer.right);
        let counts = [
            right,
            set.answers.len() - right - none,
            none,
            set.count(|answer| !answer.formatted),
            set.count(|answer| answer.truncated),
        ];
        [set.label.clone(), set.mode.word().to_string()]
            .into_iter()
            .chain(counts.map(|count| count.to_string()))
            .collect()
    };
    ReportTable { title: "answers".to_string(), columns, rows: answered.iter().map(line).collect(), headline: false }
}

/// How options were found, as a share of all answers.
fn rules(answered: &[Answered]) -> ReportTable {
    let titles = Rule::ALL.iter().map(|rule| format!("{} %", rule.word()));
    let columns = ["model", "mode"].map(str::to_string).into_iter().chain(titles).collect();
    let line = |set: &Answered| {
        let shares = Rule::ALL.iter().map(|&rule| set.percent(|answer| answer.rule == Some(rule)));
        [set.label.clone(), set.mode.word().to_string()].into_iter().chain(shares).collect()
    };
    ReportTable {
        title: "how options were found".to_string(),
        columns,
        rows: answered.iter().map(line).collect(),
        headline: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(rights: &str) -> Answered {
        let answer = |right: char| Answer {
            text: String::new(),
            answer: if right == ' ' { String::new() } else { "x".to_string() },
            right: right == '+',
            formatted: right != ' ',
            tokens: 4,
            truncated: false,
            rule: None,
        };
        Answered { label: "m".to_string(), mode: Mode::Greedy, answers: rights.chars().map(answer).collect() }
    }

    #[test]
    fn a_paired_difference_knows_that_the_problems_are_the_same() {
        let difference = paired_difference(&answered("+++-"), &answered("++--"));
        // d = 0, 0, 1, 0: mean 1/4, variance 1/4, standard error 1/4.
        assert!((difference.mean - 0.25).abs() < 1e-12 && (difference.half - 0.49).abs() < 1e-12, "{difference:?}");
        assert_eq!(paired_difference(&answered("+-"), &answered("+-")), Difference { mean: 0.0, half: 0.0 });
    }

    #[test]
    fn no_answer_is_told_apart_from_a_wrong_one() {
        let line = &outcomes(&[answered("++- ")]).rows[0];
        assert_eq!(line[2..], ["2", "1", "1", "1", "0"].map(str::to_string));
        assert_eq!(answered("++--").accuracy(), "50.0 (15.0–85.0)");
    }

    #[test]
    fn the_better_of_first_and_last_match_is_reported() {
        let options = [("A".to_string(), "x".to_string()), ("B".to_string(), "y".to_string())];
        let replies = ["the answer is A. No: the answer is B", "the answer is B"];
        let choices = Choices::of(replies.iter().map(|reply| (*reply, options.as_slice(), "B")));
        assert_eq!(choices.better(), [(true, Rule::Stated), (true, Rule::Stated)]);
    }
}

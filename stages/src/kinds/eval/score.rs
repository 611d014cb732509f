//! The figures of an evaluation: shares with Wilson's intervals, pass@k with intervals over problems, paired differences with theirs,
//! and which rule found each option.

use super::paired::{Comparison, pairs, tests};
use super::way::Way;
use super::{EvalSettings, Matching, arm};
use crate::answers::{Choice, End, Rule, chosen_option};
use crate::report::{Report, ReportTable};
use crate::train::evaluate::{Estimate, pass_at_k, wilson};
use indexmap::IndexMap;

/// What one model answered in one way, in the order of the problems; the answers to one problem beside each other.
pub struct Answered {
    pub label: String,
    pub way: Way,
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

#[cfg(test)]
impl Answer {
    /// One of which only the verdict matters.
    pub fn judged(right: bool) -> Answer {
        let (text, answer) = (String::new(), "x".to_string());
        Answer { text, answer, right, formatted: true, tokens: 4, truncated: false, rule: None }
    }
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
    if settings.samples > 1 {
        tables.push(passes(settings, answered));
    }
    if settings.models.len() > 1 && (settings.samples > 1 || settings.baseline.is_some()) {
        tables.push(tests(settings, answered));
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

    /// pass@k of each problem.
    pub fn passes(&self, k: usize) -> Vec<f64> {
        let right = |answers: &[Answer]| answers.iter().filter(|answer| answer.right).count();
        self.answers.chunks(self.way.samples).map(|answers| pass_at_k(answers.len(), right(answers), k)).collect()
    }

    /// The mean over problems, with the 95 % interval that treats the problem as the unit.
    fn pass(&self, k: usize) -> String {
        let estimate = Estimate::of(self.passes(k));
        let (low, high) = (estimate.mean - estimate.half(), estimate.mean + estimate.half());
        format!("{:.1} ({:.1}–{:.1})", 100.0 * estimate.mean, 100.0 * low.max(0.0), 100.0 * high.min(1.0))
    }

    /// What the table of scores tells: one share, or the ends of pass@k.
    fn scores(&self) -> Vec<String> {
        match self.way.samples {
            1 => vec![self.accuracy()],
            samples => vec![self.pass(1), self.pass(samples)],
        }
    }
}

/// All answers of one model, a way each.
fn by_label<'a>(
    settings: &'a EvalSettings,
    answered: &'a [Answered],
) -> impl Iterator<Item = (&'a str, Vec<&'a Answered>)> {
    settings.models.keys().map(|label| (label.as_str(), answered.iter().filter(|set| set.label == *label).collect()))
}

/// Titles of what each way is scored by, in `unit`.
fn titles(settings: &EvalSettings, unit: &str) -> Vec<String> {
    let of_way = |way: Way| match way.samples {
        1 => vec![format!("{} {unit}", way.title())],
        samples => [1, samples].map(|k| format!("{} pass@{k} {unit}", way.title())).to_vec(),
    };
    Way::all(settings).into_iter().flat_map(of_way).collect()
}

fn scores(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let axes = arm::axes(&settings.models);
    let columns = std::iter::once("model").chain(axes.iter().copied()).map(str::to_string);
    let columns =
        columns.chain(titles(settings, "% (95 %)")).chain(["format %".to_string(), "mean tokens".to_string()]);
    let joined = |sets: &[&Answered], cell: &dyn Fn(&Answered) -> String| {
        sets.iter().map(|set| cell(set)).collect::<Vec<_>>().join(" / ")
    };
    let line = |(label, sets): (&str, Vec<&Answered>)| {
        let arm = &settings.models[label];
        let mut cells = vec![arm.plain_label(label).to_string()];
        cells.extend(arm.place(&axes).into_iter().map(|value| value.unwrap_or_default().to_string()));
        cells.extend(sets.iter().flat_map(|set| set.scores()));
        cells.push(joined(&sets, &|set| set.percent(|answer| answer.formatted)));
        cells.push(joined(&sets, &Answered::mean_tokens));
        cells
    };
    let problems = answered.first().map_or(0, |set| set.answers.len() / set.way.samples);
    let title = format!("accuracy on {problems} problems");
    ReportTable {
        title,
        columns: columns.collect(),
        rows: by_label(settings, answered).map(line).collect(),
        headline: true,
    }
}

/// pass@k as far as the answers reach.
fn passes(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let sampled = || answered.iter().filter(|set| set.way.samples > 1);
    let draws = sampled().next().map_or_else(Vec::new, |set| set.way.draws());
    let titles = draws.iter().map(|k| format!("pass@{k} % (95 %)"));
    let columns = ["model", "answers"].map(str::to_string).into_iter().chain(titles).collect();
    let line = |set: &Answered| {
        let shares = draws.iter().map(|&k| set.pass(k));
        [set.label.clone(), set.way.title()].into_iter().chain(shares).collect()
    };
    let title = format!("pass@k of {} answers to a problem", settings.samples);
    ReportTable { title, columns, rows: sampled().map(line).collect(), headline: false }
}

/// Each model against the one that it is compared with, on the same problems.
fn differences(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let columns = ["difference".to_string()].into_iter().chain(titles(settings, "points (95 %)")).collect();
    let sets: IndexMap<&str, Vec<&Answered>> = by_label(settings, answered).collect();
    let line = |(label, before): (&str, &str)| {
        let cells = sets[label].iter().zip(&sets[before]).flat_map(|(later, earlier)| compared(later, earlier));
        [format!("{label} − {before}")].into_iter().chain(cells).collect()
    };
    let rows = pairs(settings).into_iter().map(line).collect();
    ReportTable { title: "paired differences".to_string(), columns, rows, headline: true }
}

/// Over dᵢ = passᵢ(later) − passᵢ(earlier): the mean, and 1.96 standard errors of a mean of paired differences.
fn compared(later: &Answered, earlier: &Answered) -> Vec<String> {
    let draws = if later.way.samples > 1 { vec![1, later.way.samples] } else { vec![1] };
    draws.into_iter().map(|k| Comparison::new(&later.passes(k), &earlier.passes(k)).shown()).collect()
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
        [set.label.clone(), set.way.word()].into_iter().chain(counts.map(|count| count.to_string())).collect()
    };
    ReportTable { title: "answers".to_string(), columns, rows: answered.iter().map(line).collect(), headline: false }
}

/// How options were found, as a share of all answers.
fn rules(answered: &[Answered]) -> ReportTable {
    let titles = Rule::ALL.iter().map(|rule| format!("{} %", rule.word()));
    let columns = ["model", "mode"].map(str::to_string).into_iter().chain(titles).collect();
    let line = |set: &Answered| {
        let shares = Rule::ALL.iter().map(|&rule| set.percent(|answer| answer.rule == Some(rule)));
        [set.label.clone(), set.way.word()].into_iter().chain(shares).collect()
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
    use crate::settings::{Reader, Settings};
    use serde_json::{Value, json};

    fn answered(rights: &str) -> Answered {
        sampled(rights, 1)
    }

    fn sampled(rights: &str, samples: usize) -> Answered {
        let answer = |right: char| match right {
            ' ' => Answer { answer: String::new(), formatted: false, ..Answer::judged(false) },
            right => Answer::judged(right == '+'),
        };
        let settings = settings(json!({"modes": ["sampled"], "samples": samples}));
        let way = Way::all(&settings)[0];
        Answered { label: "m".to_string(), way, answers: rights.chars().map(answer).collect() }
    }

    fn settings(more: Value) -> EvalSettings {
        let mut fields = json!({"input": "x", "models": {"m": "m"}}).as_object().unwrap().clone();
        fields.extend(more.as_object().unwrap().clone());
        EvalSettings::read_fields(&fields, &mut Reader::default()).unwrap()
    }

    #[test]
    fn a_paired_difference_knows_that_the_problems_are_the_same() {
        // d = 0, 0, 1, 0: mean 1/4, standard error 1/4.
        assert_eq!(compared(&answered("+++-"), &answered("++--")), ["+25.0 (-24.0 to +74.0)"]);
        assert_eq!(compared(&answered("+-"), &answered("+-")), ["+0.0 (+0.0 to +0.0)"]);
    }

    #[test]
    fn several_answers_to_a_problem_count_as_one_problem() {
        // Three problems of four answers: 1/4, 1, 0 right.
        let set = sampled("-+--++++----", 4);
        assert_eq!(set.passes(1), [0.25, 1.0, 0.0]);
        assert_eq!(set.passes(2), [0.5, 1.0, 0.0]);
        assert_eq!(set.passes(4), [1.0, 1.0, 0.0]);
        // Mean 5/12, squared deviations 1/36 + 49/144 + 25/144 = 78/144, error √(78/144 / 2 / 3); 2/3, error 1/3.
        assert_eq!(set.scores(), ["41.7 (0.0–100.0)", "66.7 (1.3–100.0)"]);
        assert_eq!(sampled("-+++----", 4).scores()[0], "37.5 (0.0–100.0)");
        let before = sampled("-+---+++----", 4);
        assert_eq!(compared(&set, &before), ["+8.3 (-8.0 to +24.7)", "+0.0 (+0.0 to +0.0)"]);
    }

    #[test]
    fn settings_that_are_left_out_are_in_no_key() {
        let value = |more: Value| serde_json::to_value(settings(more)).unwrap();
        let plain = value(json!({}));
        assert_eq!(plain["temperature"], json!(1.0));
        assert!(plain.get("samples").is_none() && plain.get("baseline").is_none(), "{plain}");
        assert_eq!(plain, value(json!({"samples": 1, "temperature": [1], "baseline": null})));
        assert_eq!(value(json!({"temperature": [0.5, 1]}))["temperature"], json!([0.5, 1.0]));
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

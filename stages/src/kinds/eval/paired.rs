//! Models against each other on the same problems. The problem is the unit: answers to one problem are not independent.

use super::EvalSettings;
use super::arm::Arm;
use super::score::Answered;
use super::way::Way;
use crate::report::ReportTable;
use crate::settings::{Reader, Step, nearest_hint};
use crate::train::evaluate::{Estimate, sign_test};
use indexmap::IndexMap;

/// Two labels: the model that is looked at, and the one that it is compared with.
pub type Pair<'a> = (&'a str, &'a str);

/// Each model with the one before it; with a `baseline`, each other one with that, at the same place of the axes.
pub fn pairs(settings: &EvalSettings) -> Vec<Pair<'_>> {
    let labels: Vec<&str> = settings.models.keys().map(String::as_str).collect();
    let Some(baseline) = &settings.baseline else {
        return labels.windows(2).map(|pair| (pair[1], pair[0])).collect();
    };
    let is_baseline = |label: &str| settings.models[label].plain_label(label) == baseline || label == baseline;
    let (bases, others): (Vec<&str>, Vec<&str>) = labels.into_iter().partition(|label| is_baseline(label));
    let base_of = |label: &str| {
        let arm = &settings.models[label];
        let agrees =
            |base: &&&str| settings.models[**base].axes.iter().all(|(axis, at)| arm.axes.get(axis) == Some(at));
        bases.iter().find(agrees).copied()
    };
    others.into_iter().filter_map(|label| Some((label, base_of(label)?))).collect()
}

/// Notes a baseline that is none of the models.
pub fn check(baseline: Option<&str>, models: &IndexMap<String, Arm>, reader: &mut Reader) {
    let Some(baseline) = baseline else { return };
    let plain = || models.iter().map(|(label, arm)| arm.plain_label(label));
    if models.contains_key(baseline) || plain().any(|label| label == baseline) {
        return;
    }
    let (message, hint) =
        (format!("`{baseline}` is none of the labels under `models`"), nearest_hint(baseline, plain()));
    reader.within(Step::Key("baseline".into()), |reader| reader.mistake("unknown-label", message, hint));
}

/// What each problem gains, and how sure that is.
#[derive(Debug, PartialEq)]
pub struct Comparison {
    pub difference: Estimate,
    /// Problems that the later model does better on, and worse.
    pub better: usize,
    pub worse: usize,
}

impl Comparison {
    /// From what two models reach on each problem.
    pub fn new(later: &[f64], earlier: &[f64]) -> Comparison {
        let gains = || later.iter().zip(earlier).map(|(later, earlier)| later - earlier);
        Comparison {
            difference: Estimate::of(gains()),
            better: gains().filter(|&gain| gain > 0.0).count(),
            worse: gains().filter(|&gain| gain < 0.0).count(),
        }
    }

    /// `+2.5 (+0.5 to +4.5)`: the mean in points with its 95 % interval.
    pub fn shown(&self) -> String {
        let Estimate { mean, .. } = self.difference;
        let half = self.difference.half();
        format!("{:+.1} ({:+.1} to {:+.1})", 100.0 * mean, 100.0 * (mean - half), 100.0 * (mean + half))
    }

    fn cells(&self) -> [String; 5] {
        let p = sign_test(self.better, self.worse);
        let p = if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") };
        let error = format!("{:.2}", 100.0 * self.difference.error);
        [self.shown(), error, self.better.to_string(), self.worse.to_string(), p]
    }
}

/// One line of the tests: who against whom, by which answers and measure.
struct Test<'a> {
    pair: Pair<'a>,
    ways: (Way, Way),
    draws: usize,
}

/// Paired tests of every pair: in the same way, and sampled ones also at different temperatures. With a baseline, variants of one
/// pair are also taken together: a problem then counts by its mean over them.
pub fn tests(settings: &EvalSettings, answered: &[Answered]) -> ReportTable {
    let columns =
        ["difference", "answers", "measure", "points (95 %)", "standard error", "better", "worse", "p (sign test)"];
    let mut rows = Vec::new();
    for group in groups(settings) {
        for test in group.iter().flat_map(|&pair| of_pair(settings, pair)) {
            rows.push(test.line(&format!("{} − {}", test.pair.0, test.pair.1), &test.compare(answered)));
        }
        if let (Some(_), [first, _, ..]) = (&settings.baseline, &group[..]) {
            let plain = |label: &str| settings.models[label].plain_label(label).to_string();
            let title = format!("{} − {}, mean of {}", plain(first.0), plain(first.1), group.len());
            for test in of_pair(settings, *first) {
                rows.push(test.line(&title, &test.compare_mean(&group, answered)));
            }
        }
    }
    ReportTable {
        title: "paired tests, by problem".to_string(),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        headline: false,
    }
}

/// Pairs that are variants of one pair.
fn groups(settings: &EvalSettings) -> Vec<Vec<Pair<'_>>> {
    let plain = |label: &str| settings.models[label].plain_label(label).to_string();
    let mut groups: IndexMap<(String, String), Vec<Pair>> = IndexMap::new();
    for pair in pairs(settings) {
        groups.entry((plain(pair.0), plain(pair.1))).or_default().push(pair);
    }
    groups.into_values().collect()
}

fn of_pair<'a>(settings: &EvalSettings, pair: Pair<'a>) -> Vec<Test<'a>> {
    let ways = Way::all(settings);
    let both = ways.iter().flat_map(|&later| ways.iter().map(move |&earlier| (later, earlier)));
    let comparable = both.filter(|(later, earlier)| later.mode == earlier.mode);
    let tests = |ways: (Way, Way)| {
        let measures = if ways.0.samples > 1 { vec![1, ways.0.samples] } else { vec![1] };
        measures.into_iter().map(move |draws| Test { pair, ways, draws })
    };
    comparable.flat_map(tests).collect()
}

impl Test<'_> {
    fn compare(&self, answered: &[Answered]) -> Comparison {
        self.compare_mean(&[self.pair], answered)
    }

    fn compare_mean(&self, pairs: &[Pair], answered: &[Answered]) -> Comparison {
        let of = |labels: Vec<&str>, way: Way| {
            mean_over(labels.into_iter().map(|label| set(answered, label, way)), self.draws)
        };
        let later = of(pairs.iter().map(|pair| pair.0).collect(), self.ways.0);
        let earlier = of(pairs.iter().map(|pair| pair.1).collect(), self.ways.1);
        Comparison::new(&later, &earlier)
    }

    fn line(&self, title: &str, comparison: &Comparison) -> Vec<String> {
        let (later, earlier) = (self.ways.0.title(), self.ways.1.title());
        let ways = if later == earlier { later } else { format!("{later} − {earlier}") };
        [title.to_string(), ways, format!("pass@{}", self.draws)].into_iter().chain(comparison.cells()).collect()
    }
}

/// What variants reach on each problem, as a mean over them.
fn mean_over<'a>(variants: impl Iterator<Item = &'a Answered>, draws: usize) -> Vec<f64> {
    let passes: Vec<Vec<f64>> = variants.map(|variant| variant.passes(draws)).collect();
    let problem = |at: usize| passes.iter().map(|variant| variant[at]).sum::<f64>() / passes.len() as f64;
    (0..passes[0].len()).map(problem).collect()
}

fn set<'a>(answered: &'a [Answered], label: &str, way: Way) -> &'a Answered {
    answered.iter().find(|set| set.label == label && set.way == way).expect("every model answers in every way")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use serde_json::{Value, json};

    fn settings(baseline: Value) -> EvalSettings {
        let placed = |node: &str, seed: &str| json!({"node": node, "axes": {"seed": seed}});
        let fields = json!({"input": "x", "baseline": baseline, "modes": ["greedy", "sampled"], "samples": 2, "temperature": [0.5, 1],
            "models": {"base": "base", "sft/seed=0": placed("s", "0"), "sft/seed=1": placed("t", "1"),
                "ppo/seed=0": placed("p", "0"), "ppo/seed=1": placed("q", "1")}});
        EvalSettings::read_fields(fields.as_object().unwrap(), &mut Reader::default()).unwrap()
    }

    #[test]
    fn a_baseline_is_met_at_the_same_place_of_the_axes() {
        let check = |baseline: Value, expected: &[Pair]| assert_eq!(pairs(&settings(baseline)), expected);
        check(json!("sft"), &[("ppo/seed=0", "sft/seed=0"), ("ppo/seed=1", "sft/seed=1")]);
        check(json!("sft/seed=1"), &[("ppo/seed=1", "sft/seed=1")]);
        let others = ["sft/seed=0", "sft/seed=1", "ppo/seed=0", "ppo/seed=1"];
        check(json!("base"), &others.map(|label| (label, "base")));
        check(
            Value::Null,
            &[others[0], others[1], others[2], others[3]].map(|label| {
                let before = ["base", others[0], others[1], others[2]];
                (label, before[others.iter().position(|other| *other == label).unwrap()])
            }),
        );
    }

    #[test]
    fn a_baseline_is_one_of_the_models() {
        let found = |baseline: &str| {
            let mut reader = Reader::default();
            check(Some(baseline), &settings(Value::Null).models, &mut reader);
            reader.mistakes.into_iter().map(|mistake| (mistake.code, mistake.hint)).collect::<Vec<_>>()
        };
        assert_eq!([found("sft"), found("ppo/seed=1"), found("base")], [vec![], vec![], vec![]]);
        assert_eq!(found("sfft")[0].0, "unknown-label");
        assert!(found("sfft")[0].1.as_ref().unwrap().contains("`sft`"));
    }

    #[test]
    fn a_comparison_counts_what_each_problem_gains() {
        let comparison = Comparison::new(&[1.0, 0.5, 0.25, 0.0], &[0.5, 0.5, 0.5, 0.0]);
        assert_eq!((comparison.better, comparison.worse), (1, 1));
        // Gains 1/2, 0, −1/4, 0: mean 1/16, variance (1/4 + 1/16 − 4/256) / 3, error of the mean √(19/256).
        let Estimate { mean, error } = comparison.difference;
        assert!(
            (mean - 0.0625).abs() < 1e-12 && (error - (19.0f64 / 256.0 / 3.0).sqrt()).abs() < 1e-9,
            "{comparison:?}"
        );
        assert_eq!(comparison.cells()[4], "1.000");
    }

    /// Everything that a mean over seeds is made of: the same problem, each seed's pair of answers.
    #[test]
    fn variants_count_together_by_their_mean_on_each_problem() {
        let settings = settings(json!("sft"));
        let set = |label: &str, way: Way, rights: &str| {
            let right = |right: char| super::super::score::Answer::judged(right == '+');
            Answered { label: label.to_string(), way, answers: rights.chars().map(right).collect() }
        };
        let mut answered = Vec::new();
        for way in Way::all(&settings) {
            for (label, greedy, sampled) in [
                ("sft/seed=0", "--", "+---"),
                ("sft/seed=1", "+-", "+---"),
                ("ppo/seed=0", "+-", "++-+"),
                ("ppo/seed=1", "+-", "++--"),
            ] {
                answered.push(set(label, way, if way.samples == 1 { greedy } else { sampled }));
            }
        }
        let table = tests(&settings, &answered);
        let line = |name: &str, ways: &str, measure: &str| {
            let is_it = |row: &&Vec<String>| row[..3] == [name, ways, measure].map(str::to_string);
            table.rows.iter().find(is_it).unwrap_or_else(|| panic!("{name} {ways} {measure}: {:?}", table.rows))[3..]
                .to_vec()
        };
        assert_eq!(
            line("ppo/seed=0 − sft/seed=0", "greedy", "pass@1")[..4],
            ["+50.0 (-48.0 to +148.0)", "50.00", "1", "0"]
        );
        // Greedy gains of the problems: (1 + 0) / 2 and 0; sampled ones (1/2 + 1/2) / 2 and (1/2 + 0) / 2.
        assert_eq!(
            line("ppo − sft, mean of 2", "greedy", "pass@1")[..4],
            ["+25.0 (-24.0 to +74.0)", "25.00", "1", "0"]
        );
        assert_eq!(
            line("ppo − sft, mean of 2", "T=1 − T=0.5", "pass@1")[..4],
            ["+37.5 (+13.0 to +62.0)", "12.50", "2", "0"]
        );
        assert_eq!(line("ppo − sft, mean of 2", "T=1", "pass@2")[..4], ["+25.0 (-24.0 to +74.0)", "25.00", "1", "0"]);
        // Two pairs and their mean: greedy, and pass@1 and pass@2 at two temperatures against two.
        assert_eq!(table.rows.len(), 3 * (1 + 2 * 4));
    }
}

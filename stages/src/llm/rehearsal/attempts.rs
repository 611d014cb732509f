//! Attempts at a tablet problem as steps of a chain, and read back from the steps.

use super::case::Case;
use crate::chain::{Action, Step};
use crate::tablets::{Counts, Leaf, Problem};

/// The title of a first thinking step that tells a leap to another first choice from a step in order.
pub const EXPLORING: &str = "Exploring New Paths";
const TITLES: [&str; 3] = ["Largest strength first", "Next strength", "Smallest strength"];

/// One attempt as it was written: a line for each strength, `90*3 5` (strength, count, what is left).
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub title: String,
    pub lines: [String; 3],
    pub counts: Counts,
}

/// The three thinking steps of an attempt. A slip miscounts what is left in the end.
pub fn thinking(problem: &Problem, leaf: &Leaf, title: Option<&str>, slip: bool) -> Vec<Step> {
    let mut left_mg = leaf.left_mg;
    left_mg[2] += if slip { 5 } else { 0 };
    let line = |index: usize| format!("{}*{} {}", problem.strengths_mg[index], leaf.counts[index], left_mg[index]);
    let titles = [title.unwrap_or(TITLES[0]), TITLES[1], TITLES[2]];
    (0..3).map(|index| Step::thinking(titles[index], line(index))).collect()
}

/// What the attempt comes to, and the check of it.
pub fn ending(case: &Case, problem: &Problem, counts: &Counts) -> [Step; 2] {
    [Step::conclusion(case.written(counts)), check(problem, counts)]
}

/// Recounts and compares with the dose.
pub fn check(problem: &Problem, counts: &Counts) -> Step {
    let Problem { dose_mg, strengths_mg: [a, b, c], .. } = problem;
    let ([x, y, z], sum_mg) = (counts, problem.dose_of(counts));
    let verdict = match sum_mg == u64::from(*dose_mg) {
        true => "the dose is met".to_string(),
        false => format!("the dose is {dose_mg}, so {} are missing", u64::from(*dose_mg).saturating_sub(sum_mg)),
    };
    Step::verification(format!("{a}*{x} + {b}*{y} + {c}*{z} = {sum_mg}: {verdict}."))
}

/// Every complete attempt in a chain's thinking steps, in order.
pub fn attempts(steps: &[Step]) -> Vec<Attempt> {
    let thinking = steps.iter().filter(|step| step.action == Action::InnerThinking);
    let lines: Vec<(&Step, u32)> = thinking.filter_map(|step| Some((step, count_of(&step.content)?))).collect();
    lines.chunks_exact(3).map(attempt).collect()
}

fn attempt(lines: &[(&Step, u32)]) -> Attempt {
    let line = |index: usize| lines[index].0.content.clone();
    Attempt {
        title: lines[0].0.title.clone().unwrap_or_default(),
        lines: [line(0), line(1), line(2)],
        counts: [lines[0].1, lines[1].1, lines[2].1],
    }
}

/// The 3 in `90*3 5`.
fn count_of(line: &str) -> Option<u32> {
    let (strength, rest) = line.split_once('*')?;
    let (count, left) = rest.split_once(' ')?;
    strength.parse::<u32>().ok().and(left.parse::<u32>().ok())?;
    count.parse().ok()
}

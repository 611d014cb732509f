//! Poses tablet problems as multiple-choice exam questions, with the blemishes that a real question bank has.

use super::text::{answer, nearest_stem, stem};
use super::{Counts, Problem};
use crate::draw::Draw;
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::settings;
use serde_json::{Map, Value, json};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
/// Well-known problems that every question bank copies from; what two banks share besides chance.
const WELL_KNOWN: usize = 64;

settings! {
    /// Shares of blemished rows in a generated exam.
    pub struct ExamSettings {
        /// Share of questions copied letter for letter from an earlier one.
        pub duplicate: f64 = 0.02,
        /// Share of questions copied from an earlier one with other spacing, case or wording.
        pub near_duplicate: f64 = 0.02,
        /// Share of questions taken from a small stock of well-known ones that other banks (a benchmark) also take from.
        pub well_known: f64 = 0.01,
        /// Share of questions with two right options or none.
        pub ambiguous: f64 = 0.02,
        /// Share of questions that a single tablet answers.
        pub too_simple: f64 = 0.02,
        /// Share of questions that only make sense with their options.
        pub not_reformulatable: f64 = 0.01,
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub question: String,
    /// In the order of the letters.
    pub options: [String; 4],
    /// The right option's index.
    pub right: usize,
}

/// What a question's row holds.
pub const EXAM_COLUMNS: [(&str, ColumnType); 4] = [
    ("question", ColumnType::Text),
    ("options", ColumnType::Json),
    ("answer_idx", ColumnType::Text),
    ("answer", ColumnType::Text),
];

/// `rows` questions as a table of [`EXAM_COLUMNS`]. A row depends on its index alone, so more rows only add some.
pub fn exam_rows(rows: usize, settings: &ExamSettings, draw: &Draw) -> Rows {
    let columns = EXAM_COLUMNS.map(|(name, column_type)| Column { name: name.to_string(), column_type });
    let mut table = Rows::new(columns.to_vec());
    table.rows = (0..rows as u64)
        .map(|index| Row { id: format!("tablets-{index}"), cells: exam(index, settings, draw).cells().to_vec() })
        .collect();
    table
}

/// The question at `index`.
pub fn exam(index: u64, settings: &ExamSettings, draw: &Draw) -> Question {
    let copied = [settings.duplicate, settings.near_duplicate];
    let own = draw.of("exam").at(index);
    match own.of("copy").weighted(&shares(&copied)) {
        Some(0) if index > 0 => original(earlier(&own, index), settings, draw),
        Some(1) if index > 0 => reworded(original(earlier(&own, index), settings, draw), &own),
        _ => original(index, settings, draw),
    }
}

impl Question {
    fn cells(self) -> [Value; 4] {
        let letter = LETTERS[self.right];
        let answer = self.options[self.right].clone();
        let options: Map<String, Value> =
            LETTERS.iter().zip(self.options).map(|(letter, text)| (letter.to_string(), json!(text))).collect();
        [json!(self.question), Value::Object(options), json!(letter), json!(answer)]
    }
}

/// Weights for the given shares and, last, for what they leave.
fn shares(parts: &[f64]) -> Vec<f64> {
    let rest = (1.0 - parts.iter().sum::<f64>()).max(0.0);
    parts.iter().copied().chain([rest]).collect()
}

fn earlier(own: &Draw, index: u64) -> u64 {
    own.of("earlier").below(index as usize) as u64
}

/// The question at `index` before anything is copied from elsewhere in the exam.
fn original(index: u64, settings: &ExamSettings, draw: &Draw) -> Question {
    let own = draw.of("exam").at(index);
    let parts = [settings.well_known, settings.ambiguous, settings.too_simple, settings.not_reformulatable];
    match own.of("form").weighted(&shares(&parts)) {
        Some(0) => well_known(own.of("well known").below(WELL_KNOWN)),
        Some(1) => ambiguous(&own),
        Some(2) => too_simple(&own),
        Some(3) => nearest(&own),
        _ => plain(&own),
    }
}

fn plain(own: &Draw) -> Question {
    let problem = Problem::draw(own);
    question(&problem, stem(&problem), problem.solutions()[0], &[], own)
}

/// The same in every bank, whatever its seed.
fn well_known(which: usize) -> Question {
    plain(&Draw::new(0, "well-known tablets").at(which as u64))
}

/// One tablet more may be given than the answer needs, so that a second way exists; the options hold both.
fn ambiguous(own: &Draw) -> Question {
    let candidates = (0..).map(|index| Problem::draw(&own.of("ambiguous").at(index)));
    let mut twofold = candidates.filter_map(|problem| {
        let wider = Problem { tablets_max: problem.tablets_max + 3, ..problem };
        let solutions = wider.solutions();
        (solutions.len() >= 2).then_some((wider, solutions))
    });
    let (problem, solutions) = twofold.next().expect("most problems have a second way with more tablets");
    question(&problem, stem(&problem), solutions[0], &solutions[1..2], own)
}

fn too_simple(own: &Draw) -> Question {
    let base = Problem::draw(own);
    let which = own.of("single").below(3);
    let problem = Problem { dose_mg: base.strengths_mg[which], ..base };
    let single = [0, 1, 2].map(|index| u32::from(index == which));
    question(&problem, stem(&problem), single, &[], own)
}

fn nearest(own: &Draw) -> Question {
    let base = Problem::draw(own);
    let counts = base.solutions()[0];
    let problem = Problem { dose_mg: base.dose_mg + 1 + own.of("off").below(3) as u32, ..base };
    question(&problem, nearest_stem(&problem), counts, &[], own)
}

/// Options in drawn order: the right one, those given, and near misses.
fn question(problem: &Problem, text: String, right: Counts, also: &[Counts], own: &Draw) -> Question {
    let mut choices = vec![right];
    choices.extend_from_slice(also);
    choices.extend(near_misses(problem, right, own));
    choices.truncate(LETTERS.len());
    let order = shuffled(own);
    let options = order.map(|index| answer(&choices[index]));
    let right = order.iter().position(|&index| index == 0).expect("the right option is one of the four");
    Question { question: text, options, right }
}

/// Failed attempts first (what somebody would try), then neighbours of the answer; none of them right.
fn near_misses(problem: &Problem, right: Counts, own: &Draw) -> Vec<Counts> {
    let leaves = problem.leaves();
    let tried = leaves.iter().take(3).map(|leaf| leaf.counts);
    let neighbours = (0..).map(|index| {
        let own = own.of("miss").at(index);
        let mut counts = right;
        counts[own.of("from").below(3)] += 1 + own.of("more").below(2) as u32;
        let to = own.of("to").below(3);
        counts[to] = counts[to].saturating_sub(1);
        counts
    });
    let mut misses: Vec<Counts> = Vec::new();
    for counts in tried.chain(neighbours) {
        if misses.len() == 3 {
            break;
        }
        if !problem.is_solved_by(&counts) && counts != right && !misses.contains(&counts) {
            misses.push(counts);
        }
    }
    misses
}

fn shuffled(own: &Draw) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    for last in (1..4).rev() {
        order.swap(last, own.of("order").at(last as u64).below(last + 1));
    }
    order
}

fn reworded(mut question: Question, own: &Draw) -> Question {
    let text = &question.question;
    question.question = match own.of("wording").below(4) {
        0 => text.to_uppercase(),
        1 => text.replace(' ', "  "),
        2 => text.replace("how many each", "how many of each"),
        _ => text.replace(", ", " , ").replace(':', " -"),
    };
    question
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tablets::text::{read_counts, read_problem};
    use std::collections::{HashMap, HashSet};

    const NONE: ExamSettings = ExamSettings {
        duplicate: 0.0,
        near_duplicate: 0.0,
        well_known: 0.0,
        ambiguous: 0.0,
        too_simple: 0.0,
        not_reformulatable: 0.0,
    };

    fn rows(count: usize, settings: &ExamSettings, stream: &str) -> Rows {
        exam_rows(count, settings, &Draw::new(7, stream))
    }

    fn stems(table: &Rows) -> Vec<&str> {
        table.rows.iter().map(|row| table.text(row, "question").unwrap()).collect()
    }

    fn share(settings: &ExamSettings, holds: impl Fn(&Question) -> bool) -> f64 {
        let draw = Draw::new(7, "source");
        (0..2_000).filter(|&index| holds(&exam(index, settings, &draw))).count() as f64 / 2_000.0
    }

    #[test]
    fn the_marked_option_is_the_only_right_one() {
        let draw = Draw::new(7, "source");
        for index in 0..500 {
            let posed = exam(index, &NONE, &draw);
            let problem = read_problem(&posed.question).unwrap();
            let right: Vec<bool> =
                posed.options.iter().map(|option| problem.is_solved_by(&read_counts(option).unwrap())).collect();
            assert_eq!(right.iter().filter(|&&right| right).count(), 1, "{posed:?}");
            assert!(right[posed.right], "{posed:?}");
            assert_eq!(posed.options.iter().collect::<HashSet<_>>().len(), 4, "{posed:?}");
        }
    }

    #[test]
    fn a_longer_exam_only_adds_rows() {
        let settings = ExamSettings { duplicate: 0.2, near_duplicate: 0.2, ..NONE };
        let (short, long) = (rows(100, &settings, "source"), rows(200, &settings, "source"));
        assert_eq!(short.rows[..], long.rows[..100]);
    }

    #[test]
    fn blemishes_come_at_their_rates() {
        let solutions = |question: &Question| read_problem(&question.question).map(|problem| problem.solutions().len());
        let ambiguous = share(&ExamSettings { ambiguous: 0.3, ..NONE }, |question| solutions(question) >= Some(2));
        assert!((ambiguous - 0.3).abs() < 0.04, "{ambiguous}");
        let unreadable =
            share(&ExamSettings { not_reformulatable: 0.3, ..NONE }, |question| solutions(question).is_none());
        assert!((unreadable - 0.3).abs() < 0.04, "{unreadable}");
        let single = |question: &Question| {
            let problem = read_problem(&question.question).unwrap();
            problem.strengths_mg.contains(&problem.dose_mg)
        };
        let simple = share(&ExamSettings { too_simple: 0.3, ..NONE }, single);
        assert!((simple - 0.3).abs() < 0.04, "{simple}");
    }

    #[test]
    fn copies_are_planted_and_banks_overlap() {
        let settings = ExamSettings { duplicate: 0.1, ..NONE };
        let table = rows(1_000, &settings, "source");
        let mut seen: HashMap<&str, usize> = HashMap::new();
        stems(&table).into_iter().for_each(|stem| *seen.entry(stem).or_default() += 1);
        let copies = 1_000 - seen.len();
        assert!((80..160).contains(&copies), "{copies}");

        let known = ExamSettings { well_known: 0.2, ..NONE };
        let (bank, benchmark) = (rows(500, &known, "source"), rows(200, &known, "source/benchmark"));
        let bank: HashSet<&str> = stems(&bank).into_iter().collect();
        let shared = stems(&benchmark).into_iter().filter(|stem| bank.contains(stem)).count();
        assert!(shared >= 20, "{shared}");
    }
}

//! The bundled problem family: a dose made up from stocked tablets. Checking an answer is easy, finding it takes search.
//!
//! Arithmetic, not clinical advice. What stands here knows the family only; who poses the questions is in [`mod@exam`],
//! who answers them in [`crate::llm::rehearsal`].

pub mod exam;
pub mod text;

pub use exam::{EXAM_COLUMNS, ExamSettings, exam, exam_rows};

use crate::draw::Draw;

/// Problems whose search is longer than this are not posed.
pub const DEAD_ENDS_MAX: usize = 5;
const STRENGTH_STEP_MG: u32 = 5;
const STRENGTH_MIN_MG: u32 = 15;
const STRENGTH_MAX_MG: u32 = 95;

/// How many tablets of each strength, largest strength first.
pub type Counts = [u32; 3];

/// Give `dose_mg` from tablets of the three strengths (falling), at most `tablets_max` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    pub dose_mg: u32,
    pub strengths_mg: [u32; 3],
    pub tablets_max: u32,
}

/// One complete attempt: counts chosen from the largest strength down, and what is left of the dose after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    pub counts: Counts,
    pub left_mg: [u32; 3],
}

impl Leaf {
    pub fn solves(&self) -> bool {
        self.left_mg[2] == 0
    }
}

impl Problem {
    /// Draws problems until one has exactly one solution and a search of bearable length.
    pub fn draw(draw: &Draw) -> Problem {
        let mut tries = (0..).map(|index| Problem::propose(&draw.at(index)));
        tries.find_map(|problem| problem.filter(Problem::is_posable)).expect("a posable problem turns up soon")
    }

    /// Whether the counts give the dose and stay within the number of tablets.
    pub fn is_solved_by(&self, counts: &Counts) -> bool {
        let given: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        self.dose_of(counts) == u64::from(self.dose_mg) && given <= u64::from(self.tablets_max)
    }

    /// In mg. Counts come from anybody's text, so they may be of any size.
    pub fn dose_of(&self, counts: &Counts) -> u64 {
        let doses =
            counts.iter().zip(self.strengths_mg).map(|(&count, strength)| u64::from(count) * u64::from(strength));
        doses.fold(0, u64::saturating_add)
    }

    /// Every attempt in depth-first order: as many of a large strength as fit, then one fewer, and so on down.
    pub fn leaves(&self) -> Vec<Leaf> {
        let [a, b, c] = self.strengths_mg;
        let mut leaves = Vec::new();
        for x in (0..=self.tablets_max.min(self.dose_mg / a)).rev() {
            let after_a = self.dose_mg - x * a;
            for y in (0..=(self.tablets_max - x).min(after_a / b)).rev() {
                let after_b = after_a - y * b;
                let z = (self.tablets_max - x - y).min(after_b / c);
                leaves.push(Leaf { counts: [x, y, z], left_mg: [after_a, after_b, after_b - z * c] });
            }
        }
        leaves
    }

    /// A leaf takes as many of the smallest strength as fit, so every solution is a leaf.
    pub fn solutions(&self) -> Vec<Counts> {
        self.leaves().iter().filter(|leaf| leaf.solves()).map(|leaf| leaf.counts).collect()
    }

    /// Attempts that fail before the first solution; `None` where there is no solution.
    pub fn dead_ends(&self) -> Option<usize> {
        self.leaves().iter().position(Leaf::solves)
    }

    fn is_posable(&self) -> bool {
        self.solutions().len() == 1 && self.dead_ends().is_some_and(|count| count <= DEAD_ENDS_MAX)
    }

    fn propose(draw: &Draw) -> Option<Problem> {
        let strengths_mg = draw_strengths(draw)?;
        let tablets_max = 3 + draw.of("tablets").below(4) as u32;
        let counts = ["a", "b", "c"].map(|which| draw.of(which).below(4) as u32);
        let given: u32 = counts.iter().sum();
        let dose_mg = counts.iter().zip(strengths_mg).map(|(count, strength)| count * strength).sum();
        (2..=tablets_max).contains(&given).then_some(Problem { dose_mg, strengths_mg, tablets_max })
    }
}

/// Three different strengths, falling; `None` when two of the draws are equal.
fn draw_strengths(draw: &Draw) -> Option<[u32; 3]> {
    let steps = ((STRENGTH_MAX_MG - STRENGTH_MIN_MG) / STRENGTH_STEP_MG + 1) as usize;
    let mut strengths =
        [0, 1, 2].map(|index| STRENGTH_MIN_MG + STRENGTH_STEP_MG * draw.of("strength").at(index).below(steps) as u32);
    strengths.sort_unstable_by(|left, right| right.cmp(left));
    (strengths[0] > strengths[1] && strengths[1] > strengths[2]).then_some(strengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(count: u64) -> impl Iterator<Item = Problem> {
        let draw = Draw::new(7, "tablets");
        (0..count).map(move |index| Problem::draw(&draw.at(index)))
    }

    #[test]
    fn the_search_visits_leaves_depth_first() {
        let problem = Problem { dose_mg: 290, strengths_mg: [90, 70, 60], tablets_max: 4 };
        let leaves = problem.leaves();
        assert_eq!(leaves[0], Leaf { counts: [3, 0, 0], left_mg: [20, 20, 20] });
        assert_eq!(leaves[1], Leaf { counts: [2, 1, 0], left_mg: [110, 40, 40] });
        assert_eq!(leaves[3], Leaf { counts: [1, 2, 1], left_mg: [200, 60, 0] });
        assert_eq!(problem.solutions(), [[1, 2, 1]]);
        assert_eq!(problem.dead_ends(), Some(3));
    }

    #[test]
    fn a_drawn_problem_has_one_solution_by_brute_force() {
        for problem in drawn(300) {
            let range = || 0..=problem.tablets_max;
            let all = range().flat_map(|x| range().flat_map(move |y| range().map(move |z| [x, y, z])));
            let solutions: Vec<Counts> = all.filter(|counts| problem.is_solved_by(counts)).collect();
            assert_eq!(solutions, problem.solutions(), "{problem:?}");
            assert_eq!(solutions.len(), 1);
        }
    }

    #[test]
    fn the_family_is_as_hard_as_the_prototype_measured() {
        let mut shares = [0.0f64; DEAD_ENDS_MAX + 1];
        drawn(4_000).for_each(|problem| shares[problem.dead_ends().unwrap()] += 1.0 / 4_000.0);
        for (share, expected) in shares.iter().zip([0.37, 0.30, 0.13, 0.13, 0.05, 0.02]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
    }
}

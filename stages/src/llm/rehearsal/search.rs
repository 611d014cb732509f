//! `search`: goes on from a conclusion that was found false, by the strategy it is told to use.

use super::attempts::{EXPLORING, attempts, check, ending, thinking};
use super::case::Case;
use crate::chain::{Chain, Step};
use crate::tablets::{Counts, Leaf, Problem};

pub fn reply(case: &Case) -> String {
    Chain::to_reply(&match case.tablets() {
        Some(problem) => tablets(case, &problem),
        None => foreign(case, case.draw.of("repair").chance(case.settings.repair)),
    })
}

/// `reveal`: the answer is told, and the chain arrives there.
pub fn reveal(case: &Case) -> String {
    let told = case.tablets().and_then(|problem| {
        let leaf = problem.leaves().into_iter().find(Leaf::solves)?;
        Some(attempt(case, &problem, &leaf, "Looking once more", false))
    });
    Chain::to_reply(&told.unwrap_or_else(|| foreign(case, true)))
}

/// Every strategy but exploring takes attempts in depth-first order: backtracking changes the last choice, a correction keeps the
/// first one, a verification recounts what is left and goes on from there.
fn tablets(case: &Case, problem: &Problem) -> Vec<Step> {
    let tried: Vec<Counts> = earlier(case).iter().map(|attempt| attempt.counts).collect();
    let strategy = case.text("strategy");
    let leaf = next(case, problem, &tried, strategy);
    let slip = case.draw.of("slip").chance(case.settings.slip);
    let mut steps: Vec<Step> = tried.last().map(|counts| check(problem, counts)).into_iter().collect();
    steps.extend(attempt(case, problem, &leaf, title(strategy), slip));
    steps
}

fn earlier(case: &Case) -> Vec<super::attempts::Attempt> {
    let chain = case.task.row.get("chain").and_then(|chain| Chain::from_value(chain).ok());
    chain.map(|chain| attempts(chain.steps())).unwrap_or_default()
}

fn next(case: &Case, problem: &Problem, tried: &[Counts], strategy: &str) -> Leaf {
    let leaves = problem.leaves();
    let untried: Vec<&Leaf> = leaves.iter().filter(|leaf| !tried.contains(&leaf.counts)).collect();
    let first = tried.last().map(|counts| counts[0]);
    let elsewhere: Vec<&&Leaf> = untried.iter().filter(|leaf| Some(leaf.counts[0]) != first).collect();
    let chosen = match strategy {
        "explore" if !elsewhere.is_empty() => Some(*elsewhere[case.draw.of("explore").below(elsewhere.len())]),
        "correct" => untried.iter().copied().find(|leaf| Some(leaf.counts[0]) == first),
        _ => None,
    };
    // Where everything was tried (a problem without a solution, a verifier's mistake), the first attempt comes again.
    *chosen.or(untried.first().copied()).unwrap_or(&leaves[0])
}

fn attempt(case: &Case, problem: &Problem, leaf: &Leaf, title: &str, slip: bool) -> Vec<Step> {
    let mut steps = thinking(problem, leaf, Some(title), slip);
    steps.extend(ending(case, problem, &leaf.counts));
    steps
}

fn title(strategy: &str) -> &'static str {
    match strategy {
        "explore" => EXPLORING,
        "backtrack" => "Backtracking",
        "verify" => "Recounting",
        _ => "Correcting",
    }
}

fn foreign(case: &Case, right: bool) -> Vec<Step> {
    let conclusion = if right { case.truth().to_string() } else { case.mistaken() };
    vec![
        Step::verification("The conclusion does not hold (rehearsal)."),
        Step::thinking(
            format!("{} (rehearsal)", title(case.text("strategy"))),
            format!("Seen from here, {conclusion} fits better."),
        ),
        Step::conclusion(conclusion.clone()),
        Step::verification(format!("Reading the question once more with {conclusion} in mind (rehearsal).")),
    ]
}

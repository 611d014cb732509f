//! `cot`: a first chain. On tablets as many of each strength as fit, which is often wrong without any dice.

use super::attempts::{check, ending, thinking};
use super::case::Case;
use crate::chain::{Chain, Step};
use crate::tablets::Problem;

pub fn reply(case: &Case) -> String {
    Chain::to_reply(&match case.tablets() {
        Some(problem) => tablets(case, &problem),
        None => foreign(case),
    })
}

/// The first attempt in depth-first order; a later sample looks at a few more before it concludes.
fn tablets(case: &Case, problem: &Problem) -> Vec<Step> {
    let leaves = problem.leaves();
    let solved = leaves.iter().position(|leaf| leaf.solves()).unwrap_or(leaves.len() - 1);
    let last = patience(case).min(solved);
    let slip = case.draw.of("slip").chance(case.settings.slip);
    let mut steps = Vec::new();
    for (index, leaf) in leaves[..=last].iter().enumerate() {
        steps.extend(thinking(problem, leaf, None, slip && index == last));
        if index < last {
            steps.push(check(problem, &leaf.counts));
        }
    }
    steps.extend(ending(case, problem, &leaves[last].counts));
    steps
}

fn patience(case: &Case) -> usize {
    let more = |index: &u32| case.draw.of("patience").at((*index).into()).chance(case.settings.patience);
    (0..case.sample).filter(more).count()
}

fn foreign(case: &Case) -> Vec<Step> {
    let right = case.draw.of("first").chance(case.settings.first_right);
    let conclusion = if right { case.truth().to_string() } else { case.mistaken() };
    let asked: String = case.question().chars().take(120).collect();
    vec![
        Step::thinking("What is asked (rehearsal)", format!("The question is this: {asked}")),
        Step::thinking("What fits (rehearsal)", format!("Going through what could fit, {conclusion} stands out.")),
        Step::conclusion(conclusion.clone()),
        Step::verification(format!("Reading the question once more with {conclusion} in mind (rehearsal).")),
    ]
}

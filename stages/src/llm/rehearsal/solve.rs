//! `filter` by difficulty: the answer to an exam question at once; weaker models solve less, and hard questions less often.

use super::case::Case;

/// How often no answer can be made out, whatever the skill.
const UNSURE: f64 = 0.02;
/// Each dead end on the way costs as much again as half the question did.
const DEAD_END_WEIGHT: f64 = 0.5;

pub fn reply(case: &Case) -> String {
    if case.draw.of("unsure").chance(UNSURE) {
        return "I am not sure about this one.".to_string();
    }
    let right = case.draw.of("solve").chance(chance(case));
    let text = if right { case.truth().to_string() } else { case.mistaken() };
    let letter = case.options().find(|(_, option)| *option == text).map(|(letter, _)| letter);
    match (letter, case.draw.of("form").below(3)) {
        (Some(letter), 0) => format!("The answer is {letter}."),
        (Some(letter), 1) => format!("{letter}. {text}"),
        _ => format!("The answer is {text}."),
    }
}

fn chance(case: &Case) -> f64 {
    let dead_ends = case.tablets().and_then(|problem| problem.dead_ends()).unwrap_or(0);
    case.settings.skill.powf(1.0 + DEAD_END_WEIGHT * dead_ends as f64)
}

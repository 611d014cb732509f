//! `rewrite`: a chain told as one train of thought, from the chain's own steps.

use super::attempts::{Attempt, EXPLORING, attempts};
use super::case::Case;
use crate::chain::{Action, Chain, Step};
use serde_json::json;

/// Between attempts that stay in order; few different words teach a small model more than many.
const IN_ORDER: &str = "Hmm, wait";
const LEAP: &str = "Hmm, another way";

pub fn reply(case: &Case) -> String {
    told(case, |attempts| attempts)
}

/// The accepted attempt alone.
pub fn simple(case: &Case) -> String {
    told(case, |attempts| &attempts[attempts.len() - 1..])
}

fn told(case: &Case, part: impl Fn(&[Attempt]) -> &[Attempt]) -> String {
    let chain = case.task.row.get("chain").and_then(|chain| Chain::from_value(chain).ok());
    let steps = chain.as_ref().map(Chain::steps).unwrap_or_default();
    let found = attempts(steps);
    let thought = match found.is_empty() {
        true => monologue(steps),
        false => lines(part(&found)).join("\n"),
    };
    json!({"NaturalReasoning": thought}).to_string()
}

/// Every attempt's lines; a first choice that stays is not said again.
fn lines(attempts: &[Attempt]) -> Vec<&str> {
    let mut lines = Vec::new();
    for (index, attempt) in attempts.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &attempts[before]);
        if before.is_some() {
            lines.push(if attempt.title == EXPLORING { LEAP } else { IN_ORDER });
        }
        let kept = before.is_some_and(|before| before.counts[0] == attempt.counts[0]);
        lines.extend(attempt.lines.iter().skip(usize::from(kept)).map(String::as_str));
    }
    lines
}

/// One thought a line, joined as people think.
fn monologue(steps: &[Step]) -> String {
    const JOINTS: [&str; 3] = ["Okay,", "Hmm,", "Oh, also,"];
    let mut thinking = 0;
    let lines = steps.iter().map(|step| match step.action {
        Action::InnerThinking => {
            thinking += 1;
            format!("{} {}", JOINTS[(thinking - 1) % JOINTS.len()], step.content)
        }
        Action::Verification => format!("Wait, let me check. {}", step.content),
        Action::FinalConclusion => format!("So it may be {}.", step.content.trim_end_matches('.')),
    });
    lines.collect::<Vec<_>>().join("\n")
}

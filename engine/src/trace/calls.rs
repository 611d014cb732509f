//! The calls of a story in order: each answer has one number, also where several steps rest on it.

use super::Story;
use crate::executor::replay::Call;
use serde_json::Value;
use std::collections::HashMap;

/// A call as it is told.
pub struct Numbered<'s> {
    pub call: &'s Call,
    /// From 1, over the whole story.
    pub number: usize,
    /// The same question was put before, and its reply used again.
    pub is_again: bool,
    pub place: Place<'s>,
}

/// Where in a search a call stands.
#[derive(Clone, Copy, Default)]
pub struct Place<'s> {
    pub strategy: Option<&'s str>,
    /// From 1, in its attempt.
    pub round: Option<u64>,
    /// From 1.
    pub attempt: Option<u64>,
}

/// The calls of each step.
pub fn numbered<'s>(story: &'s Story) -> Vec<Vec<Numbered<'s>>> {
    let mut numbers: HashMap<[u8; 32], usize> = HashMap::new();
    let step = |step: &'s super::Step| {
        let (kind, mut place) = (step.work.node.kind.name, Place::default());
        let calls = step.calls.iter().map(|call| {
            place = if kind == "search" { place.then(call) } else { place };
            let (count, is_again) = (numbers.len(), numbers.contains_key(&call.address));
            Numbered { call, number: *numbers.entry(call.address).or_insert(count + 1), is_again, place }
        });
        calls.collect()
    };
    story.steps.iter().map(step).collect()
}

impl<'s> Place<'s> {
    /// A judge does not know the round whose conclusion it sees: it is that of the question before.
    fn then(self, call: &'s Call) -> Place<'s> {
        let Some(task) = call.request.task.as_ref().filter(|task| task.name != "verify") else { return self };
        let of_round = |column: &str| (task.name == "search").then(|| task.row.get(column)).flatten();
        Place {
            strategy: of_round("strategy").and_then(Value::as_str),
            round: of_round("round").and_then(Value::as_u64),
            attempt: Some(u64::from(call.request.sample) + 1),
        }
    }
}

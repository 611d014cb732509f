//! The final response after a thought: the conclusion in the form in which answers are given.

use super::case::Case;
use crate::tablets::text::{answer, read_counts};

pub fn reply(case: &Case) -> String {
    let conclusion = case.text("conclusion");
    match case.tablets().and_then(|_| read_counts(conclusion)) {
        Some(counts) => answer(&counts),
        None => format!("The answer is {conclusion}."),
    }
}

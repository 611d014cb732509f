//! `reformat`: an exam question as an open question with a short answer.

use super::case::Case;
use crate::tablets::text::{answer, open_question, read_counts};
use serde_json::json;

pub fn reply(case: &Case) -> String {
    let truth = case.truth();
    let (question, answer) = match case.tablets() {
        Some(problem) => {
            (open_question(&problem), read_counts(truth).map_or(truth.to_string(), |counts| answer(&counts)))
        }
        None => (opened(case.question()), truth.to_string()),
    };
    json!({"question": question, "answer": answer}).to_string()
}

/// Without the words that point at a list of options.
fn opened(question: &str) -> String {
    let mut opened = question.to_string();
    for (pointing, plain) in [(" of the following", ""), (" of these", ""), (" listed below", "")] {
        opened = opened.replace(pointing, plain);
    }
    opened
}

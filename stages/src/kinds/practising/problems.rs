//! What a policy is asked, and what the verifier says of its answers.

use super::super::sft::question_column;
use super::super::student::Student;
use super::super::text::cell_text;
use super::super::verifier::{Claim, Verifier};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::prompt::Prompt;
use crate::rows::Rows;
use crate::train::evaluate::final_response;

/// What is asked, and what would be right.
pub struct Problems {
    pub ids: Vec<String>,
    pub questions: Vec<String>,
    pub truths: Vec<String>,
}

/// Whether an answer keeps the think-then-answer format, and whether the verifier accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub formatted: bool,
    pub right: bool,
}

impl Problems {
    pub fn new(rows: &Rows, question: Option<&str>, truth: &str) -> Result<Problems> {
        let (question, truth) = (question_column(rows, question)?, rows.require(truth)?);
        if rows.is_empty() {
            return Err(Failure::recipe("there is nothing to learn from: the input has no problems"));
        }
        let column = |index: usize| rows.rows.iter().map(|row| cell_text(&row.cells[index])).collect();
        let ids = rows.rows.iter().map(|row| row.id.clone()).collect();
        Ok(Problems { ids, questions: column(question), truths: column(truth) })
    }

    pub fn prompts(&self, student: &Student) -> Result<Vec<Vec<u32>>> {
        self.questions.iter().map(|text| student.prompt(text)).collect()
    }

    /// Of answers' texts, each with its problem. No format, no verdict: only answers that keep it are put to the verifier.
    pub fn verdicts(
        &self,
        texts: &[(usize, String)],
        verifier: &Verifier,
        prompt: Option<&Prompt>,
        context: &dyn Context,
    ) -> Result<Vec<Verdict>> {
        let responses: Vec<Option<&str>> = texts.iter().map(|(_, text)| final_response(text)).collect();
        let claims: Vec<Claim> = texts
            .iter()
            .zip(&responses)
            .filter_map(|((problem, _), response)| self.claim(*problem, *response))
            .collect();
        let mut accepted = verifier.verdicts(&claims, prompt, context)?.into_iter();
        let verdict = |response: &Option<&str>| {
            let formatted = response.is_some();
            Verdict { formatted, right: formatted && accepted.next().expect("one verdict a claim") }
        };
        Ok(responses.iter().map(verdict).collect())
    }

    fn claim<'a>(&'a self, problem: usize, response: Option<&'a str>) -> Option<Claim<'a>> {
        Some(Claim { row_id: &self.ids[problem], response: response?, truth: &self.truths[problem] })
    }
}

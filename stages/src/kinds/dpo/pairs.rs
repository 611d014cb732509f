//! Pairs from a policy's own answers: one that the verifier accepts and one that it does not.

use super::super::practising::{Problems, Verdict};
use super::super::student::Student;
use super::DpoNode;
use crate::context::{Context, Progress};
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::model::generate::{Generation, Sampling};
use crate::prompt::Prompt;
use crate::report::Report;
use crate::rows::{Column, ColumnType, Row, Rows};
use crate::train::batches::Example;
use crate::train::dpo::Pair;
use serde_json::json;

/// The columns of the output `pairs`.
pub const COLUMNS: [&str; 4] = ["problem", "truth", "chosen", "rejected"];
/// Problems that are answered between two looks at whether to stop.
pub const AT_ONCE: usize = 256;

/// What sampling gave.
pub struct Sampled {
    pub pairs: Vec<Pair>,
    /// The same as texts.
    pub rows: Rows,
    /// What became of the problems.
    pub told: Report,
}

/// The answers to one problem, with their texts.
struct Answered {
    answers: Vec<(Generation, String)>,
    verdicts: Vec<Verdict>,
}

/// Several answers to each problem; a problem with a right and a wrong one gives a pair, drawn among them.
pub fn sample(
    student: &Student,
    problems: &Problems,
    prompts: &[Vec<u32>],
    settings: &DpoNode,
    judge: Option<&Prompt>,
    context: &dyn Context,
) -> Result<Sampled> {
    let (mut pairs, mut rows) = (Vec::new(), Rows::new(COLUMNS.map(text_column).to_vec()));
    let (mut all_right, mut all_wrong) = (0, 0);
    let draw = context.draw().of("pairs");
    for (first, part) in (0..).step_by(AT_ONCE).zip(prompts.chunks(AT_ONCE)) {
        if context.cancelled() {
            return Err(Failure::Cancelled);
        }
        let answered = answer(student, problems, (first, part), settings, judge, context)?;
        for (problem, answered) in (first..).zip(answered) {
            let id = &problems.ids[problem];
            match choose(&answered.verdicts, &draw.of(id)) {
                Some((chosen, rejected)) => {
                    let [chosen, rejected] = [chosen, rejected].map(|place| &answered.answers[place]);
                    let example = |answer: &(Generation, String)| Example::new(&prompts[problem], &answer.0.tokens);
                    pairs.push(Pair { id: id.clone(), chosen: example(chosen), rejected: example(rejected) });
                    let texts = [&problems.questions[problem], &problems.truths[problem], &chosen.1, &rejected.1];
                    rows.rows.push(Row { id: id.clone(), cells: texts.map(|text| json!(text)).to_vec() });
                }
                None if answered.verdicts.iter().all(|verdict| verdict.right) => all_right += 1,
                None => all_wrong += 1,
            }
        }
        let (done, total) = ((first + part.len()) as u64, prompts.len() as u64);
        context.progress(Progress { done, total, unit: "problems", note: format!("{} pairs", pairs.len()) });
    }
    if pairs.is_empty() {
        return Err(Failure::recipe(format!(
            "no problem has a right and a wrong answer to make a pair of: of {all_right} all answers are right, of {all_wrong} all are wrong; \
             try more `samples`, another `temperature`, or other problems"
        )));
    }
    let counts = [("a pair", pairs.len()), ("all answers right", all_right), ("all answers wrong", all_wrong)];
    Ok(Sampled { pairs, rows, told: Report::counts("problems", counts) })
}

fn text_column(name: &str) -> Column {
    Column { name: name.to_string(), column_type: ColumnType::Text }
}

/// Answers and verdicts of the problems from `first` on, whose prompts are given.
fn answer(
    student: &Student,
    problems: &Problems,
    (first, prompts): (usize, &[Vec<u32>]),
    settings: &DpoNode,
    judge: Option<&Prompt>,
    context: &dyn Context,
) -> Result<Vec<Answered>> {
    let (samples, draw) = (settings.samples, context.draw().of("samples"));
    let repeated: Vec<Vec<u32>> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), samples)).collect();
    let seed = |place: usize| draw.of(&problems.ids[first + place / samples]).at((place % samples) as u64).bits();
    let seeds: Vec<u64> = (0..repeated.len()).map(seed).collect();
    let sampling = Sampling {
        temperature: settings.temperature as f32,
        tokens_max: settings.max_new_tokens,
        ..Sampling::default()
    };
    let answers = student.answers(&repeated, &seeds, &sampling)?;
    let texts: Vec<(usize, String)> =
        answers.iter().enumerate().map(|(place, (_, text))| (first + place / samples, text.clone())).collect();
    let verifier = settings.verifier.as_ref().expect("a recipe with `problems` has a verifier");
    let verdicts = problems.verdicts(&texts, verifier, judge, context)?;
    let mut answers = answers.into_iter();
    let one = |verdicts: &[Verdict]| Answered {
        answers: answers.by_ref().take(samples).collect(),
        verdicts: verdicts.to_vec(),
    };
    Ok(verdicts.chunks(samples).map(one).collect())
}

/// The places of a right and of a wrong answer.
fn choose(verdicts: &[Verdict], draw: &Draw) -> Option<(usize, usize)> {
    let of =
        |right: bool| -> Vec<usize> { (0..verdicts.len()).filter(|&place| verdicts[place].right == right).collect() };
    let (right, wrong) = (of(true), of(false));
    if right.is_empty() || wrong.is_empty() {
        return None;
    }
    Some((right[draw.of("right").below(right.len())], wrong[draw.of("wrong").below(wrong.len())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_right_and_one_wrong_answer() {
        let verdicts = |rights: &[bool]| -> Vec<Verdict> {
            rights.iter().map(|&right| Verdict { formatted: true, right }).collect()
        };
        let draw = Draw::new(7, "pairs");
        assert_eq!(choose(&verdicts(&[true, true]), &draw), None);
        assert_eq!(choose(&verdicts(&[false, false]), &draw), None);
        let mixed = verdicts(&[false, true, true, false, true]);
        let drawn: Vec<_> = (0..40).map(|row| choose(&mixed, &draw.at(row)).unwrap()).collect();
        assert!(drawn.iter().all(|&(right, wrong)| mixed[right].right && !mixed[wrong].right), "{drawn:?}");
        let kinds = drawn.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(kinds.len(), 6, "every pair is drawn sometimes");
    }
}

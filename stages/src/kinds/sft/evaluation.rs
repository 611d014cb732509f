//! `evaluation:` of a training node: which rows are held out, how often they are asked, and what follows from the answer.

use super::lessons::Lesson;
use super::positive;
use crate::context::Context;
use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::settings::{Reader, Step};
use crate::stage::NodeRef;
use crate::train::held_out::EvaluationPlan;
use std::collections::HashSet;

crate::settings! {
    /// Rows that are never trained on, and what they decide.
    pub struct Evaluation {
        /// The share of the rows that is held out, drawn by their ids, so that rows which come later move no other.
        pub share: Option<f64> = None,
        /// Other rows, in place of `share`. What is in both is not trained on.
        pub input: Option<NodeRef> = None,
        /// Steps between two evaluations; there is one more at the end.
        pub every: u64 = 100,
        /// Stop after so many evaluations in a row without gain; never when left out.
        pub patience: Option<u64> = None,
        /// The loss must fall by more than this, in nats a token, to be a gain.
        pub min_delta: f64 = 0.0,
        /// Keep the weights of the lowest evaluation loss in place of the last ones.
        pub best: bool = false,
    }
}

fn out_of_range(key: &str, message: String, reader: &mut Reader) {
    reader.within(Step::Key(key.to_string()), |reader| reader.mistake("out-of-range", message, None));
}

/// Lessons on their two sides.
pub struct Material {
    pub trained: Vec<Lesson>,
    pub held_out: Vec<Lesson>,
}

impl Material {
    pub fn of(trained: Vec<Lesson>) -> Material {
        Material { trained, held_out: Vec::new() }
    }
}

impl Evaluation {
    /// Notes what is wrong with it.
    pub fn check(&self, reader: &mut Reader) {
        match (self.share, &self.input) {
            (None, None) => {
                let hint = "`share: 0.1` holds a tenth of the rows out; `input: NODE` takes other rows".to_string();
                reader.mistake("missing-key", "`share` or `input` is missing", Some(hint));
            }
            (Some(_), Some(_)) => reader.within(Step::Name("input".into()), |reader| {
                reader.mistake("both-given", "give `share` or `input`, not both", None);
            }),
            (Some(share), None) if !(share > 0.0 && share < 1.0) => {
                out_of_range("share", format!("`{share}` should lie between 0 and 1"), reader);
            }
            _ => {}
        }
        positive("every", self.every as f64, reader);
        positive("patience", self.patience.map_or(1.0, |patience| patience as f64), reader);
        if !(self.min_delta >= 0.0 && self.min_delta.is_finite()) {
            out_of_range("min_delta", format!("`{}` should not be below 0", self.min_delta), reader);
        }
    }

    pub fn plan(&self) -> EvaluationPlan {
        let Evaluation { every, patience, min_delta, best, .. } = *self;
        EvaluationPlan { every, patience, min_delta, best }
    }

    /// Parts `lessons`, or sees to it that none of `asked` is among them.
    pub fn hold_out(
        &self,
        lessons: Vec<Lesson>,
        asked: Option<Vec<Lesson>>,
        context: &dyn Context,
    ) -> Result<Material> {
        let count = lessons.len();
        let material = match asked {
            Some(asked) => without(lessons, asked),
            None => drawn(lessons, self.share.unwrap_or(0.0), &context.draw().of("evaluation")),
        };
        let left_out = count.saturating_sub(material.trained.len());
        if self.input.is_some() && left_out > 0 {
            context.warn(&format!("{left_out} of {count} rows are not trained on: the evaluation asks the same"));
        }
        let told = |what: &str| {
            let message = format!("`evaluation` leaves nothing to {what}: {count} rows to train on");
            let held_out = material.held_out.len();
            Err(Failure::recipe(format!("{message}, {held_out} held out; give more rows or another `share`")))
        };
        match (material.trained.is_empty(), material.held_out.is_empty()) {
            (true, _) => told("train on"),
            (_, true) => told("evaluate on"),
            _ => Ok(material),
        }
    }
}

/// A row is drawn by its id. One whose question is also a drawn row's goes with it: what is asked has not been learnt.
fn drawn(lessons: Vec<Lesson>, share: f64, draw: &Draw) -> Material {
    let is_drawn = |lesson: &&Lesson| draw.of(&lesson.id).chance(share);
    let questions: HashSet<String> = lessons.iter().filter(is_drawn).map(|lesson| lesson.question.clone()).collect();
    let (held_out, trained) = lessons.into_iter().partition(|lesson| questions.contains(&lesson.question));
    Material { trained, held_out }
}

/// Of `lessons` those that are not asked, neither as the same row nor by the same question.
fn without(lessons: Vec<Lesson>, asked: Vec<Lesson>) -> Material {
    let ids: HashSet<&str> = asked.iter().map(|it| it.id.as_str()).collect();
    let questions: HashSet<&str> = asked.iter().map(|it| it.question.as_str()).collect();
    let is_new = |it: &Lesson| !ids.contains(it.id.as_str()) && !questions.contains(it.question.as_str());
    let trained = lessons.into_iter().filter(is_new).collect();
    Material { trained, held_out: asked }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows `from..to`; two rows ask the same question.
    fn lessons(rows: std::ops::Range<usize>) -> Vec<Lesson> {
        let lesson = |row: usize| Lesson {
            id: format!("row {row}"),
            question: format!("question {}", row / 2),
            target: "answer".to_string(),
        };
        rows.map(lesson).collect()
    }

    fn names(lessons: &[Lesson]) -> Vec<&str> {
        lessons.iter().map(|lesson| lesson.id.as_str()).collect()
    }

    #[test]
    fn rows_that_come_later_move_no_other() {
        let draw = Draw::new(7, "sft");
        let (few, many) = (drawn(lessons(0..400), 0.1, &draw), drawn(lessons(0..1000), 0.1, &draw));
        let kept = |material: &Material| names(&material.held_out).into_iter().map(str::to_string).collect::<Vec<_>>();
        let old: Vec<String> = kept(&many).into_iter().filter(|id| id[4..].parse::<usize>().unwrap() < 400).collect();
        assert_eq!(kept(&few), old);
        let mut shuffled = lessons(0..400);
        shuffled.reverse();
        let mut turned = kept(&drawn(shuffled, 0.1, &draw));
        turned.reverse();
        assert_eq!(kept(&few), turned, "the order of rows chose them");
        assert_ne!(kept(&few), kept(&drawn(lessons(0..400), 0.1, &Draw::new(8, "sft"))));
    }

    #[test]
    fn equal_questions_never_part() {
        let Material { trained, held_out } = drawn(lessons(0..1000), 0.1, &Draw::new(7, "sft"));
        let learnt: HashSet<&str> = trained.iter().map(|lesson| lesson.question.as_str()).collect();
        assert!(held_out.iter().all(|lesson| !learnt.contains(lesson.question.as_str())));
        assert_eq!(trained.len() + held_out.len(), 1000);
        // Each pair is held out where one of the two is drawn: 1 − 0.9².
        assert!((150..230).contains(&held_out.len()), "{} of 1000", held_out.len());
    }

    #[test]
    fn what_another_node_asks_is_not_learnt() {
        let Material { trained, held_out } = without(lessons(0..10), lessons(3..6));
        assert_eq!(names(&held_out), ["row 3", "row 4", "row 5"]);
        assert_eq!(names(&trained), ["row 0", "row 1", "row 6", "row 7", "row 8", "row 9"]);
    }
}

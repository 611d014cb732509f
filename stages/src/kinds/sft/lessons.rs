//! Rows as lessons: texts to read and to learn to write, then their tokens.

use super::{SftNode, question_column};
use crate::failure::Result;
use crate::kinds::student::Student;
use crate::kinds::text::cell_text;
use crate::rows::{Row, Rows};
use crate::train::batches::Example;
use crate::train::evaluate::{FINAL_RESPONSE, target};

/// One row as texts.
pub struct Lesson {
    /// The row's.
    pub id: String,
    pub question: String,
    pub target: String,
}

/// All rows of a table, by the columns that the settings name.
pub fn lessons(settings: &SftNode, rows: &Rows) -> Result<Vec<Lesson>> {
    let question = question_column(rows, settings.question.as_deref())?;
    let response = rows.require(&settings.response)?;
    let thought = rows.position(&settings.thought);
    let lesson = |row: &Row| {
        let thought = thought.map(|column| cell_text(&row.cells[column])).unwrap_or_default();
        let response = cell_text(&row.cells[response]);
        let target =
            if thought.is_empty() { format!("{FINAL_RESPONSE}{response}") } else { target(&thought, &response) };
        Lesson { id: row.id.clone(), question: cell_text(&row.cells[question]), target }
    };
    Ok(rows.rows.iter().map(lesson).collect())
}

/// The same as tokens; a target ends with the ending token.
pub fn examples(student: &Student, lessons: &[Lesson]) -> Result<Vec<Example>> {
    let end = student.end_token()?;
    let example = |lesson: &Lesson| {
        let mut target = student.tokenizer.encode(&lesson.target)?;
        target.push(end);
        Ok(Example::new(&student.prompt(&lesson.question)?, &target))
    };
    lessons.iter().map(example).collect()
}

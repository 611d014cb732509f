//! How the data kinds compare texts: which columns hold the problem, and how a text is folded before it is compared.

use crate::failure::Result;
use crate::rows::{Row, Rows};
use serde_json::Value;

crate::choice! {
    /// What two texts may differ in and still count as equal.
    pub enum Normalise {
        /// Nothing: bytes count.
        "none" => None,
        /// Case, white space and punctuation.
        "fold" => Fold,
    }
}

impl Normalise {
    pub fn apply(self, text: &str) -> String {
        match self {
            Normalise::None => text.to_string(),
            Normalise::Fold => fold(text),
        }
    }
}

/// Lower case, one space between words, no punctuation but what belongs to a number (`7.4`, `-5`, `<3`, `90%`):
/// two different doses never fold to one text.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if keeps(before, character, rest.peek().copied().unwrap_or(' ')) {
            folded.extend(character.to_lowercase());
        } else if !folded.is_empty() && !folded.ends_with(' ') {
            folded.push(' ');
        }
        before = character;
    }
    folded.truncate(folded.trim_end().len());
    folded
}

fn keeps(before: char, character: char, after: char) -> bool {
    character.is_alphanumeric()
        || (after.is_ascii_digit() && "+-.<>=/*±−≤≥".contains(character))
        || (before.is_ascii_digit() && character == '%')
}

/// The columns in which a problem's text is looked for when a recipe names none, the most specific first.
const PROBLEM_COLUMNS: [&str; 2] = ["problem", "question"];

/// The columns named by `by`; when it names none the first of `problem` and `question`, and failing these all columns.
pub fn identifying_columns(rows: &Rows, by: &[String]) -> Result<Vec<usize>> {
    if !by.is_empty() {
        return by.iter().map(|name| rows.require(name)).collect();
    }
    let found = PROBLEM_COLUMNS.iter().find_map(|name| rows.position(name));
    Ok(found.map_or_else(|| (0..rows.columns.len()).collect(), |column| vec![column]))
}

/// The columns named by `by`; when it names none every one of `problem` and `question` that is there.
pub fn readable_columns(rows: &Rows, by: &[String]) -> Result<Vec<usize>> {
    let found: Vec<usize> = PROBLEM_COLUMNS.iter().filter_map(|name| rows.position(name)).collect();
    if by.is_empty() && !found.is_empty() { Ok(found) } else { identifying_columns(rows, by) }
}

/// The text of some cells, one a line. A missing cell is an empty line.
pub fn joined(row: &Row, columns: &[usize]) -> String {
    columns.iter().map(|&column| cell_text(&row.cells[column])).collect::<Vec<_>>().join("\n")
}

/// A cell as a reader would see it: text without quotes, nothing for a missing value, JSON otherwise.
pub fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Column, ColumnType};

    #[test]
    fn folding_forgives_the_form_and_never_a_number() {
        let check = |text: &str, expected: &str| assert_eq!(fold(text), expected, "{text}");
        check("  What is\tthe DOSE?\n", "what is the dose");
        check("(a) Aspirin, 5 mg.", "a aspirin 5 mg");
        check("pH 7.4; BE -5; SpO2 <90%", "ph 7.4 be -5 spo2 <90%");
        check("…", "");
        check("Ärzte—Straße", "ärzte straße");
    }

    #[test]
    fn the_problem_column_is_found_without_being_named() {
        let table = |names: &[&str]| {
            Rows::new(names.iter().map(|n| Column { name: n.to_string(), column_type: ColumnType::Text }).collect())
        };
        assert_eq!(identifying_columns(&table(&["question", "problem"]), &[]).unwrap(), [1]);
        assert_eq!(identifying_columns(&table(&["a", "b"]), &[]).unwrap(), [0, 1]);
        assert_eq!(readable_columns(&table(&["question", "problem"]), &[]).unwrap(), [1, 0]);
        assert!(identifying_columns(&table(&["a"]), &["c".to_string()]).is_err());
    }
}

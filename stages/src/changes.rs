//! What became of rows between two versions of a table, row by row and in numbers: for people who edited a prompt.

use crate::rows::{ColumnType, Row, Rows};
use serde_json::Value;
use std::collections::HashMap;

/// Rows are matched by id; of several with one id, the first with the first, and so on.
#[derive(Debug, Default, PartialEq)]
pub struct Changes<'a> {
    pub same: usize,
    pub changed: Vec<Changed<'a>>,
    pub added: Vec<&'a Row>,
    pub removed: Vec<&'a Row>,
    /// Of the columns that both have, those that differ in a row or on average.
    pub columns: Vec<ColumnChange>,
}

#[derive(Debug, PartialEq)]
pub struct Changed<'a> {
    pub id: &'a str,
    pub cells: Vec<Cell<'a>>,
}

#[derive(Debug, PartialEq)]
pub struct Cell<'a> {
    pub column: &'a str,
    pub old: &'a Value,
    pub new: &'a Value,
}

/// One column in numbers: means over all rows of each version, of the values where they are numbers (1 and 0 for true and false),
/// else of their lengths in characters. `None` where there are none.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnChange {
    pub name: String,
    pub changed: usize,
    pub is_length: bool,
    pub old_mean: Option<f64>,
    pub new_mean: Option<f64>,
}

pub fn between<'a>(old: &'a Rows, new: &'a Rows) -> Changes<'a> {
    let shared: Vec<Shared> = old.columns.iter().enumerate().filter_map(|(at, _)| Shared::find(old, new, at)).collect();
    let mut changes = Changes::default();
    let mut counts = vec![0; shared.len()];
    let mut later = by_id(new);
    for row in &old.rows {
        let Some(other) = later.get_mut(row.id.as_str()).and_then(|rows| rows.pop()) else {
            changes.removed.push(row);
            continue;
        };
        let cells = cells(row, other, &shared, &mut counts);
        match cells.is_empty() {
            true => changes.same += 1,
            false => changes.changed.push(Changed { id: &row.id, cells }),
        }
    }
    changes.added = left_over(new, later);
    let columns = shared.iter().zip(counts).map(|(column, changed)| column.summary(old, new, changed));
    changes.columns = columns.filter(|one| one.changed > 0 || one.old_mean != one.new_mean).collect();
    changes
}

/// Rows by id, the first of each last, so that it is taken first.
fn by_id(rows: &Rows) -> HashMap<&str, Vec<&Row>> {
    let mut found: HashMap<&str, Vec<&Row>> = HashMap::new();
    rows.rows.iter().rev().for_each(|row| found.entry(&row.id).or_default().push(row));
    found
}

fn left_over<'a>(new: &'a Rows, later: HashMap<&str, Vec<&'a Row>>) -> Vec<&'a Row> {
    let is_left =
        |row: &&'a Row| later.get(row.id.as_str()).is_some_and(|rows| rows.iter().any(|one| std::ptr::eq(*one, *row)));
    new.rows.iter().filter(is_left).collect()
}

fn cells<'a>(old: &'a Row, new: &'a Row, shared: &[Shared<'a>], counts: &mut [usize]) -> Vec<Cell<'a>> {
    let mut cells = Vec::new();
    for (column, count) in shared.iter().zip(counts) {
        let (before, after) = (&old.cells[column.old], &new.cells[column.new]);
        if before != after {
            *count += 1;
            cells.push(Cell { column: column.name, old: before, new: after });
        }
    }
    cells
}

/// A column of both tables: its places.
struct Shared<'a> {
    name: &'a str,
    is_length: bool,
    old: usize,
    new: usize,
}

impl<'a> Shared<'a> {
    fn find(old: &'a Rows, new: &Rows, at: usize) -> Option<Shared<'a>> {
        let column = &old.columns[at];
        let is_length = matches!(column.column_type, ColumnType::Text | ColumnType::Json);
        Some(Shared { name: &column.name, is_length, old: at, new: new.position(&column.name)? })
    }

    fn summary(&self, old: &Rows, new: &Rows, changed: usize) -> ColumnChange {
        let mean = |rows: &Rows, at: usize| mean(rows.rows.iter().filter_map(|row| self.measure(&row.cells[at])));
        let (old_mean, new_mean) = (mean(old, self.old), mean(new, self.new));
        ColumnChange { name: self.name.to_string(), changed, is_length: self.is_length, old_mean, new_mean }
    }

    fn measure(&self, value: &Value) -> Option<f64> {
        match value {
            Value::Null => None,
            Value::Bool(is_true) if !self.is_length => Some(f64::from(u8::from(*is_true))),
            Value::Number(number) if !self.is_length => number.as_f64(),
            Value::String(text) => Some(text.chars().count() as f64),
            other => Some(other.to_string().chars().count() as f64),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Column;
    use serde_json::json;

    fn table(rows: &[(&str, Value, Value)]) -> Rows {
        let column = |name: &str, column_type| Column { name: name.into(), column_type };
        let mut table = Rows::new(vec![column("text", ColumnType::Text), column("right", ColumnType::Bool)]);
        let row = |(id, text, right): &(&str, Value, Value)| Row {
            id: id.to_string(),
            cells: vec![text.clone(), right.clone()],
        };
        table.rows = rows.iter().map(row).collect();
        table
    }

    #[test]
    fn rows_are_followed_by_their_id_and_not_by_their_place() {
        let old = table(&[
            ("a", json!("one"), json!(true)),
            ("b", json!("two"), json!(false)),
            ("c", json!("x"), json!(true)),
        ]);
        let new = table(&[
            ("d", json!("new"), json!(true)),
            ("b", json!("three"), json!(true)),
            ("a", json!("one"), json!(true)),
        ]);
        let changes = between(&old, &new);
        assert_eq!((changes.same, changes.changed.len()), (1, 1));
        assert_eq!(changes.changed[0].id, "b");
        let cells: Vec<&str> = changes.changed[0].cells.iter().map(|cell| cell.column).collect();
        assert_eq!(cells, ["text", "right"]);
        let ids = |rows: &[&Row]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!((ids(&changes.added), ids(&changes.removed)), (vec!["d".to_string()], vec!["c".to_string()]));
    }

    #[test]
    fn columns_are_summed_up_over_all_rows() {
        let old = table(&[("a", json!("ab"), json!(false)), ("b", json!("abcd"), json!(null))]);
        let new = table(&[("a", json!("abc"), json!(true)), ("b", json!("abcde"), json!(null))]);
        let columns = between(&old, &new).columns;
        let told: Vec<_> =
            columns.iter().map(|one| (one.name.as_str(), one.changed, one.old_mean, one.new_mean)).collect();
        assert_eq!(told, [("text", 2, Some(3.0), Some(4.0)), ("right", 1, Some(0.0), Some(1.0))]);
    }

    #[test]
    fn equal_ids_are_matched_in_order_and_the_rest_is_added() {
        let old = table(&[("a", json!("1"), json!(true))]);
        let new = table(&[("a", json!("1"), json!(true)), ("a", json!("2"), json!(true))]);
        let changes = between(&old, &new);
        assert_eq!((changes.same, changes.added.len(), changes.removed.len()), (1, 1, 0));
        assert_eq!(changes.added[0].cells[0], json!("2"));
    }
}

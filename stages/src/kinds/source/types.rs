//! From foreign objects to a table: which type a column has when all its cells are known.

use crate::rows::{Column, ColumnType, Row, Rows};
use indexmap::IndexMap;
use serde_json::{Map, Value};

/// A table of all fields that occur, in the order in which they first occur. Whole numbers widen to fractions; a column of mixed
/// plain values is text; one that holds a list or a mapping anywhere is JSON.
pub fn table(objects: Vec<Map<String, Value>>, ids: Vec<String>) -> Rows {
    let mut types = Types::default();
    objects.iter().for_each(|object| types.note(object));
    let mut rows = Rows::new(types.columns());
    rows.rows = objects.into_iter().zip(ids).map(|(object, id)| row_of(object, id, &rows.columns)).collect();
    rows
}

/// What is known of the types of columns by now.
#[derive(Default)]
pub struct Types(IndexMap<String, Option<ColumnType>>);

impl Types {
    pub fn note(&mut self, object: &Map<String, Value>) {
        for (name, value) in object {
            let known = match self.0.get_mut(name) {
                Some(known) => known,
                None => self.0.entry(name.clone()).or_default(),
            };
            *known = widest(*known, type_of(value));
        }
    }

    pub fn columns(&self) -> Vec<Column> {
        let column = |(name, found): (&String, &Option<ColumnType>)| Column {
            name: name.clone(),
            column_type: found.unwrap_or(ColumnType::Text),
        };
        self.0.iter().map(column).collect()
    }
}

pub fn row_of(mut object: Map<String, Value>, id: String, columns: &[Column]) -> Row {
    let cells = columns.iter().map(|column| match object.get_mut(&column.name) {
        Some(cell) => convert(cell.take(), column.column_type),
        None => Value::Null,
    });
    Row { id, cells: cells.collect() }
}

/// `None` for a missing value, which fits every type.
fn type_of(value: &Value) -> Option<ColumnType> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(ColumnType::Bool),
        Value::Number(number) if number.is_i64() => Some(ColumnType::Int),
        Value::Number(number) if number.is_f64() => Some(ColumnType::Float),
        // A whole number beyond 64 bits keeps its digits.
        Value::Number(_) | Value::String(_) => Some(ColumnType::Text),
        Value::Array(_) | Value::Object(_) => Some(ColumnType::Json),
    }
}

fn widest(left: Option<ColumnType>, right: Option<ColumnType>) -> Option<ColumnType> {
    match (left, right) {
        (Some(left), Some(right)) => Some(unify(left, right)),
        (known, other) => known.or(other),
    }
}

/// The narrowest type that holds the values of both.
pub fn unify(left: ColumnType, right: ColumnType) -> ColumnType {
    use ColumnType::{Float, Int, Json, Text};
    match (left, right) {
        _ if left == right => left,
        (Json, _) | (_, Json) => Json,
        (Int, Float) | (Float, Int) => Float,
        _ => Text,
    }
}

/// A value as a column of the given (wider or equal) type holds it.
pub fn convert(value: Value, to: ColumnType) -> Value {
    match (to, &value) {
        (_, Value::Null) | (ColumnType::Text, Value::String(_)) => value,
        (ColumnType::Text, plain) => Value::from(plain.to_string()),
        (ColumnType::Float, number) => number.as_f64().map_or(Value::Null, Value::from),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(cells: Value, column_type: ColumnType, expected: Value) {
        let objects = cells.as_array().unwrap().iter().map(|cell| Map::from_iter([("c".to_string(), cell.clone())]));
        let objects: Vec<_> = objects.collect();
        let ids = objects.iter().map(|_| String::new()).collect();
        let rows = table(objects, ids);
        assert_eq!(rows.columns[0].column_type, column_type, "{cells}");
        assert_eq!(Value::from_iter(rows.rows.into_iter().map(|row| row.cells[0].clone())), expected);
    }

    #[test]
    fn a_column_takes_the_narrowest_type_that_holds_all_its_cells() {
        check(json!([1, null, -3]), ColumnType::Int, json!([1, null, -3]));
        check(json!([1, 2.5]), ColumnType::Float, json!([1.0, 2.5]));
        check(json!([true, null]), ColumnType::Bool, json!([true, null]));
        check(json!([true, 1, "x"]), ColumnType::Text, json!(["true", "1", "x"]));
        check(json!([18446744073709551615u64]), ColumnType::Text, json!(["18446744073709551615"]));
        check(json!(["x", [1]]), ColumnType::Json, json!(["x", [1]]));
        check(json!([null]), ColumnType::Text, json!([null]));
    }
}

//! From foreign objects to a table: which type a column has when all its cells are known.

use crate::rows::{Column, ColumnType, Row, Rows};
use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::{self, Formatter};

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
        object.iter().for_each(|(name, value)| self.note_one(name, type_of(value)));
    }

    /// The same for an object of which only this is known.
    pub fn note_outline(&mut self, Outline(fields): &Outline) {
        fields.iter().for_each(|(name, found)| self.note_one(name, *found));
    }

    /// All that was noted of the rows behind these.
    pub fn append(&mut self, behind: Types) {
        behind.0.iter().for_each(|(name, found)| self.note_one(name, *found));
    }

    fn note_one(&mut self, name: &str, found: Option<ColumnType>) {
        let known = match self.0.get_mut(name) {
            Some(known) => known,
            None => self.0.entry(name.to_string()).or_default(),
        };
        *known = widest(*known, found);
    }

    pub fn columns(&self) -> Vec<Column> {
        let column = |(name, found): (&String, &Option<ColumnType>)| Column {
            name: name.clone(),
            column_type: found.unwrap_or(ColumnType::Text),
        };
        self.0.iter().map(column).collect()
    }
}

/// An object's fields and the types of their values, read without keeping these.
pub struct Outline<'a>(IndexMap<Cow<'a, str>, Option<ColumnType>>);

impl Outline<'_> {
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Outline<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Outline<'de>;

            fn expecting(&self, out: &mut Formatter) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Outline<'de>, A::Error> {
                let mut outline = IndexMap::new();
                while let Some((Name(name), TypeOf(found))) = fields.next_entry()? {
                    // Of several under one name the last counts.
                    outline.insert(name, found);
                }
                Ok(Outline(outline))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What [`type_of`] a value would be; all of it is looked at, for what is broken in it.
struct TypeOf(Option<ColumnType>);

impl<'de> Deserialize<'de> for TypeOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyType).map(TypeOf)
    }
}

struct AnyType;

impl<'de> Visitor<'de> for AnyType {
    type Value = Option<ColumnType>;

    fn expecting(&self, out: &mut Formatter) -> fmt::Result {
        out.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(ColumnType::Bool))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(ColumnType::Int))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(type_of(&Value::from(number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(ColumnType::Float))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Some(ColumnType::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<TypeOf>()?.is_some() {}
        Ok(Some(ColumnType::Json))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<TypeOf, TypeOf>()?.is_some() {}
        Ok(Some(ColumnType::Json))
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

    /// The way of long files and that of short ones see the same columns, and the same lines as broken.
    #[test]
    fn an_outline_tells_what_the_object_does() {
        for line in [
            r#"{"a": 1, "b": "x\n", "c": null, "d": [1, {"e": 2}], "f": 2.5, "g": true, "h": {}}"#,
            r#"{"a": 18446744073709551615, "b": -3, "a": 1}"#,
            r#"{"a": "\ud83d\ude00", "\u0062": 1e3}"#,
            r#"{"a": "\ud83d"}"#,
            r#"{"a": {"b": ["\ud83d"]}}"#,
            r#"{"a": 1e999}"#,
            r#"{"a": [{"b": 1e999}]}"#,
            r#"{"a": 1} {}"#,
            "[1]",
            "7",
            "{",
            "  ",
        ] {
            let (mut whole, mut outlined) = (Types::default(), Types::default());
            let object = super::super::jsonl::read_line(line.as_bytes());
            let outline = super::super::jsonl::outline(line.as_bytes());
            assert_eq!(object.is_err(), outline.is_err(), "{line}");
            object.ok().flatten().iter().for_each(|object| whole.note(object));
            outline.ok().flatten().iter().for_each(|outline| outlined.note_outline(outline));
            assert_eq!(whole.columns(), outlined.columns(), "{line}");
        }
    }
}

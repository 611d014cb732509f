//! A table as stages see it: named, typed columns and rows that keep their id from the source on.

use crate::failure::{Failure, Result};
use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The name of the id column in every table we write.
pub const ROW_ID: &str = "row_id";
/// Field metadata that marks a text column as holding canonical JSON.
const JSON_MARK: (&str, &str) = ("decoct:type", "json");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnType {
    Bool,
    Int,
    Float,
    Text,
    /// Lists and mappings (a chain's steps, a question's options), stored as JSON text.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub column_type: ColumnType,
}

/// One row. `id` follows the row through filters, splits and draws; `cells` stand in column order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub id: String,
    pub cells: Vec<Value>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

/// A row of a table with these columns as a mapping from column name to value.
pub fn object(columns: &[Column], row: &Row) -> serde_json::Map<String, Value> {
    columns.iter().zip(&row.cells).map(|(column, cell)| (column.name.clone(), cell.clone())).collect()
}

/// The index of a column that must be there; the error names those that are.
pub fn require(columns: &[Column], name: &str) -> Result<usize> {
    columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        Failure::Recipe(format!("column `{name}` is missing; the input has `{}`", known.join("`, `")))
    })
}

/// The text in the cell of column `name`, which has this index.
pub fn text_of<'a>(row: &'a Row, index: usize, name: &str) -> Result<&'a str> {
    row.cells[index].as_str().ok_or_else(|| {
        Failure::Recipe(format!("column `{name}` of row `{}` should be text but is `{}`", row.id, row.cells[index]))
    })
}

/// Room in a row that was read for what a kind adds to it.
const COLUMNS_ADDED: usize = 4;

impl Rows {
    pub fn new(columns: Vec<Column>) -> Rows {
        Rows { columns, rows: Vec::new() }
    }

    /// The same columns, no rows.
    pub fn empty_like(&self) -> Rows {
        Rows::new(self.columns.clone())
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The index of a column that must be there; the error names those that are.
    pub fn require(&self, name: &str) -> Result<usize> {
        require(&self.columns, name)
    }

    /// The index of column `name`, added (filled with null) where it is not there yet. An existing column takes the given type.
    pub fn ensure(&mut self, name: &str, column_type: ColumnType) -> usize {
        if let Some(index) = self.position(name) {
            self.columns[index].column_type = column_type;
            return index;
        }
        self.columns.push(Column { name: name.to_string(), column_type });
        self.rows.iter_mut().for_each(|row| row.cells.push(Value::Null));
        self.columns.len() - 1
    }

    /// A row as a mapping from column name to value: what prompts and expressions see.
    pub fn object(&self, row: &Row) -> serde_json::Map<String, Value> {
        object(&self.columns, row)
    }

    pub fn text<'a>(&'a self, row: &'a Row, name: &str) -> Result<&'a str> {
        text_of(row, self.require(name)?, name)
    }

    /// Arrow form, the id first. Chunking and dictionaries are the store's business.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        let mut fields = vec![Field::new(ROW_ID, DataType::Utf8, false)];
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from_iter_values(self.rows.iter().map(|row| &row.id)))];
        for (index, column) in self.columns.iter().enumerate() {
            fields.push(field_of(column));
            arrays.push(self.array(index)?);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|error| Failure::Ourselves(error.to_string()))
    }

    /// Reads back what `to_batch` wrote; other numeric widths and string forms are widened.
    pub fn from_batches(batches: &[RecordBatch]) -> Result<Rows> {
        let Some(first) = batches.first() else { return Ok(Rows::default()) };
        let schema = first.schema();
        let columns = schema.fields().iter().filter(|field| field.name() != ROW_ID);
        let columns = columns.map(|field| column_of(field)).collect::<Result<Vec<_>>>()?;
        let mut table = Rows::new(columns);
        for batch in batches {
            table.append(batch)?;
        }
        Ok(table)
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let ids = batch.column_by_name(ROW_ID).and_then(|array| array.as_any().downcast_ref::<StringArray>());
        let ids = ids.ok_or_else(|| Failure::Ourselves(format!("a stored table lacks the column `{ROW_ID}`")))?;
        let start = self.rows.len();
        self.rows.extend(ids.iter().map(|id| Row {
            id: id.unwrap_or_default().to_string(),
            cells: Vec::with_capacity(self.columns.len() + COLUMNS_ADDED),
        }));
        for column in &self.columns {
            let array = batch.column_by_name(&column.name).expect("all batches of a table share one schema");
            for (offset, cell) in cells_of(array, column)?.into_iter().enumerate() {
                self.rows[start + offset].cells.push(cell);
            }
        }
        Ok(())
    }

    fn array(&self, index: usize) -> Result<ArrayRef> {
        let cells = self.rows.iter().map(|row| &row.cells[index]);
        let wrong = |cell: &Value| {
            let column = &self.columns[index];
            Failure::Recipe(format!("column `{}` is {:?} but holds `{cell}`", column.name, column.column_type))
        };
        macro_rules! typed {
            ($array:ty, $convert:expr) => {{
                let convert = $convert;
                let read = |cell: &Value| {
                    if cell.is_null() { Ok(None) } else { convert(cell).map(Some).ok_or_else(|| wrong(cell)) }
                };
                Arc::new(<$array>::from(cells.map(read).collect::<Result<Vec<_>>>()?)) as ArrayRef
            }};
        }
        Ok(match self.columns[index].column_type {
            ColumnType::Bool => typed!(BooleanArray, Value::as_bool),
            ColumnType::Int => typed!(Int64Array, Value::as_i64),
            ColumnType::Float => typed!(Float64Array, Value::as_f64),
            ColumnType::Text => {
                // With room for all of it: a column of long texts would be moved again and again as it grows.
                let bytes = cells.clone().filter_map(Value::as_str).map(str::len).sum();
                let mut texts = StringBuilder::with_capacity(self.rows.len(), bytes);
                for cell in cells {
                    match cell {
                        Value::Null => texts.append_null(),
                        Value::String(text) => texts.append_value(text),
                        other => return Err(wrong(other)),
                    }
                }
                Arc::new(texts.finish())
            }
            ColumnType::Json => typed!(StringArray, |cell: &Value| Some(cell.to_string())),
        })
    }
}

fn field_of(column: &Column) -> Field {
    let data_type = match column.column_type {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Text | ColumnType::Json => DataType::Utf8,
    };
    let field = Field::new(&column.name, data_type, true);
    match column.column_type {
        ColumnType::Json => field.with_metadata(HashMap::from([(JSON_MARK.0.to_string(), JSON_MARK.1.to_string())])),
        _ => field,
    }
}

/// Whether a text column of a table that we wrote holds JSON.
pub(crate) fn is_marked_json(field: &Field) -> bool {
    field.metadata().get(JSON_MARK.0).is_some_and(|mark| mark == JSON_MARK.1)
}

fn column_of(field: &Field) -> Result<Column> {
    let json = is_marked_json(field);
    let column_type = match field.data_type() {
        DataType::Boolean => ColumnType::Bool,
        DataType::Int64 => ColumnType::Int,
        DataType::Float64 => ColumnType::Float,
        DataType::Utf8 if json => ColumnType::Json,
        DataType::Utf8 => ColumnType::Text,
        other => return Err(Failure::Recipe(format!("column `{}` has the unsupported type `{other}`", field.name()))),
    };
    Ok(Column { name: field.name().clone(), column_type })
}

fn cells_of(array: &ArrayRef, column: &Column) -> Result<Vec<Value>> {
    let any = array.as_any();
    macro_rules! each {
        ($array:ty, $convert:expr) => {{
            let array = any.downcast_ref::<$array>().expect("the schema was checked");
            array.iter().map(|cell| cell.map_or(Ok(Value::Null), $convert)).collect()
        }};
    }
    match column.column_type {
        ColumnType::Bool => each!(BooleanArray, |cell| Ok(Value::from(cell))),
        ColumnType::Int => each!(Int64Array, |cell| Ok(Value::from(cell))),
        ColumnType::Float => each!(Float64Array, |cell| Ok(Value::from(cell))),
        ColumnType::Text => each!(StringArray, |cell: &str| Ok(Value::from(cell))),
        ColumnType::Json => each!(StringArray, |cell: &str| serde_json::from_str(cell)
            .map_err(|error| Failure::Ourselves(format!("column `{}` holds broken JSON: {error}", column.name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_survives_the_way_through_arrow() {
        let types = [ColumnType::Bool, ColumnType::Int, ColumnType::Float, ColumnType::Text, ColumnType::Json];
        let columns = types.iter().enumerate().map(|(i, &column_type)| Column { name: format!("c{i}"), column_type });
        let mut rows = Rows::new(columns.collect());
        rows.rows.push(Row {
            id: "a".into(),
            cells: vec![json!(true), json!(7), json!(0.5), json!("x\n"), json!({"B": 1, "A": [2]})],
        });
        rows.rows.push(Row { id: "b".into(), cells: vec![Value::Null; 5] });
        assert_eq!(Rows::from_batches(&[rows.to_batch().unwrap()]).unwrap(), rows);
        assert_eq!(rows.object(&rows.rows[0])["c4"].to_string(), r#"{"B":1,"A":[2]}"#);
    }

    #[test]
    fn a_cell_of_the_wrong_type_is_named() {
        let mut rows = Rows::new(vec![Column { name: "age".into(), column_type: ColumnType::Int }]);
        rows.rows.push(Row { id: "a".into(), cells: vec![json!("seven")] });
        assert!(rows.to_batch().unwrap_err().to_string().contains("`age`"));
        assert!(rows.require("ag").unwrap_err().to_string().contains("the input has `age`"));
    }
}

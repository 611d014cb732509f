//! Rows in the formats that people and other programs read.

use crate::cli::RowFormat;
use crate::failure::{Exit, Failure, Result};
use crate::report::table;
use crate::report::words::shortened;
use cache::{Table, TableWriter};
use serde_json::Value;
use stages::rows::{ROW_ID, Row, Rows};
use std::path::Path;

/// Characters of a cell in a table for the terminal.
const CELL_WIDTH: usize = 40;

/// The format that a file's ending asks for.
pub fn format_of(path: &Path) -> Option<RowFormat> {
    match path.extension()?.to_str()? {
        "json" | "jsonl" => Some(RowFormat::Json),
        "csv" => Some(RowFormat::Csv),
        "parquet" => Some(RowFormat::Parquet),
        "txt" => Some(RowFormat::Table),
        _ => None,
    }
}

/// All of `rows`. `as_list`: JSON becomes one list in place of one object a line.
pub fn bytes(rows: &Rows, format: RowFormat, as_list: bool) -> Result<Vec<u8>> {
    match format {
        RowFormat::Table => Ok(lines(table_lines(rows))),
        RowFormat::Json => Ok(json(rows, as_list)),
        RowFormat::Csv => csv(rows),
        RowFormat::Parquet => parquet(rows),
    }
}

/// One row with its whole texts, a column a paragraph.
pub fn whole(rows: &Rows, row: &Row) -> String {
    let cells = rows.columns.iter().zip(&row.cells);
    let paragraphs = cells.map(|(column, cell)| match plain(cell) {
        text if text.contains('\n') => format!("{}:\n{}\n", column.name, indented(&text)),
        text => format!("{}: {text}\n", column.name),
    });
    format!("{ROW_ID}: {}\n{}", row.id, paragraphs.collect::<String>())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn table_lines(rows: &Rows) -> Vec<String> {
    let columns: Vec<String> = rows.columns.iter().map(|column| column.name.clone()).collect();
    let cells = |row: &Row| row.cells.iter().map(|cell| shortened(&readable(cell), CELL_WIDTH)).collect();
    table::lines(&columns, &rows.rows.iter().map(cells).collect::<Vec<Vec<String>>>())
}

/// A fraction with four significant digits, which is what an eye compares; everything else plainly.
fn readable(cell: &Value) -> String {
    match cell {
        Value::Number(number) if number.is_f64() => four_digits(number.as_f64().expect("it is a float")),
        other => plain(other),
    }
}

fn four_digits(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().expect("what was just written as a number");
    match rounded.abs() {
        size if size != 0.0 && !(1e-4..1e9).contains(&size) => format!("{rounded:e}"),
        _ => rounded.to_string(),
    }
}

/// Text as it is, nothing for null, everything else as JSON.
fn plain(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn json(rows: &Rows, as_list: bool) -> Vec<u8> {
    let objects = rows.rows.iter().map(|row| {
        let mut object = serde_json::Map::from_iter([(ROW_ID.to_string(), Value::from(row.id.clone()))]);
        object.extend(rows.object(row));
        Value::Object(object).to_string()
    });
    match as_list {
        false => lines(objects),
        true => format!("[\n{}\n]\n", objects.collect::<Vec<_>>().join(",\n")).into_bytes(),
    }
}

fn csv(rows: &Rows) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head = std::iter::once(ROW_ID).chain(rows.columns.iter().map(|column| column.name.as_str()));
    let in_memory = "writing to memory does not fail";
    writer.write_record(head).expect(in_memory);
    for row in &rows.rows {
        writer.write_record(std::iter::once(row.id.clone()).chain(row.cells.iter().map(plain))).expect(in_memory);
    }
    Ok(writer.into_inner().expect(in_memory))
}

fn parquet(rows: &Rows) -> Result<Vec<u8>> {
    let batch = rows.to_batch()?;
    let mut writer = TableWriter::new(Vec::new(), batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.finish()?.0)
}

fn lines(lines: impl IntoIterator<Item = String>) -> Vec<u8> {
    lines.into_iter().flat_map(|line| (line + "\n").into_bytes()).collect()
}

/// Rows of any table, one of a training node's metrics included: types are widened, a missing id is the row's number.
pub fn rows_of(table: Table) -> Result<Rows> {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Schema};
    let batch = table.concat()?;
    let mut fields: Vec<Field> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    if batch.column_by_name(ROW_ID).is_none() {
        fields.push(Field::new(ROW_ID, DataType::Utf8, false));
        columns
            .push(std::sync::Arc::new(StringArray::from_iter_values((0..batch.num_rows()).map(|row| row.to_string()))));
    }
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let wide = match field.data_type() {
            DataType::Boolean => DataType::Boolean,
            integer if integer.is_integer() => DataType::Int64,
            number if number.is_numeric() => DataType::Float64,
            _ => DataType::Utf8,
        };
        columns.push(cast(column, &wide).map_err(ourselves)?);
        fields.push(field.as_ref().clone().with_data_type(wide));
    }
    let batch = RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns).map_err(ourselves)?;
    Ok(Rows::from_batches(&[batch])?)
}

fn ourselves(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Ourselves, format!("this is a bug in decoct: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stages::rows::{Column, ColumnType};

    fn rows() -> Rows {
        let column = |name: &str, column_type| Column { name: name.to_string(), column_type };
        let columns = vec![column("text", ColumnType::Text), column("steps", ColumnType::Json)];
        let row = |id: &str, cells| Row { id: id.to_string(), cells };
        Rows {
            columns,
            rows: vec![row("a", vec![json!("x, \"y\"\nz"), json!([1])]), row("b", vec![json!(null), json!({})])],
        }
    }

    #[test]
    fn each_format_holds_every_row() {
        let text = |format, as_list| String::from_utf8(bytes(&rows(), format, as_list).unwrap()).unwrap();
        let object = r#"{"row_id":"a","text":"x, \"y\"\nz","steps":[1]}"#;
        let other = r#"{"row_id":"b","text":null,"steps":{}}"#;
        assert_eq!(text(RowFormat::Json, false), format!("{object}\n{other}\n"));
        assert_eq!(text(RowFormat::Json, true), format!("[\n{object},\n{other}\n]\n"));
        assert_eq!(text(RowFormat::Csv, false), "row_id,text,steps\na,\"x, \"\"y\"\"\nz\",[1]\nb,,{}\n");
        assert_eq!(text(RowFormat::Table, false), "text     steps\n───────  ─────\nx, \"y\"…  [1]\n         {}\n");
    }

    #[test]
    fn parquet_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        std::fs::write(&path, bytes(&rows(), RowFormat::Parquet, false).unwrap()).unwrap();
        let table = cache::read_table(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(rows_of(table).unwrap(), rows());
    }

    #[test]
    fn fractions_in_a_table_are_short() {
        for (value, expected) in
            [(0.0, "0"), (0.7328125003259629, "0.7328"), (1.0, "1"), (-12345.678, "-12350"), (1.1538e-5, "1.154e-5")]
        {
            assert_eq!(four_digits(value), expected);
        }
    }

    #[test]
    fn a_whole_row_keeps_its_lines() {
        assert_eq!(whole(&rows(), &rows().rows[0]), "row_id: a\ntext:\n    x, \"y\"\n    z\nsteps: [1]\n");
    }
}

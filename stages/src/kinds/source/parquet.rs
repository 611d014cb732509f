//! Parquet from anywhere: every Arrow type becomes one of our five (numbers, truth values, text, and JSON for lists and structs).

use super::files::{Flaw, Read};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use std::fs::File;

pub fn read(file: File) -> Read {
    match read_all(file) {
        Ok(objects) => (objects, Vec::new()),
        Err(reason) => (Vec::new(), vec![Flaw { line: None, reason }]),
    }
}

fn read_all(file: File) -> Result<Vec<Map<String, Value>>, String> {
    let said = |error: &dyn std::fmt::Display| format!("not readable as Parquet: {error}");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| said(&error))?;
    let reader = builder.build().map_err(|error| said(&error))?;
    let mut objects = Vec::new();
    for batch in reader {
        objects.extend(batch_objects(&batch.map_err(|error| said(&error))?).map_err(|error| said(&error))?);
    }
    Ok(objects)
}

fn batch_objects(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>, ArrowError> {
    let mut objects = vec![Map::new(); batch.num_rows()];
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        for (object, cell) in objects.iter_mut().zip(cells(field, array)?) {
            object.insert(field.name().clone(), cell);
        }
    }
    Ok(objects)
}

fn cells(field: &Field, array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let mut cells = values(array)?;
    if crate::rows::is_marked_json(field) {
        for cell in &mut cells {
            let read = cell.as_str().and_then(|text| serde_json::from_str(text).ok());
            *cell = read.unwrap_or_else(|| cell.take());
        }
    }
    Ok(cells)
}

fn values(array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    use DataType as T;
    match array.data_type() {
        T::Boolean => plain::<BooleanArray, _, _>(array, &T::Boolean, |cells| cells.iter().map(Value::from).collect()),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
            plain::<Int64Array, _, _>(array, &T::Int64, |cells| cells.iter().map(Value::from).collect())
        }
        T::UInt64 => Ok(array.as_primitive::<arrow::datatypes::UInt64Type>().iter().map(Value::from).collect()),
        T::Float16 | T::Float32 | T::Float64 => {
            plain::<Float64Array, _, _>(array, &T::Float64, |cells| cells.iter().map(Value::from).collect())
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View => {
            plain::<StringArray, _, _>(array, &T::Utf8, |cells| cells.iter().map(Value::from).collect())
        }
        T::Dictionary(_, inner) => values(&cast(array, inner)?),
        T::List(inner) => lists(&cast(array, &T::LargeList(inner.clone()))?),
        T::LargeList(_) => lists(array),
        T::FixedSizeList(inner, _) => lists(&cast(array, &T::LargeList(inner.clone()))?),
        T::Struct(_) => structs(array),
        T::Null => Ok(vec![Value::Null; array.len()]),
        _ => shown(array),
    }
}

fn plain<A: Array + 'static, F, R>(array: &ArrayRef, to: &DataType, read: F) -> Result<R, ArrowError>
where
    F: Fn(&A) -> R,
{
    let cast = cast(array, to)?;
    Ok(read(cast.as_any().downcast_ref::<A>().expect("the cast gives the type asked for")))
}

fn lists(array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let lists = array.as_list::<i64>();
    lists.iter().map(|list| list.map_or(Ok(Value::Null), |list| values(&list).map(Value::Array))).collect()
}

fn structs(array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let structs = array.as_struct();
    let mut objects = vec![Map::new(); array.len()];
    for (field, column) in structs.fields().iter().zip(structs.columns()) {
        for (object, cell) in objects.iter_mut().zip(cells(field, column)?) {
            object.insert(field.name().clone(), cell);
        }
    }
    let or_null = |(index, object)| if structs.is_null(index) { Value::Null } else { Value::Object(object) };
    Ok(objects.into_iter().enumerate().map(or_null).collect())
}

/// Dates, times, decimals, binary: as Arrow writes them.
fn shown(array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
    let cell = |index| {
        if array.is_null(index) { Ok(Value::Null) } else { formatter.value(index).try_to_string().map(Value::from) }
    };
    (0..array.len()).map(cell).collect()
}

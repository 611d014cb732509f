//! The identity of a table: a hash over its schema and its values in order, whatever chunks, dictionaries or files hold them.
//!
//! Each column is one stream of values, hashed by itself; the table's hash is over the description of the schema, the number of
//! rows and the columns' hashes. A value is a byte 0 (null), or a byte 1 and
//!
//! | type | bytes |
//! |---|---|
//! | boolean | one |
//! | integers | little-endian, in their width |
//! | float32, float64 | their bits, little-endian; all NaNs are one, `-0.0` is not `0.0` |
//! | text, binary | length as u64, bytes |
//! | list, map | length as u64, items (a map's: key, value) in order |
//! | struct | its fields in order |
//! | null | nothing is ever valid |
//!
//! Not part of it: whether a field is declared nullable, the names of list items and map entries, which width of offsets Arrow
//! uses, and metadata whose key does not start with `decoct:`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, OffsetSizeTrait, RecordBatch, StructArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Metadata, Schema};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::hash::{ContentHash, Digest, Hasher};
use crate::key::canonical_json_hash;

const TABLE_DOMAIN: &str = "decoct 1 table content";
const COLUMN_DOMAIN: &str = "decoct 1 column content";

/// Metadata under these keys says something about the values; the rest is a writer's remark.
const METADATA_PREFIX: &str = "decoct:";

/// Bytes gathered before they are hashed: blake3 is several times faster on long inputs than on single values.
const BUFFER_BYTES: usize = 64 * 1024;

/// Hash of a whole table.
pub fn content_hash<'a>(schema: &Schema, batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<ContentHash> {
    let mut hasher = TableHasher::new(schema)?;
    for batch in batches {
        hasher.update(batch)?;
    }
    Ok(hasher.finish())
}

/// Hashes a table batch by batch; the size of the batches does not matter.
pub struct TableHasher {
    schema: Digest,
    columns: Vec<ColumnHasher>,
    rows: u64,
}

impl TableHasher {
    /// # Errors
    /// [`Error::UnsupportedType`] for a column whose type has no place in the table above.
    pub fn new(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| describe(field)).collect::<Result<Vec<_>>>()?;
        let described = json!({ "fields": fields, "metadata": own_metadata(schema.metadata()) });
        let columns = schema.fields().iter().map(|_| ColumnHasher::new()).collect();
        Ok(Self { schema: canonical_json_hash(&described), columns, rows: 0 })
    }

    /// # Panics
    /// If `batch` does not have the schema's number of columns.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        assert_eq!(batch.num_columns(), self.columns.len(), "a batch of another table");
        for ((hasher, array), field) in self.columns.iter_mut().zip(batch.columns()).zip(batch.schema().fields()) {
            hasher.update(&Column::of(array, field.name())?, array.len());
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub fn finish(mut self) -> ContentHash {
        let mut hasher = Hasher::new(TABLE_DOMAIN);
        hasher.field("schema", self.schema.as_bytes()).field("rows", &self.rows.to_le_bytes());
        for column in &mut self.columns {
            hasher.field("column", column.finish().as_bytes());
        }
        ContentHash(hasher.finish())
    }
}

/// What of a field is identity, as JSON: name, type in our own words (Arrow's may change), our metadata.
fn describe(field: &Field) -> Result<Value> {
    let mut described = json!({ "name": field.name(), "type": describe_type(field.data_type(), field.name())? });
    let metadata = own_metadata(field.metadata());
    if metadata != json!({}) {
        described["metadata"] = metadata;
    }
    Ok(described)
}

fn describe_type(data_type: &DataType, column: &str) -> Result<Value> {
    let name = match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Utf8 | DataType::LargeUtf8 => "text",
        DataType::Binary | DataType::LargeBinary => "binary",
        DataType::Dictionary(_, values) => return describe_type(values, column),
        DataType::List(item) | DataType::LargeList(item) => {
            return Ok(json!({ "list": describe_type(item.data_type(), column)? }));
        }
        DataType::Map(entries, _) => return Ok(json!({ "map": describe_entries(entries, column)? })),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| describe(field)).collect::<Result<Vec<_>>>()?;
            return Ok(json!({ "struct": fields }));
        }
        other => return Err(unsupported(other, column)),
    };
    Ok(name.into())
}

fn describe_entries(entries: &Field, column: &str) -> Result<Value> {
    match entries.data_type() {
        DataType::Struct(pair) => pair
            .iter()
            .map(|field| describe_type(field.data_type(), column))
            .collect::<Result<Vec<_>>>()
            .map(Value::from),
        other => Err(unsupported(other, column)),
    }
}

fn own_metadata(metadata: &Metadata) -> Value {
    metadata.iter().filter(|(key, _)| key.starts_with(METADATA_PREFIX)).map(|(k, v)| (k.clone(), json!(v))).collect()
}

fn unsupported(data_type: &DataType, column: &str) -> Error {
    Error::UnsupportedType { column: column.to_owned(), data_type: data_type.to_string() }
}

/// One column's stream of values on its way into a hash.
struct ColumnHasher {
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl ColumnHasher {
    fn new() -> Self {
        Self { hasher: Hasher::new(COLUMN_DOMAIN), buffer: Vec::new() }
    }

    fn update(&mut self, column: &Column, rows: usize) {
        for row in 0..rows {
            column.write(row, &mut self.buffer);
            if self.buffer.len() >= BUFFER_BYTES {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.hasher.raw(&self.buffer);
        self.buffer.clear();
    }

    fn finish(&mut self) -> Digest {
        self.flush();
        self.hasher.finish()
    }
}

/// An array whose type has been looked at once, so that writing a row is one match.
struct Column {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Null,
    Boolean(BooleanArray),
    /// Integers of `width` bytes.
    Fixed {
        bytes: Buffer,
        width: usize,
    },
    Float32(Buffer),
    Float64(Buffer),
    /// Text and binary.
    Bytes {
        bytes: Buffer,
        ends: Ends,
    },
    /// Lists and maps: ranges of the child's rows.
    List {
        ends: Ends,
        items: Box<Column>,
    },
    Struct(Vec<Column>),
    Dictionary {
        keys: Vec<usize>,
        values: Box<Column>,
    },
}

/// Offsets of either width.
enum Ends {
    Small(OffsetBuffer<i32>),
    Large(OffsetBuffer<i64>),
}

impl From<&OffsetBuffer<i32>> for Ends {
    fn from(offsets: &OffsetBuffer<i32>) -> Self {
        Self::Small(offsets.clone())
    }
}

impl From<&OffsetBuffer<i64>> for Ends {
    fn from(offsets: &OffsetBuffer<i64>) -> Self {
        Self::Large(offsets.clone())
    }
}

impl Ends {
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        match self {
            Self::Small(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Self::Large(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
        }
    }
}

impl Column {
    fn of(array: &ArrayRef, column: &str) -> Result<Self> {
        Ok(Self { nulls: array.nulls().cloned(), values: Values::of(array, column)? })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return out.push(0);
        }
        match &self.values {
            Values::Null => out.push(0),
            // Only its target says whether the value is null.
            Values::Dictionary { keys, values } => values.write(keys[row], out),
            values => {
                out.push(1);
                values.write(row, out);
            }
        }
    }
}

impl Values {
    fn of(array: &ArrayRef, column: &str) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            DataType::Int8 | DataType::UInt8 => fixed(array, 1),
            DataType::Int16 | DataType::UInt16 => fixed(array, 2),
            DataType::Int32 | DataType::UInt32 => fixed(array, 4),
            DataType::Int64 | DataType::UInt64 => fixed(array, 8),
            DataType::Float32 => Self::Float32(value_bytes(array, 4)),
            DataType::Float64 => Self::Float64(value_bytes(array, 8)),
            DataType::Utf8 => {
                let text = array.as_string::<i32>();
                Self::Bytes { bytes: text.values().clone(), ends: text.offsets().into() }
            }
            DataType::LargeUtf8 => {
                let text = array.as_string::<i64>();
                Self::Bytes { bytes: text.values().clone(), ends: text.offsets().into() }
            }
            DataType::Binary => {
                let binary = array.as_binary::<i32>();
                Self::Bytes { bytes: binary.values().clone(), ends: binary.offsets().into() }
            }
            DataType::LargeBinary => {
                let binary = array.as_binary::<i64>();
                Self::Bytes { bytes: binary.values().clone(), ends: binary.offsets().into() }
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Self::list(list.offsets(), Column::of(list.values(), column)?)
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Self::list(list.offsets(), Column::of(list.values(), column)?)
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                Self::list(map.offsets(), Column { nulls: None, values: Self::fields(map.entries(), column)? })
            }
            DataType::Struct(_) => Self::fields(array.as_struct(), column)?,
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                Self::Dictionary {
                    // Rows without a value have no meaningful key: the row's own null is seen first.
                    keys: if dictionary.values().is_empty() {
                        vec![0; array.len()]
                    } else {
                        dictionary.normalized_keys()
                    },
                    values: Box::new(Column::of(dictionary.values(), column)?),
                }
            }
            other => return Err(unsupported(other, column)),
        })
    }

    fn list<'a, O>(offsets: &'a OffsetBuffer<O>, items: Column) -> Self
    where
        O: OffsetSizeTrait,
        Ends: From<&'a OffsetBuffer<O>>,
    {
        Self::List { ends: offsets.into(), items: Box::new(items) }
    }

    fn fields(array: &StructArray, column: &str) -> Result<Self> {
        array.columns().iter().map(|child| Column::of(child, column)).collect::<Result<_>>().map(Self::Struct)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Null | Self::Dictionary { .. } => unreachable!("written by their column"),
            Self::Boolean(flags) => out.push(u8::from(flags.value(row))),
            Self::Fixed { bytes, width } => out.extend_from_slice(&bytes[row * width..][..*width]),
            Self::Float32(bytes) => {
                let value = f32::from_le_bytes(bytes[row * 4..][..4].try_into().expect("4 bytes"));
                out.extend_from_slice(&(if value.is_nan() { f32::NAN } else { value }).to_bits().to_le_bytes());
            }
            Self::Float64(bytes) => {
                let value = f64::from_le_bytes(bytes[row * 8..][..8].try_into().expect("8 bytes"));
                out.extend_from_slice(&(if value.is_nan() { f64::NAN } else { value }).to_bits().to_le_bytes());
            }
            Self::Bytes { bytes, ends } => {
                let range = ends.range(row);
                out.extend_from_slice(&(range.len() as u64).to_le_bytes());
                out.extend_from_slice(&bytes[range]);
            }
            Self::List { ends, items } => {
                let range = ends.range(row);
                out.extend_from_slice(&(range.len() as u64).to_le_bytes());
                range.for_each(|item| items.write(item, out));
            }
            Self::Struct(fields) => fields.iter().for_each(|field| field.write(row, out)),
        }
    }
}

fn fixed(array: &ArrayRef, width: usize) -> Values {
    Values::Fixed { bytes: value_bytes(array, width), width }
}

/// The values of a primitive array, from its first row on. Arrow keeps them in the machine's byte order.
fn value_bytes(array: &ArrayRef, width: usize) -> Buffer {
    const { assert!(cfg!(target_endian = "little"), "content hashes are defined over little-endian values") };
    let data = array.to_data();
    data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width)
}

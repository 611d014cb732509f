//! Tables as Parquet files that are the same bytes for the same rows, hashed by content and by file while they are written.

use std::fs::File;
use std::io::{Read, Seek, Write};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::ChunkReader;

use crate::content::TableHasher;
use crate::error::{Error, Result};
use crate::hash::ContentHash;

/// Rows handed to the Parquet writer at a time: it cuts pages at batch ends, and pages must not depend on the caller's batches.
const CHUNK_ROWS: usize = 8 * 1024;
const ROW_GROUP_ROWS: usize = 16 * CHUNK_ROWS;
/// Below this, setting up a compressor costs more than it saves.
const COMPRESSED_FROM_BYTES: usize = 16 << 10;

/// The reader opens a file anew for every page: below this it is given the bytes.
const READ_AT_ONCE_BYTES: u64 = 4 << 20;

/// Rows in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

impl Table {
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches }
    }

    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    pub fn content(&self) -> Result<ContentHash> {
        crate::content::content_hash(&self.schema, &self.batches)
    }

    /// All rows as one batch.
    pub fn concat(&self) -> Result<RecordBatch> {
        Ok(concat_batches(&self.schema, &self.batches)?)
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableSummary {
    pub content: ContentHash,
    pub rows: u64,
}

/// Writes batches of any size as one Parquet file (zstd level 1 unless it is tiny, fixed settings).
pub struct TableWriter<W: Write + Send> {
    schema: SchemaRef,
    hasher: TableHasher,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    rows: u64,
    /// Until the writer has it.
    output: Option<W>,
    /// Opened with the first chunk: how to compress depends on whether there is much.
    writer: Option<ArrowWriter<W>>,
}

impl<W: Write + Send> TableWriter<W> {
    /// # Errors
    /// [`Error::UnsupportedType`] names the first column that cannot be stored.
    pub fn new(output: W, schema: SchemaRef) -> Result<Self> {
        let hasher = TableHasher::new(&schema)?;
        Ok(Self { schema, hasher, pending: Vec::new(), pending_rows: 0, rows: 0, output: Some(output), writer: None })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.hasher.update(batch)?;
        self.rows += batch.num_rows() as u64;
        let mut start = 0;
        while start < batch.num_rows() {
            let taken = (CHUNK_ROWS - self.pending_rows).min(batch.num_rows() - start);
            self.pending.push(batch.slice(start, taken));
            self.pending_rows += taken;
            start += taken;
            if self.pending_rows == CHUNK_ROWS {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Also hands the output back, all bytes written, not yet synced.
    pub fn finish(mut self) -> Result<(W, TableSummary)> {
        self.write_chunk()?;
        let writer = self.writer.expect("a chunk has been written");
        let output = writer.into_inner().map_err(writing)?;
        Ok((output, TableSummary { content: self.hasher.finish(), rows: self.rows }))
    }

    fn write_chunk(&mut self) -> Result<()> {
        let chunk = concat_batches(&self.schema, &self.pending)?;
        if let Some(output) = self.output.take() {
            let settings = settings(self.pending_rows == CHUNK_ROWS || bytes_of(&chunk) >= COMPRESSED_FROM_BYTES);
            self.writer = Some(ArrowWriter::try_new(output, self.schema.clone(), Some(settings)).map_err(writing)?);
        }
        if let Some(writer) = self.writer.as_mut().filter(|_| self.pending_rows > 0) {
            writer.write(&chunk).map_err(writing)?;
        }
        self.pending.clear();
        self.pending_rows = 0;
        Ok(())
    }
}

/// Of the values, however the arrays that hold them were made.
fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX);
    batch.columns().iter().map(bytes).fold(0, usize::saturating_add)
}

/// All rows of a Parquet file, wherever it has been read to.
pub fn read_table(mut file: File) -> Result<Table> {
    let bytes = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
    if bytes > READ_AT_ONCE_BYTES {
        return read(file);
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.rewind().and_then(|()| file.read_to_end(&mut content)).map_err(|error| reading(error.into()))?;
    read(Bytes::from(content))
}

fn read(input: impl ChunkReader + 'static) -> Result<Table> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(input).map_err(reading)?;
    let schema = reader.schema().clone();
    let batches = reader.with_batch_size(CHUNK_ROWS).build().map_err(reading)?.collect::<Result<Vec<_>, _>>()?;
    Ok(Table { schema, batches })
}

fn settings(compressed: bool) -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("zstd has a level 1"));
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(if compressed { zstd } else { Compression::UNCOMPRESSED })
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by("decoct".into())
        .build()
}

fn writing(source: ParquetError) -> Error {
    Error::Parquet { doing: "write", source }
}

fn reading(source: ParquetError) -> Error {
    Error::Parquet { doing: "read", source }
}

//! Tables as Parquet files that are the same bytes for the same rows, hashed by content and by file while they are written.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use crate::content::TableHasher;
use crate::error::{Error, Result};
use crate::hash::ContentHash;

/// Rows handed to the Parquet writer at a time: it cuts pages at batch ends, and pages must not depend on the caller's batches.
const CHUNK_ROWS: usize = 256;
const ROW_GROUP_ROWS: usize = 512 * CHUNK_ROWS;
/// The writer holds a row group in memory until it is whole: wide rows make groups of fewer rows.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// A reader unpacks a page at a time: this much stays in a core's own cache, and the first row is there soon.
const PAGE_BYTES: usize = 256 << 10;
/// Below this, setting up a compressor costs more than it saves.
const COMPRESSED_FROM_BYTES: usize = 16 << 10;

/// Of a table that is read whole.
const BATCH_ROWS: usize = 8 * 1024;
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
            let settings = settings(&chunk);
            self.writer = Some(ArrowWriter::try_new(output, self.schema.clone(), Some(settings)).map_err(writing)?);
        }
        if let Some(writer) = self.writer.as_mut().filter(|_| self.pending_rows > 0) {
            writer.write(&chunk).map_err(writing)?;
            if writer.in_progress_size() >= ROW_GROUP_BYTES {
                writer.flush().map_err(writing)?;
            }
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
pub fn read_table(file: File) -> Result<Table> {
    let stored = StoredTable::new(file)?;
    let batches = stored.batches(0, BATCH_ROWS)?.collect::<Result<Vec<_>>>()?;
    Ok(Table { schema: stored.schema, batches })
}

/// A Parquet file that is read as far as it is wanted, as often as it is wanted.
#[derive(Debug)]
pub struct StoredTable {
    pub schema: SchemaRef,
    pub rows: u64,
    source: Source,
    metadata: ArrowReaderMetadata,
}

#[derive(Debug)]
enum Source {
    File(SharedFile),
    Bytes(Bytes),
}

/// A file that several readers read from at once, each at its own place: descriptors that are cloned have one place between them.
#[derive(Clone, Debug)]
struct SharedFile {
    file: Arc<File>,
    bytes: u64,
    at: u64,
}

impl Read for SharedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<SharedFile>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(SharedFile { at: start, ..self.clone() }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

impl StoredTable {
    /// Reads what stands at its end; all of it where that is quicker.
    pub fn new(mut file: File) -> Result<Self> {
        let bytes = file.metadata().map_or(u64::MAX, |metadata| metadata.len());
        let source = match bytes > READ_AT_ONCE_BYTES {
            true => Source::File(SharedFile { file: Arc::new(file), bytes, at: 0 }),
            false => {
                let mut content = Vec::with_capacity(bytes as usize);
                file.rewind().and_then(|()| file.read_to_end(&mut content)).map_err(|error| reading(error.into()))?;
                Source::Bytes(content.into())
            }
        };
        let metadata = match &source {
            Source::File(file) => ArrowReaderMetadata::load(file, ArrowReaderOptions::new()),
            Source::Bytes(bytes) => ArrowReaderMetadata::load(bytes, ArrowReaderOptions::new()),
        };
        let metadata = metadata.map_err(reading)?;
        let rows = metadata.metadata().file_metadata().num_rows().max(0) as u64;
        Ok(Self { schema: metadata.schema().clone(), rows, source, metadata })
    }

    /// The rows from number `first` on, at most `batch_rows` at a time.
    pub fn batches(&self, first: u64, batch_rows: usize) -> Result<Batches> {
        match &self.source {
            Source::File(file) => self.reader(file.clone(), first, batch_rows),
            Source::Bytes(bytes) => self.reader(bytes.clone(), first, batch_rows),
        }
    }

    fn reader(&self, input: impl ChunkReader + 'static, first: u64, batch_rows: usize) -> Result<Batches> {
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, self.metadata.clone());
        let reader = reader.with_batch_size(batch_rows).with_offset(first as usize);
        Ok(Batches(reader.build().map_err(reading)?))
    }
}

/// Rows of a [`StoredTable`] as they are read.
pub struct Batches(ParquetRecordBatchReader);

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map_err(Error::from))
    }
}

/// How a table that begins like this is written. Statistics help those who look for single values, which nobody does here.
fn settings(first: &RecordBatch) -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("zstd has a level 1"));
    let compressed = bytes_of(first) >= COMPRESSED_FROM_BYTES;
    let builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(if compressed { zstd } else { Compression::UNCOMPRESSED })
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_write_batch_size(CHUNK_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by("decoct".into());
    let columns = first.schema_ref().fields().iter().zip(first.columns());
    let distinct = columns.filter(|(_, values)| are_distinct_texts(values));
    distinct
        .fold(builder, |builder, (field, _)| {
            builder.set_column_dictionary_enabled(ColumnPath::new(vec![field.name().clone()]), false)
        })
        .build()
}

/// A dictionary of texts that come once each saves nothing, and costs looking each of them up.
fn are_distinct_texts(values: &ArrayRef) -> bool {
    let DataType::Utf8 = values.data_type() else { return false };
    let texts = values.as_string::<i32>();
    let mut seen = HashSet::with_capacity(texts.len());
    texts.len() == CHUNK_ROWS && texts.iter().all(|text| seen.insert(text))
}

fn writing(source: ParquetError) -> Error {
    Error::Parquet { doing: "write", source }
}

fn reading(source: ParquetError) -> Error {
    Error::Parquet { doing: "read", source }
}

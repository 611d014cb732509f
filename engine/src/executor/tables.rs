//! Tables of the store as stages see them: read while they are worked on, written while their rows are made.

use arrow::array::RecordBatch;
use cache::{Batches, ContentHash, Store, StoredTable, TableFile, WrittenTable};
use stages::failure::{Failure, Result};
use stages::rows::{Column, Row, Rows};
use stages::stage::Artifact;
use stages::table::{ROWS_AT_ONCE, RowSink, StoredRows};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// A finished table, its bytes verified.
#[derive(Debug)]
pub struct Opened {
    table: StoredTable,
    columns: Vec<Column>,
}

impl Opened {
    /// # Errors
    /// If it is no table of rows.
    pub fn new(table: StoredTable) -> Result<Opened> {
        let columns = Rows::from_batches(&[RecordBatch::new_empty(table.schema.clone())])?.columns;
        Ok(Opened { table, columns })
    }
}

impl StoredRows for Opened {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn len(&self) -> usize {
        self.table.rows as usize
    }

    fn read(&self, first: usize) -> Result<Box<dyn Iterator<Item = Result<Rows>> + Send>> {
        Ok(Box::new(rows(self.table.batches(first as u64, ROWS_AT_ONCE).map_err(machine)?)))
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn rows(batches: Batches) -> impl Iterator<Item = Result<Rows>> + Send {
    batches.map(|batch| Rows::from_batches(&[batch.map_err(machine)?]))
}

/// An output that a stage has written, not yet published.
#[derive(Debug)]
pub struct Written {
    columns: Vec<Column>,
    rows: usize,
    content: ContentHash,
    table: Mutex<Option<WrittenTable>>,
}

impl Written {
    pub fn content(&self) -> ContentHash {
        self.content
    }

    /// What a publication takes in; it can be read through the store from then on.
    pub fn take(&self) -> Option<WrittenTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl StoredRows for Written {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn read(&self, first: usize) -> Result<Box<dyn Iterator<Item = Result<Rows>> + Send>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let published = || Failure::Ourselves("a table was read after it was published".to_string());
        let opened = table.as_ref().ok_or_else(published)?.open().map_err(machine)?;
        Ok(Box::new(rows(opened.batches(first as u64, ROWS_AT_ONCE).map_err(machine)?)))
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Writes beside the store what a stage makes.
pub struct StoreSink {
    file: TableFile,
    /// On their way to the file.
    pending: Rows,
    rows: usize,
}

impl StoreSink {
    /// # Errors
    /// If nothing can be written there.
    pub fn new(store: &Store, columns: Vec<Column>) -> Result<StoreSink> {
        let pending = Rows::new(columns);
        let schema = pending.to_batch()?.schema();
        Ok(StoreSink { file: store.write_table(schema).map_err(machine)?, pending, rows: 0 })
    }

    fn write(&mut self) -> Result<()> {
        self.file.write(&self.pending.to_batch()?).map_err(machine)?;
        self.pending.rows.clear();
        Ok(())
    }
}

impl RowSink for StoreSink {
    fn push(&mut self, row: Row) -> Result<()> {
        self.pending.rows.push(row);
        self.rows += 1;
        if self.pending.len() >= ROWS_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<Artifact> {
        self.write()?;
        let table = self.file.finish().map_err(machine)?;
        let (content, columns, rows) = (table.summary.content, self.pending.columns, self.rows);
        Ok(Artifact::Stored(Arc::new(Written { columns, rows, content, table: Mutex::new(Some(table)) })))
    }
}

fn machine(error: cache::Error) -> Failure {
    Failure::Machine(error.to_string())
}

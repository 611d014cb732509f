//! Rows on their way in and out of a stage that need not all be in memory: read and written some at a time.

use crate::failure::{Failure, Result};
use crate::rows::{Column, Row, Rows};
use crate::stage::Artifact;
use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Rows that are read or written in one go: enough to be quick, few enough to be small.
pub const ROWS_AT_ONCE: usize = 256;
/// Read before they are wanted.
const BATCHES_AHEAD: usize = 2;

/// A table that lies somewhere. The engine stands behind it with the cache.
pub trait StoredRows: Send + Sync + Debug {
    fn columns(&self) -> &[Column];
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// From row number `first` on, some rows at a time. Any number of readers may go over it at once.
    fn read(&self, first: usize) -> Result<Box<dyn Iterator<Item = Result<Rows>> + Send>>;
    /// For the engine, to find its own again.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Takes the rows of an output one after another.
pub trait RowSink: Send {
    fn push(&mut self, row: Row) -> Result<()>;
    /// All rows that were pushed, as an output.
    fn finish(self: Box<Self>) -> Result<Artifact>;
}

/// What a stage is given at a port of rows.
#[derive(Debug, Clone)]
pub enum Table {
    Rows(Arc<Rows>),
    Stored(Arc<dyn StoredRows>),
}

impl Table {
    pub fn columns(&self) -> &[Column] {
        match self {
            Table::Rows(rows) => &rows.columns,
            Table::Stored(stored) => stored.columns(),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Table::Rows(rows) => rows.len(),
            Table::Stored(stored) => stored.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row with its number, beginning with number `first` and going round.
    pub fn rows_from(&self, first: usize) -> impl Iterator<Item = Result<(usize, Row)>> + Send + 'static {
        let (count, table) = (self.len(), self.clone());
        let after = table.rows_of(first, count);
        after.chain(table.rows_of(0, first))
    }

    /// The rows with numbers from `first` to below `end`.
    fn rows_of(&self, first: usize, end: usize) -> Box<dyn Iterator<Item = Result<(usize, Row)>> + Send> {
        let numbered = move |(place, row): (usize, Result<Row>)| row.map(|row| (first + place, row));
        let count = end.saturating_sub(first);
        match self.clone() {
            Table::Rows(rows) => Box::new((first..end).map(move |index| Ok((index, rows.rows[index].clone())))),
            // Opened with the first row that is asked for.
            Table::Stored(stored) => {
                let read = move || match stored.len() > ROWS_AT_ONCE {
                    true => stored.read(first).map(ahead),
                    false => stored.read(first),
                };
                let rows = std::iter::once_with(read).flat_map(rows_of_batches);
                Box::new(rows.take(count).enumerate().map(numbered))
            }
        }
    }

    /// All rows in memory.
    pub fn load(self) -> Result<Rows> {
        match self {
            Table::Rows(rows) => Ok(Arc::unwrap_or_clone(rows)),
            Table::Stored(stored) => {
                let mut all = Rows::new(stored.columns().to_vec());
                all.rows.reserve(stored.len());
                stored.read(0)?.try_for_each(|batch| batch.map(|batch| all.rows.extend(batch.rows)))?;
                Ok(all)
            }
        }
    }
}

/// A table that is looked through and not taken.
#[derive(Debug, Clone, Copy)]
pub enum TableView<'a> {
    Rows(&'a Rows),
    Stored(&'a Arc<dyn StoredRows>),
}

impl TableView<'_> {
    /// All rows in order, some at a time.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn for_each_batch(&self, mut look: impl FnMut(&Rows)) -> Result<()> {
        match self {
            TableView::Rows(rows) => look(rows),
            TableView::Stored(stored) => stored.read(0)?.try_for_each(|batch| batch.map(|batch| look(&batch)))?,
        }
        Ok(())
    }
}

type Batches = Box<dyn Iterator<Item = Result<Rows>> + Send>;

/// The same rows, read on a thread of its own while those before them are worked on.
fn ahead(mut batches: Batches) -> Batches {
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    let mut next = move || {
        let next = catch_unwind(AssertUnwindSafe(|| batches.next()));
        next.unwrap_or_else(|panic| Some(Err(Failure::of_panic(&*panic))))
    };
    let read = move || {
        while let Some(batch) = next() {
            let is_last = batch.is_err();
            if sender.send(batch).is_err() || is_last {
                return;
            }
        }
    };
    match std::thread::Builder::new().name("rows ahead".into()).spawn(read) {
        Ok(_) => Box::new(receiver.into_iter()),
        Err(error) => Box::new(std::iter::once(Err(Failure::Machine(format!("cannot start a thread: {error}"))))),
    }
}

fn rows_of_batches(batches: Result<Batches>) -> Box<dyn Iterator<Item = Result<Row>> + Send> {
    match batches {
        Err(failure) => Box::new(std::iter::once(Err(failure))),
        Ok(batches) => Box::new(batches.flat_map(|batch| match batch {
            Ok(rows) => rows.rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(failure) => vec![Err(failure)],
        })),
    }
}

/// A sink for those who have no store.
pub struct MemorySink(pub Rows);

impl RowSink for MemorySink {
    fn push(&mut self, row: Row) -> Result<()> {
        self.0.rows.push(row);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Artifact> {
        Ok(Artifact::Rows(self.0))
    }
}

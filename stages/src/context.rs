//! Everything a stage needs besides its rows. The engine implements it; tests fake it. A stage sees no other world.

use crate::draw::Draw;
use crate::failure::{Failure, Result};
use crate::llm::Caller;
use crate::rows::{Column, Rows};
use crate::table::{MemorySink, RowSink};
use std::path::Path;

pub use kernels::{Device, DeviceError, Profile, Toolkit};

pub trait Context: Send + Sync {
    /// Random draws of this node: keyed by the seed, the kind and the node's `stream` setting.
    fn draw(&self) -> Draw;
    /// A way to ask the language model behind a port (see [`crate::stage::Stage::models`]).
    fn caller(&self, port: &str) -> Result<Caller>;
    /// Where asynchronous work runs; stages themselves run on a thread that may block.
    fn runtime(&self) -> &tokio::runtime::Handle;
    fn device(&self) -> Device;
    /// Bytes that are free for this node's work on the device; `None` where nobody tells.
    fn memory_available(&self) -> Option<u64> {
        None
    }
    /// A folder that survives a crash of this node (checkpoints) and goes away once its result is published.
    fn scratch(&self) -> &Path;
    /// Becomes true on ctrl-C or when the run cannot go on; a stage then returns [`Failure::Cancelled`] at the next safe point.
    fn cancelled(&self) -> bool;
    /// How far it is. Cheap; called as often as a stage likes.
    fn progress(&self, progress: Progress);
    /// Something the reader of the console should know that is no failure.
    fn warn(&self, message: &str);

    /// The row, below `count`, with which to begin where the order does not matter. Machines that share their replies begin at
    /// different rows, so that they meet each other's replies in place of paying for the same ones side by side.
    fn first_row(&self, _count: usize) -> usize {
        0
    }

    /// Whether every answer is there at once: a stage that is played through with kept replies. Then rows need no tasks.
    fn waits_for_nothing(&self) -> bool {
        false
    }

    /// Where the rows of an output go while a stage works. Dropped unfinished, it leaves nothing.
    fn sink(&self, columns: Vec<Column>) -> Result<Box<dyn RowSink>> {
        Ok(Box::new(MemorySink(Rows::new(columns))))
    }

    /// `Err(Cancelled)` when asked to stop: for the question mark at a safe point.
    fn checkpoint(&self) -> Result<()> {
        if self.cancelled() { Err(Failure::Cancelled) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    /// The unit of the two: `rows`, `steps`, `iterations`.
    pub unit: &'static str,
    /// Such as `loss 0.31` or `reward 0.72`.
    pub note: String,
}

//! All that a stage gets to see of the world besides its rows.

use super::stop::Stop;
use super::tables::StoreSink;
use crate::report::{Event, Reporter};
use cache::Store;
use stages::context::{Context, Device, Progress};
use stages::draw::Draw;
use stages::failure::{Failure, Result};
use stages::llm::{Caller, Meter};
use stages::rows::Column;
use stages::table::RowSink;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Between two events of progress of one node.
const PROGRESS_EVERY_MS: u64 = 200;

pub struct NodeContext<'a> {
    pub node: &'a str,
    /// Where outputs are written.
    pub store: &'a Store,
    pub draw: Draw,
    pub callers: HashMap<String, Caller>,
    pub meter: Arc<Meter>,
    pub runtime: tokio::runtime::Handle,
    pub device: Device,
    pub scratch: PathBuf,
    pub stop: Stop,
    pub reporter: &'a dyn Reporter,
    pub started: Instant,
    /// Where this process begins when the order of rows does not matter: differs between machines that share a store.
    pub first_row: usize,
    /// When progress is told next, in milliseconds after the start.
    pub next_progress_ms: AtomicU64,
}

impl NodeContext<'_> {
    fn is_due(&self, now_ms: u64) -> bool {
        let next = self.next_progress_ms.load(Ordering::Relaxed);
        let later = now_ms + PROGRESS_EVERY_MS;
        now_ms >= next
            && self.next_progress_ms.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Context for NodeContext<'_> {
    fn draw(&self) -> Draw {
        self.draw.clone()
    }

    fn caller(&self, port: &str) -> Result<Caller> {
        caller(&self.callers, self.node, port)
    }

    fn memory_available(&self) -> Option<u64> {
        // A variable that is no amount of memory stopped the run at its start.
        self.device.memory_free().or_else(|| crate::memory::available().ok().flatten())
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn cancelled(&self) -> bool {
        self.stop.is_asked()
    }

    fn progress(&self, progress: Progress) {
        let elapsed = self.started.elapsed();
        if self.is_due(elapsed.as_millis() as u64) {
            let (meter, seconds) = (self.meter.read(), elapsed.as_secs_f64());
            self.reporter.tell(&Event::Progressed { node: self.node, progress: &progress, meter, seconds });
        }
    }

    fn first_row(&self, count: usize) -> usize {
        self.first_row % count.max(1)
    }

    fn sink(&self, columns: Vec<Column>) -> Result<Box<dyn RowSink>> {
        Ok(Box::new(StoreSink::new(self.store, columns)?))
    }

    fn warn(&self, message: &str) {
        self.reporter.tell(&Event::Warned { node: Some(self.node), message });
    }
}

/// The caller behind a port. A stage that asks for one it did not declare is our own bug.
pub fn caller(callers: &HashMap<String, Caller>, node: &str, port: &str) -> Result<Caller> {
    let missing = || Failure::Ourselves(format!("the stage of `{node}` declares no model port `{port}`"));
    callers.get(port).cloned().ok_or_else(missing)
}

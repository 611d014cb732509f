//! A host that stops a training loop now and then, as a user or a crash would.

use stages::failure::{Failure, Result};
use stages::train::{Host, Metrics};
use std::cell::Cell;
use std::path::Path;

/// Stops after so many questions whether to; keeps checkpoints in a folder.
pub struct Stopping<'a> {
    pub folder: &'a Path,
    pub every: u64,
    pub left: Cell<u64>,
}

impl Host for Stopping<'_> {
    fn checkpoint_folder(&self) -> Option<&Path> {
        Some(self.folder)
    }

    fn checkpoint_every(&self) -> u64 {
        self.every
    }

    fn cancelled(&self) -> bool {
        self.left.set(self.left.get().saturating_sub(1));
        self.left.get() == 0
    }

    fn report(&mut self, _: &Metrics, _: u64) {}
}

/// Stops again and again, each time a little later, and lastly lets it end.
pub fn with_stops<T>(stops: &[u64], every: u64, mut train: impl FnMut(&mut dyn Host) -> Result<T>) -> T {
    let folder = tempfile::tempdir().unwrap();
    for &stop in stops {
        let mut host = Stopping { folder: folder.path(), every, left: Cell::new(stop) };
        assert!(matches!(train(&mut host), Err(Failure::Cancelled)), "stopped after {stop} more steps");
    }
    train(&mut Stopping { folder: folder.path(), every, left: Cell::new(u64::MAX) }).unwrap()
}

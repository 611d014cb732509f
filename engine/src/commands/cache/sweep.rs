//! `decoct cache sweep`: drops what nothing needs any more.

use crate::cli::CacheSweepArgs;
use crate::failure::{Exit, Failure, Result};

pub fn run(_: &CacheSweepArgs) -> Result<Exit> {
    Err(Failure::new(Exit::Ourselves, "not built yet"))
}

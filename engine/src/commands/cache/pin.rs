//! `decoct cache pin`: keeps finished work from sweeps.

use crate::cli::CachePinArgs;
use crate::failure::{Exit, Failure, Result};

pub fn run(_: &CachePinArgs) -> Result<Exit> {
    Err(Failure::new(Exit::Ourselves, "not built yet"))
}

//! `decoct cache stat`: what takes how much space.

use crate::cli::CacheStatArgs;
use crate::failure::{Exit, Failure, Result};

pub fn run(_: &CacheStatArgs) -> Result<Exit> {
    Err(Failure::new(Exit::Ourselves, "not built yet"))
}

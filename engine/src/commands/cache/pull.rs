//! `decoct cache pull`: fetches finished work and replies from the shared store.

use crate::cli::CachePullArgs;
use crate::failure::{Exit, Failure, Result};

pub fn run(_: &CachePullArgs) -> Result<Exit> {
    Err(Failure::new(Exit::Ourselves, "not built yet"))
}

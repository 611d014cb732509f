//! `decoct cache …`: looking after the store and sharing it, one file a command.

mod keys;
mod moving;
mod pin;
mod pull;
mod push;
mod stat;
mod sweep;
pub mod trust;
mod verify;

use crate::cli::{CacheCommand, StoreArgs};
use crate::failure::{Exit, Result};
use crate::workplace::cache_folder;
use cache::Store;

pub fn run(command: &CacheCommand) -> Result<Exit> {
    match command {
        CacheCommand::Stat(arguments) => stat::run(arguments),
        CacheCommand::Verify(arguments) => verify::run(arguments),
        CacheCommand::Sweep(arguments) => sweep::run(arguments),
        CacheCommand::Pin(arguments) => pin::run(arguments),
        CacheCommand::Push(arguments) => push::run(arguments),
        CacheCommand::Pull(arguments) => pull::run(arguments),
        CacheCommand::Trust(arguments) => trust::run(arguments),
    }
}

/// The store of this machine, without what may be shared.
fn open(arguments: &StoreArgs) -> Result<Store> {
    Ok(Store::open(&cache_folder(arguments)?)?)
}

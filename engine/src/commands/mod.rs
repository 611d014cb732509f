//! One file a command: arguments in, exit code out.

mod budget;
pub mod cache;
pub mod chat;
pub mod check;
pub mod completions;
mod device;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod generate;
pub mod init;
mod lines;
pub mod man;
mod model;
pub mod plan;
pub mod run;
pub mod runs;
pub mod schema;
pub mod score;
pub mod show;
mod tensorboard;
pub mod trace;

use crate::cli::MachineArgs;

/// Nodes that run side by side.
fn jobs(machine: &MachineArgs) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    machine.jobs.map_or_else(cores, |jobs| usize::try_from(jobs).unwrap_or(usize::MAX))
}

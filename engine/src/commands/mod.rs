//! One file a command: arguments in, exit code out.

pub mod check;
pub mod export;
pub mod generate;
pub mod plan;
pub mod run;
pub mod schema;
pub mod show;

use crate::cli::MachineArgs;

/// Nodes that run side by side.
fn jobs(machine: &MachineArgs) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    machine.jobs.map_or_else(cores, |jobs| usize::try_from(jobs).unwrap_or(usize::MAX))
}

//! `decoct completions`: a script with which a shell completes commands and flags.

use crate::cli::{Cli, CompletionsArgs};
use crate::failure::{Exit, Result};
use clap::CommandFactory;
use std::io::Write;

pub fn run(arguments: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "decoct", &mut script);
    // A reader that has seen enough (`| head`) is no failure.
    let _ = std::io::stdout().lock().write_all(&script);
    Ok(Exit::Done)
}

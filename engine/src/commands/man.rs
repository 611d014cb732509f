//! `decoct man`: the manual, a page for each command.

use crate::cli::{Cli, ManArgs};
use crate::failure::{Exit, Failure, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::Write;
use std::path::Path;

pub fn run(arguments: &ManArgs) -> Result<Exit> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Gives commands below others their whole names, such as `decoct cache pin`.
    command.build();
    match &arguments.folder {
        None => {
            // A reader that has seen enough (`| head`) is no failure.
            let _ = std::io::stdout().lock().write_all(&page(command));
        }
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
            write(&command, folder)?;
        }
    }
    Ok(Exit::Done)
}

fn write(command: &Command, folder: &Path) -> Result<()> {
    let path = folder.join(Man::new(command.clone()).get_filename());
    std::fs::write(&path, page(command.clone())).map_err(|error| Failure::io("write", &path, &error))?;
    command.get_subcommands().try_for_each(|below| write(below, folder))
}

fn page(command: Command) -> Vec<u8> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).expect("memory can be written to");
    page
}

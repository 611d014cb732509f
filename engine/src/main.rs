//! The command `decoct`: reads the command line, hands over to a command, tells how it ended.

mod cli;
mod commands;
mod differences;
mod executor;
mod explain;
mod failure;
mod forecast;
mod graph;
mod manifest;
mod memory;
mod plan;
mod report;
mod schedule;
mod spec;
mod team;
mod trace;
mod up_to_date;
mod waiting;
mod workplace;

use clap::Parser;
use cli::{Cli, Command};
use failure::{Exit, Failure, Result};
use std::io::IsTerminal;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    failure::install_panic_hook();
    stages::llm::install_tls();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = std::panic::catch_unwind(|| dispatch(&cli));
    match ended {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(failure)) => tell(&failure, cli.wants_events()),
        Err(panic) => match stages::failure::Failure::of_panic(&*panic) {
            // The hook has told what happened.
            stages::failure::Failure::Ourselves(_) => Exit::Ourselves.into(),
            of_device => tell(&of_device.into(), cli.wants_events()),
        },
    }
}

fn dispatch(cli: &Cli) -> Result<Exit> {
    match &cli.command {
        Command::Check(arguments) => commands::check::run(arguments),
        Command::Init(arguments) => commands::init::run(arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments),
        Command::Schema => commands::schema::run(),
        Command::Completions(arguments) => commands::completions::run(arguments),
        Command::Man(arguments) => commands::man::run(arguments),
        Command::Run(arguments) => commands::run::run(arguments),
        Command::Plan(arguments) => commands::plan::run(arguments),
        Command::Explain(arguments) => commands::explain::run(arguments),
        Command::Diff(arguments) => commands::diff::run(arguments),
        Command::Trace(arguments) => commands::trace::run(arguments),
        Command::Runs(arguments) => commands::runs::run(arguments),
        Command::Show(arguments) => commands::show::run(arguments),
        Command::Generate(arguments) => commands::generate::run(arguments),
        Command::Score(arguments) => commands::score::run(arguments),
        Command::Chat(arguments) => commands::chat::run(arguments),
        Command::Cache(command) => commands::cache::run(command),
    }
}

/// Help goes to stdout and is no mistake; clap's own code for mistakes is 2 as well.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() { Exit::Recipe.into() } else { Exit::Done.into() }
}

fn tell(failure: &Failure, as_events: bool) -> ExitCode {
    if as_events {
        failure.events().iter().for_each(|event| println!("{event}"));
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    eprint!("{}", failure.render(colour));
    failure.exit().into()
}

//! Why a command did not succeed, sorted by whose fault it is: each kind has its exit code.

use crate::spec::Diagnostics;
use serde_json::{Value, json};
use std::process::ExitCode;

/// What the exit code says. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    NodeFailed = 1,
    Recipe = 2,
    Budget = 3,
    Cache = 4,
    Remote = 5,
    Ourselves = 70,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The recipe or the command line is wrong, with places.
    #[error("the recipe has mistakes")]
    Mistakes(Diagnostics),
    /// Anything else: what happened, what to do about it, and the exit code.
    #[error("{message}")]
    Plain { exit: Exit, message: String, hint: Option<String> },
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure::Plain { exit, message: message.into(), hint: None }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>, hint: Option<String>) -> Failure {
        Failure::Plain { exit: Exit::Recipe, message: message.into(), hint }
    }

    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
        Failure::new(Exit::NodeFailed, format!("cannot {action} `{}`: {error}", path.display()))
    }

    pub fn exit(&self) -> Exit {
        match self {
            Failure::Mistakes(_) => Exit::Recipe,
            Failure::Plain { exit, .. } => *exit,
        }
    }

    /// What a person reads on stderr.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Failure::Mistakes(diagnostics) => diagnostics.render(colour),
            Failure::Plain { message, hint, .. } => {
                let (red, bold, plain) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
                let hint = hint.as_ref().map(|hint| format!("  {bold}help{plain}: {hint}\n")).unwrap_or_default();
                format!("{red}error{plain}: {message}\n{hint}")
            }
        }
    }

    /// The same for programs: one JSON object an event, the last one `finished`.
    pub fn events(&self) -> Vec<Value> {
        let mut events = match self {
            Failure::Mistakes(diagnostics) => diagnostics.to_json(),
            Failure::Plain { message, hint, .. } => vec![json!({"event": "error", "message": message, "hint": hint})],
        };
        events.push(finished(false));
        events
    }
}

/// The last event of a command that came to no node.
pub fn finished(ok: bool) -> Value {
    json!({"event": "finished", "ok": ok, "nodes": []})
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Failure {
        Failure::Mistakes(diagnostics)
    }
}

impl From<stages::failure::Failure> for Failure {
    fn from(failure: stages::failure::Failure) -> Failure {
        Failure::new(exit_of(&failure), failure.to_string())
    }
}

/// The exit code of a run that ends because of a stage's failure.
pub fn exit_of(failure: &stages::failure::Failure) -> Exit {
    use stages::failure::Failure as Stage;
    match failure {
        Stage::Recipe(_) | Stage::Machine(_) => Exit::NodeFailed,
        Stage::Remote(_) => Exit::Remote,
        Stage::Budget(_) => Exit::Budget,
        Stage::Replies(_) => Exit::Cache,
        Stage::Cancelled => Exit::Interrupted,
        Stage::Ourselves(_) => Exit::Ourselves,
    }
}

/// A panic is our bug: it is told in a sentence. The exit code is set where it is caught, see `main`.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        if message.starts_with("failed printing to") {
            // The reader went away (`| head`): there is no one left to tell.
            std::process::exit(Exit::Interrupted as i32);
        }
        let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        eprintln!("error: this is a bug in decoct: {message}{place}");
        eprintln!("  help: please report it with the command you ran; finished work is kept");
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_exit_code() {
        use stages::failure::Failure as Stage;
        for (failure, expected) in [
            (Stage::Recipe("x".into()), 1),
            (Stage::Budget("x".into()), 3),
            (Stage::Replies("x".into()), 4),
            (Stage::Remote("x".into()), 5),
            (Stage::Ourselves("x".into()), 70),
            (Stage::Cancelled, 130),
        ] {
            assert_eq!(Failure::from(failure.clone()).exit() as u8, expected, "{failure:?}");
        }
        assert_eq!(Failure::usage("x", None).exit() as u8, 2);
    }
}

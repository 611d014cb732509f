//! Runs a program under ptrace and lets a test decide, at each step that changes files below a folder, what becomes of it: go on,
//! die just before or after it, die in the middle of a write, or hear from the kernel that it failed. The program needs no hook.
//!
//! Linux on x86_64 and aarch64. A seccomp filter stops the program at those calls only, so the rest runs at full speed.
#![allow(dead_code, reason = "each test file uses its own share of this")]

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod follow;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod syscalls;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a step does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Create,
    Write,
    Sync,
    Rename,
    Link,
    Remove,
    Folder,
    Truncate,
    Mode,
    /// Changes nothing, and is not counted; here so that a test can refuse locks.
    Lock,
}

/// One call of the program that the kernel has not carried out yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// From 1, over all threads of the program; a lock has the number of the step before it.
    pub number: usize,
    pub kind: Kind,
    /// For a rename and a link the new name.
    pub path: PathBuf,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Go,
    /// SIGKILL, with the step not done.
    KillBefore,
    /// SIGKILL, with the step done.
    KillAfter,
    /// SIGKILL, with half of the bytes written; any other step is done.
    KillHalfway,
    /// Not done; the program hears this error number.
    Fail(i32),
}

/// How a traced program went.
pub struct Traced {
    pub output: Output,
    /// Without locks.
    pub steps: Vec<Step>,
    /// Whether it was killed by an [`Act`].
    pub is_killed: bool,
}

/// Runs `command` to its end; `act` decides over each step below `folder`.
///
/// # Errors
/// If the kernel refuses to trace, as some containers do.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn trace(command: Command, folder: &Path, act: impl FnMut(&Step) -> Act + Send) -> io::Result<Traced> {
    // Only the thread that started a program may trace it, and it must have no other children to wait for.
    std::thread::scope(|scope| {
        scope.spawn(|| follow::run(command, folder, act)).join().expect("the tracer does not panic")
    })
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub fn trace(_: Command, _: &Path, _: impl FnMut(&Step) -> Act + Send) -> io::Result<Traced> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether programs can be traced here; says so loudly where they cannot.
pub fn can_trace() -> bool {
    let can = trace(Command::new("true"), Path::new("/nowhere"), |_| Act::Go);
    if let Err(why) = &can {
        eprintln!("THIS MACHINE REFUSES PTRACE ({why}): steps cannot be hit one by one, only moments in time");
    }
    can.is_ok()
}

//! The loop: waits for the program's threads to stop, asks the test what to do, and lets them go on.

use super::machine::{self, Registers, Stop};
use super::syscalls::{self, Call, LENGTH};
use super::{Act, Kind, Step, Traced};
use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

/// Runs on a thread of its own.
pub fn run(mut command: Command, folder: &Path, act: impl FnMut(&Step) -> Act) -> io::Result<Traced> {
    let calls = syscalls::calls();
    machine::prepare(&mut command, machine::filter(&calls));
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (drain(process.stdout.take()), drain(process.stderr.take()));
    let mut tracer = Tracer {
        calls,
        folder: real_path(folder),
        process: process.id() as i32,
        act,
        steps: Vec::new(),
        threads: HashSet::new(),
        is_killed: false,
        ended: None,
    };
    tracer.follow()?;
    let status = tracer.ended.ok_or_else(|| io::Error::other("the traced program was lost"))?;
    let output = Output { status, stdout: stdout.join().expect("it reads"), stderr: stderr.join().expect("it reads") };
    Ok(Traced { output, steps: tracer.steps, is_killed: tracer.is_killed })
}

struct Tracer<A> {
    calls: Vec<Call>,
    folder: PathBuf,
    process: i32,
    act: A,
    steps: Vec<Step>,
    /// Threads seen before: the first stop of a new one is not a signal to it.
    threads: HashSet<i32>,
    is_killed: bool,
    ended: Option<ExitStatus>,
}

impl<A: FnMut(&Step) -> Act> Tracer<A> {
    fn follow(&mut self) -> io::Result<()> {
        while let Some((thread, stop)) = machine::wait()? {
            let is_new = !matches!(stop, Stop::Gone(_)) && self.threads.insert(thread);
            if is_new && thread == self.process {
                machine::follow_all(thread)?;
            }
            match stop {
                Stop::Gone(status) if thread == self.process => self.ended = Some(ExitStatus::from_raw(status)),
                Stop::Gone(_) => _ = self.threads.remove(&thread),
                Stop::Entry => self.enter(thread),
                Stop::Exit => self.kill(),
                Stop::Signal(signal) => machine::go_on(thread, if is_new { 0 } else { signal }),
                Stop::Other => machine::go_on(thread, 0),
            }
        }
        Ok(())
    }

    fn enter(&mut self, thread: i32) {
        let Some(mut registers) = Registers::of(thread) else { return };
        let Some(step) = self.step(thread, &registers) else { return machine::go_on(thread, 0) };
        match (self.act)(&step) {
            Act::Go => machine::go_on(thread, 0),
            Act::KillBefore => self.kill(),
            Act::KillAfter => machine::finish_call(thread),
            Act::KillHalfway => {
                halve(&mut registers);
                machine::finish_call(thread);
            }
            Act::Fail(error) => {
                registers.refuse(error);
                machine::go_on(thread, 0);
            }
        }
    }

    fn step(&mut self, thread: i32, registers: &Registers) -> Option<Step> {
        let (kind, path) = syscalls::read(&self.calls, thread, registers)?;
        if !path.starts_with(&self.folder) {
            return None;
        }
        let number = self.steps.len() + usize::from(kind != Kind::Lock);
        let step = Step { number, kind, path };
        if kind != Kind::Lock {
            self.steps.push(step.clone());
        }
        Some(step)
    }

    fn kill(&mut self) {
        self.is_killed = true;
        // SAFETY: takes no pointers; the process is our child and has not been waited for.
        unsafe { libc::kill(self.process, libc::SIGKILL) };
    }
}

fn halve(registers: &mut Registers) {
    if [libc::SYS_write, libc::SYS_pwrite64].contains(&registers.call()) {
        let half = registers.argument(LENGTH) / 2;
        registers.set_length(half);
    }
}

/// Reads what the program says, so that it never waits for a reader.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.expect("it was piped").read_to_end(&mut bytes);
        bytes
    })
}

/// As the kernel calls it; the folder itself need not exist yet.
fn real_path(folder: &Path) -> PathBuf {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real_path(parent).join(name),
        _ => folder.to_owned(),
    }
}

//! The unsafe part: ptrace requests, registers of each processor, and the filter that decides which calls stop the program.

use super::syscalls::{Call, OPEN_AT, OPEN_AT_FLAGS};
use libc::{c_int, c_long, c_void, pid_t, sock_filter};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An argument that is not used. These functions take any number of arguments of any type, and a bare 0 would be half as wide.
const NOTHING: c_long = 0;

/// A thread of the program stopped, or is gone.
pub enum Stop {
    /// The raw status of `wait`.
    Gone(c_int),
    /// At a call that the filter names, before it is carried out.
    Entry,
    /// Behind a call whose end was asked for.
    Exit,
    /// A new thread, a new program, or nothing of interest.
    Other,
    Signal(c_int),
}

/// Makes `command` wait to be traced once it has started, with `filter` in force.
pub fn prepare(command: &mut Command, filter: Vec<sock_filter>) {
    let enter = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: plain system calls; `program` outlives them.
        unsafe {
            check(libc::ptrace(libc::PTRACE_TRACEME, NOTHING, NOTHING, NOTHING))?;
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_long, NOTHING, NOTHING, NOTHING).into())?;
            check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as c_long, &raw const program).into())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec `enter` makes system calls only; the filter was allocated before.
    unsafe { command.pre_exec(enter) };
}

/// Follows the threads and children of a program that has just started, and lets it die with its tracer.
pub fn follow_all(process: pid_t) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL;
    // SAFETY: takes no pointers.
    check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, process, NOTHING, c_long::from(options)) })
}

/// The next stop of any thread that this thread traces; `None` when all are gone.
pub fn wait() -> io::Result<Option<(pid_t, Stop)>> {
    let mut status = 0;
    // SAFETY: `status` is written. Children of other threads are left to them.
    let thread = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
    match check(thread.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some((0, Stop::Other))),
        Err(error) => Err(error),
        Ok(()) => Ok(Some((thread, read(status)))),
    }
}

fn read(status: c_int) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Gone(status);
    }
    match (libc::WSTOPSIG(status), status >> 16) {
        (libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP) => Stop::Entry,
        (libc::SIGTRAP, event) if event != 0 => Stop::Other,
        (signal, _) if signal == libc::SIGTRAP | 0x80 => Stop::Exit,
        (signal, _) => Stop::Signal(signal),
    }
}

/// Lets a stopped thread go on. It may have been killed meanwhile: then there is nothing to do.
pub fn go_on(thread: pid_t, signal: c_int) {
    // SAFETY: takes no pointers.
    unsafe { libc::ptrace(libc::PTRACE_CONT, thread, NOTHING, c_long::from(signal)) };
}

/// Lets it go on until the end of the call it stopped at.
pub fn finish_call(thread: pid_t) {
    // SAFETY: takes no pointers.
    unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, NOTHING, NOTHING) };
}

/// A thread's registers while it is stopped at a call.
pub struct Registers {
    thread: pid_t,
    values: libc::user_regs_struct,
}

const GENERAL_REGISTERS: c_int = 1; // NT_PRSTATUS

impl Registers {
    /// `None` if the thread was killed meanwhile.
    pub fn of(thread: pid_t) -> Option<Registers> {
        let mut values = MaybeUninit::<libc::user_regs_struct>::uninit();
        transfer(libc::PTRACE_GETREGSET, thread, GENERAL_REGISTERS, values.as_mut_ptr()).ok()?;
        // SAFETY: the kernel has filled it.
        Some(Registers { thread, values: unsafe { values.assume_init() } })
    }

    fn write(&mut self) {
        let _ = transfer(libc::PTRACE_SETREGSET, self.thread, GENERAL_REGISTERS, &raw mut self.values);
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    pub fn call(&self) -> c_long {
        self.values.orig_rax as c_long
    }

    pub fn argument(&self, at: usize) -> u64 {
        let values = &self.values;
        [values.rdi, values.rsi, values.rdx, values.r10, values.r8, values.r9][at]
    }

    /// Only what says how many bytes a write has is ever changed.
    pub fn set_length(&mut self, bytes: u64) {
        self.values.rdx = bytes;
        self.write();
    }

    /// The call is not made and returns this error.
    pub fn refuse(&mut self, error: i32) {
        self.values.orig_rax = u64::MAX;
        self.values.rax = -i64::from(error) as u64;
        self.write();
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    pub fn call(&self) -> c_long {
        self.values.regs[8] as c_long
    }

    pub fn argument(&self, at: usize) -> u64 {
        self.values.regs[at]
    }

    pub fn set_length(&mut self, bytes: u64) {
        self.values.regs[2] = bytes;
        self.write();
    }

    pub fn refuse(&mut self, error: i32) {
        const SYSTEM_CALL: c_int = 0x404; // NT_ARM_SYSTEM_CALL
        let mut none: c_int = -1;
        let _ = transfer(libc::PTRACE_SETREGSET, self.thread, SYSTEM_CALL, &raw mut none);
        self.values.regs[0] = -i64::from(error) as u64;
        self.write();
    }
}

fn transfer<T>(request: libc::c_uint, thread: pid_t, set: c_int, values: *mut T) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: values.cast::<c_void>(), iov_len: size_of::<T>() };
    // SAFETY: `part` describes memory of that size.
    check(unsafe { libc::ptrace(request, thread, c_long::from(set), &raw mut part) })
}

/// Stops at `calls` and at every `openat` that creates; lets all else pass.
pub fn filter(calls: &[Call]) -> Vec<sock_filter> {
    const NUMBER: u32 = 0;
    const ARGUMENTS: u32 = 16;
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let flags = ARGUMENTS + 8 * OPEN_AT_FLAGS as u32;
    let mut filter = vec![load(NUMBER)];
    for (place, call) in calls.iter().enumerate() {
        // Behind the rest of the calls lie five instructions; the last of them stops.
        filter.push(jump(libc::BPF_JEQ, call.number as u32, calls.len() - place - 1 + 4, 0));
    }
    filter.extend([
        jump(libc::BPF_JEQ, OPEN_AT as u32, 0, 2),
        load(flags),
        jump(libc::BPF_JSET, libc::O_CREAT as u32, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRACE),
    ]);
    filter
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, then: usize, otherwise: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt: then as u8, jf: otherwise, k }
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

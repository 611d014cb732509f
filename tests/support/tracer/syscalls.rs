//! Which system calls change files, and where in their arguments the file is named.

use super::Kind;
use super::machine::Registers;
use libc::{AT_FDCWD, O_CREAT, c_long};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub struct Call {
    pub number: c_long,
    pub kind: Kind,
    place: Place,
}

/// Where the file is named; the digit counts arguments.
#[derive(Clone, Copy)]
enum Place {
    /// An open file.
    Open(usize),
    /// A path.
    Path(usize),
    /// An open folder, and in the next argument a path from there.
    At(usize),
}

/// Argument of `write` and `pwrite64` that says how many bytes.
pub const LENGTH: usize = 2;

/// Its flags say whether it creates: the filter looks at them, because most files are opened to be read.
pub const OPEN_AT: c_long = libc::SYS_openat;
pub const OPEN_AT_FLAGS: usize = 2;

/// All but `openat`, which is the filter's special case.
pub fn calls() -> Vec<Call> {
    use Place::*;
    let mut calls = vec![
        (libc::SYS_write, Kind::Write, Open(0)),
        (libc::SYS_pwrite64, Kind::Write, Open(0)),
        (libc::SYS_writev, Kind::Write, Open(0)),
        (libc::SYS_pwritev, Kind::Write, Open(0)),
        (libc::SYS_sendfile, Kind::Write, Open(0)),
        (libc::SYS_copy_file_range, Kind::Write, Open(2)),
        (libc::SYS_fsync, Kind::Sync, Open(0)),
        (libc::SYS_fdatasync, Kind::Sync, Open(0)),
        (libc::SYS_ftruncate, Kind::Truncate, Open(0)),
        (libc::SYS_fallocate, Kind::Truncate, Open(0)),
        (libc::SYS_fchmod, Kind::Mode, Open(0)),
        (libc::SYS_fchmodat, Kind::Mode, At(0)),
        (libc::SYS_renameat, Kind::Rename, At(2)),
        (libc::SYS_renameat2, Kind::Rename, At(2)),
        (libc::SYS_linkat, Kind::Link, At(2)),
        (libc::SYS_unlinkat, Kind::Remove, At(0)),
        (libc::SYS_mkdirat, Kind::Folder, At(0)),
        (libc::SYS_flock, Kind::Lock, Open(0)),
    ];
    calls.extend(old_calls());
    calls.into_iter().map(|(number, kind, place)| Call { number, kind, place }).collect()
}

/// Those without a folder argument, which newer machines no longer have.
#[cfg(target_arch = "x86_64")]
fn old_calls() -> Vec<(c_long, Kind, Place)> {
    use Place::*;
    vec![
        (libc::SYS_chmod, Kind::Mode, Path(0)),
        (libc::SYS_rename, Kind::Rename, Path(1)),
        (libc::SYS_link, Kind::Link, Path(1)),
        (libc::SYS_unlink, Kind::Remove, Path(0)),
        (libc::SYS_rmdir, Kind::Remove, Path(0)),
        (libc::SYS_mkdir, Kind::Folder, Path(0)),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn old_calls() -> Vec<(c_long, Kind, Place)> {
    Vec::new()
}

/// What the call that `thread` has stopped at does, and to which file; `None` if it is none of ours.
pub fn read(calls: &[Call], thread: i32, registers: &Registers) -> Option<(Kind, PathBuf)> {
    if registers.call() == OPEN_AT {
        let creates = registers.argument(OPEN_AT_FLAGS) as i32 & O_CREAT != 0;
        return creates.then(|| Some((Kind::Create, path_at(thread, registers, 0)?)))?;
    }
    let call = calls.iter().find(|call| call.number == registers.call())?;
    let path = match call.place {
        Place::Open(at) => open_file(thread, registers.argument(at) as i32),
        Place::Path(at) => path_from(thread, AT_FDCWD, registers.argument(at)),
        Place::At(at) => path_at(thread, registers, at),
    };
    Some((call.kind, path?))
}

fn path_at(thread: i32, registers: &Registers, at: usize) -> Option<PathBuf> {
    path_from(thread, registers.argument(at) as i32, registers.argument(at + 1))
}

fn path_from(thread: i32, folder: i32, address: u64) -> Option<PathBuf> {
    let path = text(thread, address)?;
    let folder = match folder {
        _ if path.is_absolute() => PathBuf::new(),
        AT_FDCWD => std::fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
        folder => open_file(thread, folder)?,
    };
    Some(folder.join(path))
}

/// Pipes and sockets have names that are no absolute paths.
fn open_file(thread: i32, file: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{thread}/fd/{file}")).ok()
}

/// A path in the memory of the program.
fn text(thread: i32, address: u64) -> Option<PathBuf> {
    let mut bytes = vec![0; libc::PATH_MAX as usize];
    let memory = std::fs::File::open(format!("/proc/{thread}/mem")).ok()?;
    let read = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..read].iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(std::ffi::OsString::from_vec(bytes).into())
}

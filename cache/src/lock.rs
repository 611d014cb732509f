//! Kernel locks on open files: released when their process ends, however it ends, and not inherited by its children.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{AtPath, Result};

/// An exclusive lock, held until dropped.
///
/// On a file system without locks (some NFS mounts) it is granted to everyone: two processes then do the same work twice, and
/// both results are valid, because publishing does not rely on locks.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Waits until no other process, and no other lock in this one, holds `path`.
    pub fn acquire(path: &Path) -> Result<Self> {
        loop {
            let file = open(path)?;
            match file.lock() {
                Err(error) if !no_locks(&error) => return Err(error).at("lock", path),
                _ => {}
            }
            if is_current(&file, path) {
                return Ok(Self { path: path.to_owned(), file });
            }
        }
    }

    /// `None` if someone holds it.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if !no_locks(&error) => return Err(error).at("lock", path),
                _ => {}
            }
            if is_current(&file, path) {
                return Ok(Some(Self { path: path.to_owned(), file }));
            }
        }
    }

    /// The locked file itself, to read or write it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Releases and removes the lock file, so that a store does not fill with empty files.
    pub fn remove(self) {
        // While still locked: whoever waits for this file finds that its path is gone and opens a new one.
        let _ = std::fs::remove_file(&self.path);
        drop(self.file);
    }
}

/// Locks on single bytes of one file that stays open: as many as are wanted, a system call each. They hold between files that were
/// opened apart (here or in another process), not between users of one `ByteLocks`. Where there are no locks, all are granted.
#[derive(Debug)]
pub struct ByteLocks {
    path: PathBuf,
    file: File,
}

impl ByteLocks {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)? })
    }

    /// Whether it is ours now.
    pub fn try_lock(&self, byte: u64) -> Result<bool> {
        match self.set(libc::F_WRLCK, byte) {
            Ok(()) => Ok(true),
            Err(error) if is_held(&error) => Ok(false),
            Err(error) if no_locks(&error) => Ok(true),
            Err(error) => Err(error).at("lock", &self.path),
        }
    }

    pub fn unlock(&self, byte: u64) {
        // What cannot be unlocked is unlocked when the process ends.
        let _ = self.set(libc::F_UNLCK, byte);
    }

    fn set(&self, kind: libc::c_int, byte: u64) -> io::Result<()> {
        // SAFETY: all zeros is a value of it.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = kind as libc::c_short;
        range.l_whence = libc::SEEK_SET as libc::c_short;
        range.l_start = byte as libc::off_t;
        range.l_len = 1;
        // SAFETY: the file is open as long as `self` is, and `range` is only read.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), SET_RANGE, &range) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// The lock belongs to the open file where the system can do that, else to the process.
#[cfg(target_os = "linux")]
const SET_RANGE: libc::c_int = libc::F_OFD_SETLK;
#[cfg(not(target_os = "linux"))]
const SET_RANGE: libc::c_int = libc::F_SETLK;

fn is_held(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// Whether the file system knows no locks, or has no one to keep them: NFS without its lock daemon says `ENOLCK`.
pub(crate) fn no_locks(error: &io::Error) -> bool {
    const ENOLCK: i32 = if cfg!(target_os = "linux") { 37 } else { 77 };
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(ENOLCK)
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).at("open the lock file", path)
}

/// Whether `path` still names the file that was locked: its last holder may have removed it while we waited.
fn is_current(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::try_acquire(&path).unwrap().expect("free");
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        held.remove();
        assert!(!path.exists());
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_not_inherited_by_a_child_that_outlives_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::acquire(&path).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(held);
        let again = FileLock::try_acquire(&path).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(again.is_some(), "the child holds it");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_a_file_system_without_locks_grants_them_to_everyone() {
        let [input_output, no_lock_daemon, no_system_call, not_supported] = [5, 37, 38, 95];
        for (number, expected) in
            [(input_output, false), (no_lock_daemon, true), (no_system_call, true), (not_supported, true)]
        {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(no_locks(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_byte_is_given_once_and_its_neighbours_stay_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let (ours, theirs) = (ByteLocks::open(&path).unwrap(), ByteLocks::open(&path).unwrap());
        let last = u64::from(u32::MAX);
        for byte in [0, 7, last] {
            assert!(ours.try_lock(byte).unwrap());
            assert!(!theirs.try_lock(byte).unwrap());
        }
        assert!(theirs.try_lock(8).unwrap() && theirs.try_lock(last - 1).unwrap());
        ours.unlock(7);
        assert!(theirs.try_lock(7).unwrap());
        drop(ours);
        assert!(theirs.try_lock(0).unwrap(), "closing a file gives up what it held");
    }

    /// Removing a lock file under waiters must not let two of them in: one on the old file, one on a new one.
    #[test]
    fn removal_under_waiters_lets_in_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let inside = AtomicUsize::new(0);
        let enter = || {
            for _ in 0..200 {
                let held = FileLock::acquire(&path).unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                inside.fetch_sub(1, Ordering::SeqCst);
                held.remove();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(enter);
            }
        });
    }
}

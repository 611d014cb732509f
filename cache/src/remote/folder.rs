//! A shared folder, on a network perhaps (NFS, Lustre): files are written aside, synced and renamed; no locks, nothing in place.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::bucket::{Bucket, Put};
use crate::error::{Error, Result};
use crate::store::remove_abandoned;

/// Where files are written before they get their name: on the same file system.
const ASIDE: &str = "tmp";
const COPY_BYTES: usize = 1 << 20;
/// A server that was restarted, or a file that was replaced under an open handle, is asked again this often.
const STALE_RETRIES: u32 = 5;
const STALE_PAUSE: Duration = Duration::from_millis(20);

pub struct Folder {
    root: PathBuf,
    name: String,
    cleared: Once,
}

impl Folder {
    /// Makes nothing: the first writer does.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), name: root.display().to_string(), cleared: Once::new() }
    }

    fn try_get(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        absent_is_none(steady(|| fs::read(self.root.join(path))))
    }

    fn try_get_into(&self, path: &str, output: &mut dyn Write) -> io::Result<bool> {
        let path = self.root.join(path);
        let Some(mut file) = absent_is_none(steady(|| File::open(&path)))? else { return Ok(false) };
        let (mut buffer, mut offset) = (vec![0; COPY_BYTES], 0);
        loop {
            let read = read_on(&mut file, &path, &mut buffer, offset)?;
            if read == 0 {
                return Ok(true);
            }
            output.write_all(&buffer[..read])?;
            offset += read as u64;
        }
    }

    fn try_put(&self, path: &str, how: Put, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<bool> {
        let target = self.root.join(path);
        let folder = target.parent().expect("every path in a store has a folder");
        self.make(folder)?;
        let mut file = self.aside()?;
        fill(file.as_file_mut())?;
        file.as_file().sync_all()?;
        let written = match how {
            Put::Replace => file.persist(&target).map(|_| true)?,
            Put::IfAbsent => place_if_absent(file, &target)?,
        };
        sync(folder)?;
        Ok(written)
    }

    fn aside(&self) -> io::Result<NamedTempFile> {
        let folder = self.root.join(ASIDE);
        self.make(&folder)?;
        self.cleared.call_once(|| remove_abandoned(&folder));
        // As readable for others as this user's other files: temporary ones are private by default.
        tempfile::Builder::new().permissions(Permissions::from_mode(0o444)).tempfile_in(&folder)
    }

    /// Makes a folder below the root. It may be used by whoever may use the root: a team sets the rights in one place.
    fn make(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&self.root)?;
        let rights = fs::metadata(&self.root)?.permissions();
        let below: Vec<_> = folder.ancestors().take_while(|path| *path != self.root).collect();
        for path in below.into_iter().rev() {
            match fs::create_dir(path) {
                // Only its maker may set them.
                Ok(()) => drop(fs::set_permissions(path, rights.clone())),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn try_list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let Some(entries) = absent_is_none(steady(|| fs::read_dir(self.root.join(folder))))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Gone since it was listed: as if it had never been there.
            let Some(metadata) = absent_is_none(steady(|| entry.metadata()))? else { continue };
            if let Some(name) = entry.file_name().to_str().filter(|_| metadata.is_file()) {
                names.push((name.to_owned(), metadata.len()));
            }
        }
        Ok(names)
    }

    fn failed<T>(&self, doing: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::remote(doing, &self.name, error))
    }
}

impl Bucket for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    /// A folder that is not there may be one that is not mounted: whoever made it all the same would pay for everything again.
    fn check(&self) -> Result<()> {
        let absent = || format!("there is no such folder; mount it, or make it with `mkdir -p {}`", self.name);
        if self.root.is_dir() { Ok(()) } else { Err(Error::remote("use", &self.name, absent())) }
    }

    fn round_ms(&self) -> RangeInclusive<u64> {
        500..=2_000
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.failed("read", self.try_get(path))
    }

    fn get_into(&self, path: &str, output: &mut dyn Write) -> Result<bool> {
        self.failed("read", self.try_get_into(path, output))
    }

    fn put(&self, path: &str, bytes: &[u8], how: Put) -> Result<bool> {
        self.failed("write", self.try_put(path, how, |file| file.write_all(bytes)))
    }

    fn put_file(&self, path: &str, file: &mut File, _: u64) -> Result<()> {
        self.failed("write", self.try_put(path, Put::Replace, |output| io::copy(file, output).map(drop))).map(drop)
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        let size = steady(|| fs::metadata(self.root.join(path)).map(|metadata| metadata.len()));
        self.failed("read", absent_is_none(size))
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        self.failed("list", self.try_list(folder))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let removed = absent_is_none(steady(|| fs::remove_file(self.root.join(path))));
        self.failed("remove from", removed).map(drop)
    }
}

/// Two names for one file instead of a rename: the only way to create a name that fails if it exists.
fn place_if_absent(file: NamedTempFile, target: &Path) -> io::Result<bool> {
    match fs::hard_link(file.path(), target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        // No hard links on this file system. Two writers may now both win; whoever cares reads back.
        Err(_) if target.exists() => Ok(false),
        Err(_) => file.persist(target).map(|_| true).map_err(Into::into),
    }
}

fn read_on(file: &mut File, path: &Path, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    steady(|| {
        let read = file.read_at(buffer, offset);
        if read.as_ref().is_err_and(is_stale) {
            *file = File::open(path)?;
        }
        read
    })
}

fn steady<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..STALE_RETRIES {
        match attempt() {
            Err(error) if is_stale(&error) => std::thread::sleep(STALE_PAUSE),
            result => return result,
        }
    }
    attempt()
}

fn is_stale(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StaleNetworkFileHandle | ErrorKind::Interrupted)
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Not every network file system can sync a folder; those that cannot have synced it already.
fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_is_opened_again_and_anything_else_is_told() {
        for (failures, kind, expected) in [
            (0, ErrorKind::StaleNetworkFileHandle, true),
            (3, ErrorKind::StaleNetworkFileHandle, true),
            (99, ErrorKind::StaleNetworkFileHandle, false),
            (1, ErrorKind::PermissionDenied, false),
        ] {
            let mut asked = 0;
            let answer = steady(|| {
                asked += 1;
                if asked > failures { Ok(()) } else { Err(kind.into()) }
            });
            assert_eq!(answer.is_ok(), expected, "{failures} times {kind}");
        }
    }

    /// The disaster: a colleague's files cannot be read, or nothing can be put beside them.
    #[test]
    fn what_one_member_of_a_team_writes_the_others_can_read_and_add_to() {
        let team = tempfile::tempdir().unwrap();
        let root = team.path().join("store");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o2775)).unwrap();
        let bucket = Folder::new(&root);
        assert!(bucket.put("ac/ab/one", b"1", Put::IfAbsent).unwrap());
        assert!(!bucket.put("ac/ab/one", b"2", Put::IfAbsent).unwrap());
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("ac"), mode("ac/ab"), mode("tmp")), (0o2775, 0o2775, 0o2775));
        // As the user's `umask` has it, not private as temporary files are.
        fs::write(root.join("plain"), "").unwrap();
        assert_eq!(mode("ac/ab/one"), mode("plain") & 0o444);
        assert_eq!(bucket.get("ac/ab/one").unwrap().as_deref(), Some(&b"1"[..]));
    }
}

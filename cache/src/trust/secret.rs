//! The file with this user's signing key: made once, whole or not at all, readable by its owner alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

use super::error::TrustError;
use super::key::Signer;
use crate::error::{AtPath, Error, Result};
use crate::write::sync_folder;

/// What the text of a secret key begins with, so that one pasted in the wrong place is recognised.
const SECRET_PREFIX: &str = "decoct-secret1:";

/// Nobody's key is longer; a file that is no key at all is not read to its end.
const LONGEST_BYTES: u64 = 256;

/// The key in `path`; `None` if there is no such file.
///
/// # Errors
/// If others than its owner can read the file, or it holds something else.
pub fn read(path: &Path) -> Result<Option<Signer>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let mode = file.metadata().at("read", path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TrustError::ExposedKey { path: path.to_owned(), mode }.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_BYTES).read_to_end(&mut bytes).at("read", path)?;
    let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().strip_prefix(SECRET_PREFIX));
    match text.and_then(Signer::from_secret_text) {
        Some(signer) => Ok(Some(signer)),
        None => Err(TrustError::DamagedKey { path: path.to_owned() }.into()),
    }
}

/// Makes a key in `path`, or takes the one that another process has made first: all end with the same one.
pub fn read_or_make(path: &Path) -> Result<Signer> {
    if let Some(signer) = read(path)? {
        return Ok(signer);
    }
    let folder = make_folder(path)?;
    let signer = Signer::generate().at("make", path)?;
    // Made with mode 600 by `tempfile`, and never wider.
    let mut file = NamedTempFile::new_in(folder).at("write", folder)?;
    writeln!(file, "{SECRET_PREFIX}{}", signer.secret_text()).at("write", path)?;
    file.as_file().sync_all().at("sync", path)?;
    match file.persist_noclobber(path) {
        Ok(_) => sync_folder(folder).map(|()| signer),
        Err(lost) if lost.error.kind() == io::ErrorKind::AlreadyExists => {
            read(path)?.ok_or_else(|| Error::io("read", path, io::ErrorKind::NotFound.into()))
        }
        Err(failed) => Err(Error::io("write", path, failed.error)),
    }
}

/// The folder of `path`, made if need be: open to its owner only.
pub fn make_folder(path: &Path) -> Result<&Path> {
    let folder = path.parent().expect("a key lies in a folder");
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above).at("create", above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", folder, error)),
        _ => Ok(folder),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config/decoct/key");
        assert!(read(&path).unwrap().is_none());
        assert!(!path.parent().unwrap().exists(), "looking makes nothing");
        let made = read_or_make(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(read(&path).unwrap().unwrap().public(), made.public());
        assert_eq!(read_or_make(&path).unwrap().public(), made.public());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// The disaster: two first pushes at once, and half of the work signed by a key that no longer is.
    #[test]
    fn many_first_pushes_at_once_end_with_one_key() {
        for _ in 0..20 {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("decoct/key");
            let make = || read_or_make(&path).unwrap().public();
            let keys: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let kept = read(&path).unwrap().unwrap().public();
            assert!(keys.iter().all(|key| *key == kept), "{keys:?}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        let secret = read_or_make(&path).unwrap().secret_text();
        for (mode, refused) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), refused, "{mode:o}");
            let told = error.unwrap_or_default();
            assert!(!refused || told.contains(&format!("chmod 600 {}", path.display())), "{told}");
            assert!(!told.contains(&secret), "{told}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_neither_used_nor_overwritten_nor_shown() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        let good = format!("{SECRET_PREFIX}{}", "ab".repeat(32));
        for bad in
            ["", "\n", "decoct-secret1:abcd", &good[1..], &good[..good.len() - 1], &good.to_uppercase(), "\u{fffd}"]
        {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = read_or_make(&path).unwrap_err();
            assert!(matches!(error, Error::Trust(TrustError::DamagedKey { .. })), "{bad}: {error}");
            assert!(!format!("{error} {error:?}").contains("abab"), "{error:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }
}

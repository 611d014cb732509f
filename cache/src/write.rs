//! Durable writing: hash while writing, sync, rename, sync the folder.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{AtPath, Error, Result};
use crate::hash::BlobHash;

/// Large enough for blake3's widest path and for few system calls. A small file is not worth clearing so much memory.
const COPY_BYTES: usize = 1 << 20;
const FIRST_COPY_BYTES: usize = 16 << 10;

/// Hashes and counts what passes through.
///
/// A failure is kept until [`HashingWriter::finish`], and what comes after it is dropped: the Parquet writer turns an I/O error
/// into text, and a full disk must stay recognisable.
pub struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
    failed: Option<io::Error>,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0, failed: None }
    }

    pub fn finish(self) -> io::Result<(W, BlobHash, u64)> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.inner, BlobHash(self.hasher.finalize().into()), self.bytes)),
        }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.failed = self.inner.write_all(bytes).err();
            self.hasher.update(bytes);
            self.bytes += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed.is_none() {
            self.failed = self.inner.flush().err();
        }
        Ok(())
    }
}

/// Hash and size of all of `input`, written to `output` on the way.
pub fn hash_while_copying(input: &mut impl Read, output: &mut impl Write) -> io::Result<(BlobHash, u64)> {
    let mut writer = HashingWriter::new(output);
    let mut buffer = vec![0; FIRST_COPY_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                writer.write_all(&buffer[..read])?;
                if read == buffer.len() && read < COPY_BYTES {
                    buffer.resize(COPY_BYTES, 0);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.finish().map(|(_, hash, bytes)| (hash, bytes))
}

/// A temporary file in `folder` that holds `bytes`, not yet synced.
pub fn write_aside(folder: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder).at("write", folder)?;
    file.write_all(bytes).at("write", folder)?;
    Ok(file)
}

/// Gives a finished temporary file its place, read-only: after this returns it survives a power cut.
///
/// Replaces what is there: either the same bytes, or a damaged copy of them.
pub fn persist(file: NamedTempFile, target: &Path) -> Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(0o444)).at("write", target)?;
    file.as_file().sync_all().at("sync", target)?;
    let folder = target.parent().expect("every place in a store lies in a folder");
    fs::create_dir_all(folder).at("create", folder)?;
    file.persist(target).map_err(|error| Error::io("write", target, error.error))?;
    sync_folder(folder)
}

/// Gives a finished temporary file its place, unless a file with the same bytes, which are few, is there already.
pub fn persist_small(mut file: NamedTempFile, target: &Path) -> Result<()> {
    let is_there = File::open(target).and_then(|there| same_bytes(file.as_file_mut(), there)).unwrap_or(false);
    match is_there {
        true => sync_folder(target.parent().expect("every place in a store lies in a folder")),
        false => persist(file, target),
    }
}

fn same_bytes(left: &mut File, mut right: File) -> io::Result<bool> {
    let mut bytes = [Vec::new(), Vec::new()];
    left.rewind()?;
    left.read_to_end(&mut bytes[0])?;
    right.read_to_end(&mut bytes[1])?;
    Ok(bytes[0] == bytes[1])
}

pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).at("sync", folder)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;

    use super::*;
    use crate::table::TableWriter;

    /// `/dev/full` fails every write as a full disk does.
    #[test]
    fn a_full_disk_is_called_a_full_disk() {
        let path = Path::new("/dev/full");
        let Ok(full) = File::options().write(true).open(path) else { return };
        let writer = TableWriter::new(HashingWriter::new(full), Schema::empty().into()).unwrap();
        let (output, _) = writer.finish().unwrap();
        let error = output.finish().map(|_| ()).at("write", path).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    }

    #[test]
    fn a_blob_is_called_by_plain_blake3_of_its_bytes() {
        let (hash, bytes) = hash_while_copying(&mut &b"dose"[..], &mut io::sink()).unwrap();
        assert_eq!((hash.0, bytes), (blake3::hash(b"dose").into(), 4));
    }
}

//! Durable writing: hash while writing, sync, rename, sync the folder.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{AtPath, Error, Result};
use crate::hash::BlobHash;

/// Large enough for blake3's widest path and for few system calls.
const COPY_BYTES: usize = 1 << 20;

/// Hashes and counts what passes through.
pub struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    pub fn finish(self) -> (W, BlobHash, u64) {
        (self.inner, BlobHash(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hash and size of all of `input`, written to `output` on the way.
pub fn hash_while_copying(input: &mut impl Read, output: &mut impl Write) -> io::Result<(BlobHash, u64)> {
    let mut writer = HashingWriter::new(output);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => writer.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (_, hash, bytes) = writer.finish();
    Ok((hash, bytes))
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

pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).at("sync", folder)
}

//! Machine code of kernels: from inside the program, or compiled and kept in a folder that is handed in, so that a source is
//! compiled once a machine, not once a run.
//!
//! A file is named by the hash of all that it depends on and begins with the hash of what follows, so that a damaged one is
//! noticed and made anew. It is written aside and renamed: another process sees a whole file or none.

use std::path::{Path, PathBuf};

use super::nvrtc::{self, Compiler};
use super::{Architecture, Source, embedded};
use crate::failure::{DeviceError, Version};

const HASH_BYTES: usize = 32;

/// Where a device's machine code comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Out of the program, made by this compiler for this architecture.
    Embedded {
        compiler: Version,
        made_for: Architecture,
    },
    Compiled(Compiler),
}

#[derive(Debug)]
pub(crate) struct Cubins {
    origin: Origin,
    architecture: Architecture,
    /// Need not exist.
    folder: PathBuf,
}

impl Cubins {
    pub(crate) fn new(origin: Origin, architecture: Architecture, folder: &Path) -> Cubins {
        Cubins { origin, architecture, folder: folder.to_path_buf() }
    }

    /// The machine code of a source.
    ///
    /// # Errors
    /// If it does not compile.
    pub(crate) fn of(&self, source: &'static Source) -> Result<Vec<u8>, DeviceError> {
        let compiler = match self.origin {
            Origin::Embedded { compiler, made_for } => {
                let code = embedded::find(&name(source, made_for, compiler));
                return Ok(code.expect("all of them were found when the device was opened"));
            }
            Origin::Compiled(compiler) => compiler,
        };
        let path = self.folder.join(format!("{}.cubin", name(source, self.architecture, compiler.version)));
        if let Some(cubin) = read(&path) {
            return Ok(cubin);
        }
        let compiled = compiler.compile(source, self.architecture).map_err(|log| DeviceError::Compile {
            source_name: source.name,
            architecture: self.architecture.to_string(),
            log,
        })?;
        // Where nothing can be kept, the next run compiles again.
        let _ = write(&path, &compiled.cubin);
        Ok(compiled.cubin)
    }
}

/// The hash of text, options (the architecture is one) and compiler.
pub(super) fn name(source: &Source, architecture: Architecture, compiler: Version) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("decoct 2026 cubin 1");
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(nvrtc::text(source).as_bytes());
    source.headers.iter().for_each(|(name, text)| [name, text].iter().for_each(|part| field(part.as_bytes())));
    field(nvrtc::options(architecture).join("\n").as_bytes());
    field(compiler.to_string().as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// What a file holds; `None` where it is missing or damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    checked(&std::fs::read(path).ok()?)
}

/// What is behind the hash in a file's content; `None` where it does not fit it.
pub(super) fn checked(content: &[u8]) -> Option<Vec<u8>> {
    let (hash, cubin) = content.split_at_checked(HASH_BYTES)?;
    (blake3::hash(cubin).as_bytes() == hash).then(|| cubin.to_vec())
}

pub(super) fn write(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder)?;
    let aside = path.with_extension(format!("{}.aside", std::process::id()));
    let content = [blake3::hash(cubin).as_bytes(), cubin].concat();
    std::fs::write(&aside, content)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_cubin_is_none() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("one.cubin");
        assert_eq!(read(&path), None, "a missing one");
        write(&path, b"machine code").expect("the folder is ours");
        assert_eq!(read(&path).as_deref(), Some(&b"machine code"[..]));
        let whole = std::fs::read(&path).expect("it was written");
        for damaged in [&whole[..whole.len() - 1], &whole[..HASH_BYTES - 1], &[]] {
            std::fs::write(&path, damaged).expect("the folder is ours");
            assert_eq!(read(&path), None, "cut to {} bytes", damaged.len());
        }
        let mut flipped = whole.clone();
        flipped[HASH_BYTES + 3] ^= 1;
        std::fs::write(&path, flipped).expect("the folder is ours");
        assert_eq!(read(&path), None, "one bit flipped");
        assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 1, "nothing is left aside");
    }
}

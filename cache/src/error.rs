//! What can go wrong in a store that is not a miss: each error names the place and the next step.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot write to `{path}`: {source}\n  hint: choose another cache folder with `--cache DIR` or make this one writable"
    )]
    NotWritable { path: PathBuf, source: io::Error },

    #[error(
        "no space left on the disk of `{path}`\n  hint: everything finished so far is kept; free some space (`decoct cache sweep`) and run again"
    )]
    DiskFull { path: PathBuf },

    #[error("cannot {doing} `{path}`: {source}\n  hint: `decoct cache verify` checks the whole store")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "`{path}` is a store of format `{found}`, this program knows up to `{known}`\n  hint: use a newer decoct or another `--cache DIR`"
    )]
    UnknownFormat { path: PathBuf, found: String, known: u32 },

    #[error(
        "column `{column}` has type `{data_type}`, which has no stable identity\n  hint: cast it to text, int64, float64, a list or a struct of those"
    )]
    UnsupportedType { column: String, data_type: String },

    #[error("cannot {doing} rows: {source}")]
    Parquet { doing: &'static str, source: parquet::errors::ParquetError },

    #[error("cannot assemble rows: {0}")]
    Arrow(#[from] arrow::error::ArrowError),

    #[error(
        "`{path}` is not a plain file or folder\n  hint: a model folder may hold files and folders only; replace links by what they point to"
    )]
    NotAFile { path: PathBuf },

    #[error("`{name}` cannot be the name of a pin\n  hint: use letters, digits, `-`, `_` and dots, no dot in front")]
    NotAName { name: String },

    #[error(
        "pin `{name}` is damaged, so what it keeps is not known\n  hint: pin again under the same name, or `decoct cache pin --remove {name}`"
    )]
    DamagedPin { name: String },
}

impl Error {
    /// Sorts an I/O error by what the user can do about it.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, source },
            _ => Self::Io { doing, path, source },
        }
    }
}

/// Adds what was being done, and where, to an I/O error.
pub(crate) trait AtPath<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(doing, path, source))
    }
}

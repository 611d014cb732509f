//! What can go wrong in a store that is not a miss: each error names the place and the next step.

use std::fmt;
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

    #[error(transparent)]
    Trust(#[from] crate::trust::TrustError),

    #[error(
        "cannot {doing} the shared store `{place}`: {reason}\n  hint: everything finished so far is kept here; run again once the store answers, or without `cache.remote`"
    )]
    Remote { doing: &'static str, place: String, reason: String },

    #[error(
        "`{url}` is no shared store\n  hint: name a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`"
    )]
    UnknownRemote { url: String },
    #[error("`{name}` cannot be the name of a pin\n  hint: use letters, digits, `-`, `_` and dots, no dot in front")]
    NotAName { name: String },

    #[error(
        "pin `{name}` is damaged, so what it keeps is not known\n  hint: pin again under the same name, or `decoct cache pin --remove {name}`"
    )]
    DamagedPin { name: String },

    #[error(
        "this program was built without object stores and cannot use `{url}`\n  hint: share a folder, or build with the feature `object-store` of the package `cache`"
    )]
    WithoutObjects { url: String },
}

impl Error {
    /// A request to a shared store that failed for good. What follows the `?` of an address may be a secret, and so may be what
    /// stands before its `@`: both are left out.
    pub(crate) fn remote(doing: &'static str, place: &str, reason: impl fmt::Display) -> Self {
        Self::Remote { doing, place: place.to_owned(), reason: without_secrets(&reason.to_string()) }
    }

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

/// `text` with every address in it cut down to scheme, host and path.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        let end = address.find(|c: char| c.is_whitespace() || "\"'`<>()".contains(c)).unwrap_or(address.len());
        let (address, after) = address.split_at(end);
        let plain = address.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = plain.split_at(plain.find('/').unwrap_or(plain.len()));
        shown.extend([before, host.rsplit('@').next().unwrap_or_default(), path]);
        rest = after;
    }
    shown + rest
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The disaster: a signed address in an error, and the error in a ticket.
    #[test]
    fn no_secret_of_an_address_is_in_an_error() {
        for (text, expected) in [
            ("cannot reach", "cannot reach"),
            ("GET http://host:9000/b/k?X-Amz-Signature=abc failed", "GET http://host:9000/b/k failed"),
            ("(https://user:word@host/a?sig=1), https://x/?t=2#f", "(https://host/a), https://x/"),
            ("`s3://key:word@bucket`: 403", "`s3://bucket`: 403"),
            ("ends with ://", "ends with ://"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }
}

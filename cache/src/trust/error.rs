//! What can be wrong with keys and with the list of trusted writers. No message ever holds a secret.

use std::path::PathBuf;

use super::key::PublicKey;

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "others can read the signing key `{path}` (its mode is `{mode:03o}`)\n  hint: `chmod 600 {path}`; if someone may have copied it, remove it and tell those who trust it"
    )]
    ExposedKey { path: PathBuf, mode: u32 },

    #[error(
        "`{path}` is not a signing key of this program\n  hint: put back your copy of it, or move it away and make a new one with `decoct cache trust init`, which others then have to trust anew"
    )]
    DamagedKey { path: PathBuf },

    #[error(
        "everyone can write to `{path}`, and so choose whose work you use (its mode is `{mode:03o}`)\n  hint: read it through, then `chmod go-w {path}`"
    )]
    OpenList { path: PathBuf, mode: u32 },

    #[error(
        "`{path}`, line {line}: {problem}\n  hint: a line is a public key, a blank and a name of one word; `#` begins a comment"
    )]
    Line { path: PathBuf, line: usize, problem: String },

    #[error("no folder for keys is known\n  hint: name one with `--config DIR`")]
    NoFolder,

    #[error("`{name}` cannot be the name of a writer: {problem}\n  hint: use one word such as `anna` or `lab-gpu2`")]
    BadName { name: String, problem: &'static str },

    #[error(
        "`{name}` is the name of another writer, `{key}`\n  hint: use another name, or `decoct cache trust remove {name}` first"
    )]
    NameTaken { name: String, key: PublicKey },

    #[error("no one is trusted as `{0}`\n  hint: `decoct cache trust list` shows who is")]
    Stranger(String),
}

//! Whose work counts in a shared store: this user's signing key, and the writers whom the user trusts.
//!
//! ```text
//! FOLDER                 the user's, not the store's: who can write to a store must not choose who is trusted
//! ├── signing-key        the secret, mode 600; made by the first push or by `decoct cache trust init`
//! └── trusted            `decoct1:… name`, a line a writer
//! ```

mod error;
mod key;
mod secret;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use error::TrustError;
pub use key::{NotAPublicKey, NotASignature, PublicKey, Signature, Signer};
pub use writers::Writer;

use crate::error::Result;

/// What is thought of the writer of something in a shared store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This user, here or on another machine with the same key.
    Own,
    /// By this name on the list.
    Trusted(String),
    /// A good signature of a key that is on no list.
    Unknown,
    /// No signature at all.
    Unsigned,
}

impl Standing {
    /// Whether the work is used.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Own | Self::Trusted(_))
    }
}

/// The user's own key and list of trusted writers, as they were when opened.
#[derive(Debug)]
pub struct Trust {
    folder: Option<PathBuf>,
    signer: OnceLock<Signer>,
    writers: Vec<Writer>,
}

impl Trust {
    /// Reads what lies in `folder`, which need not exist. Makes nothing.
    ///
    /// # Errors
    /// If others can read the signing key, or the list has a mistake.
    pub fn open(folder: &Path) -> Result<Self> {
        let signer = secret::read(&folder.join("signing-key"))?.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Self { folder: Some(folder.to_owned()), signer, writers: writers::read(&folder.join("trusted"))? })
    }

    /// Trusts no one and can sign nothing: where no folder is known.
    pub fn none() -> Self {
        Self { folder: None, signer: OnceLock::new(), writers: Vec::new() }
    }

    /// The user's signing key, made now if there is none. Of two processes that make it at once, both get the same.
    ///
    /// # Errors
    /// [`TrustError::NoFolder`] where there is no place for it.
    pub fn signer(&self) -> Result<Signer> {
        if let Some(signer) = self.signer.get() {
            return Ok(signer.clone());
        }
        let signer = secret::read_or_make(&self.place("signing-key")?)?;
        Ok(self.signer.get_or_init(|| signer).clone())
    }

    /// The user's public key, if there is a signing key already.
    pub fn own(&self) -> Option<PublicKey> {
        self.signer.get().map(Signer::public)
    }

    /// What is thought of work by `signer`, whose signature has been verified; `None` is work that no one signed.
    pub fn standing(&self, signer: Option<&PublicKey>) -> Standing {
        let Some(key) = signer else { return Standing::Unsigned };
        match self.writers.iter().find(|writer| writer.key == *key) {
            _ if self.own() == Some(*key) => Standing::Own,
            Some(writer) => Standing::Trusted(writer.name.clone()),
            None => Standing::Unknown,
        }
    }

    /// Everyone who is trusted besides the user, in the list's order.
    pub fn list(&self) -> &[Writer] {
        &self.writers
    }

    /// Trusts the writer with this key from now on. A key that is trusted already gets the new name.
    ///
    /// # Errors
    /// If the name is not one word, or is another writer's.
    pub fn add(&mut self, name: &str, key: PublicKey) -> Result<()> {
        let path = self.place("trusted")?;
        writers::add(&path, name, key)?;
        self.writers = writers::read(&path)?;
        Ok(())
    }

    /// Trusts a writer no longer, given by name or by the text of the key; returns who it was.
    ///
    /// # Errors
    /// [`TrustError::Stranger`] if no one of that name or key is trusted.
    pub fn remove(&mut self, name_or_key: &str) -> Result<Writer> {
        let path = self.place("trusted")?;
        let removed = writers::remove(&path, name_or_key)?;
        self.writers = writers::read(&path)?;
        Ok(removed)
    }

    fn place(&self, file: &str) -> Result<PathBuf> {
        Ok(self.folder.as_ref().ok_or(TrustError::NoFolder)?.join(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger() -> PublicKey {
        Signer::generate().unwrap().public()
    }

    #[test]
    fn standing_follows_the_key_and_the_list() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("decoct");
        let mut trust = Trust::open(&folder).unwrap();
        assert!(!folder.exists(), "opening makes nothing");
        assert_eq!(trust.own(), None);
        let (own, anna) = (trust.signer().unwrap().public(), stranger());
        assert_eq!(trust.own(), Some(own));
        assert_eq!(trust.standing(Some(&own)), Standing::Own);
        assert_eq!(trust.standing(Some(&anna)), Standing::Unknown);
        assert_eq!(trust.standing(None), Standing::Unsigned);
        trust.add("anna", anna).unwrap();
        assert_eq!(trust.standing(Some(&anna)), Standing::Trusted("anna".into()));

        let mut again = Trust::open(&folder).unwrap();
        assert_eq!((again.own(), again.list()), (Some(own), trust.list()));
        assert_eq!(again.remove("anna").unwrap().key, anna);
        assert!(!again.standing(Some(&anna)).is_trusted());
        assert!(again.standing(Some(&own)).is_trusted());
    }

    #[test]
    fn without_a_folder_no_one_is_trusted_and_nothing_signed() {
        let mut none = Trust::none();
        assert_eq!(none.standing(Some(&stranger())), Standing::Unknown);
        assert!(none.signer().is_err());
        assert!(none.add("anna", stranger()).unwrap_err().to_string().contains("--config DIR"));
        assert!(none.remove("anna").is_err());
    }

    /// The disaster: `{trust:?}` in a log.
    #[test]
    fn the_secret_key_is_not_in_what_trust_shows() {
        let home = tempfile::tempdir().unwrap();
        let trust = Trust::open(home.path()).unwrap();
        let secret = trust.signer().unwrap().secret_text();
        assert!(!format!("{trust:?} {trust:#?}").contains(&secret));
    }
}

//! Reading a shared store: what is there for a key, whose it is, and blobs fetched and checked on the way in.

use std::fs::File;
use std::io::Seek;

use tempfile::NamedTempFile;

use super::report::Moved;
use super::{Sharing, path_text};
use crate::error::{AtPath, Result};
use crate::hash::{ActionKey, BlobHash};
use crate::manifest::{Manifest, Output, Sealed};
use crate::store::Store;
use crate::write::{HashingWriter, persist, write_aside};

/// An intact manifest in a shared store that we may use.
pub(crate) struct Offer {
    pub manifest: Manifest,
    /// As it is there, with its signature.
    bytes: Vec<u8>,
    /// Else it is used only because the user wants it so, and is not kept.
    pub is_trusted: bool,
}

/// What a shared store has under a key.
pub(crate) enum There {
    Nothing,
    /// Damaged, or signed by no one we trust: may be replaced.
    Unusable,
    Usable(Box<Offer>),
}

impl Sharing {
    pub(crate) fn look(&self, key: &ActionKey) -> Result<There> {
        let path = path_text(&self.layout().manifest(key));
        let Some(bytes) = self.bucket().get(&path)? else { return Ok(There::Nothing) };
        let Ok(Sealed { manifest, signer }) = Sealed::from_bytes(key, &bytes) else {
            self.tally().damaged(&path);
            return Ok(There::Unusable);
        };
        let is_trusted = self.options().trust.standing(signer.as_ref()).is_trusted();
        if !is_trusted && !self.options().allow_unsigned {
            self.tally().refused(&path, signer);
            return Ok(There::Unusable);
        }
        Ok(There::Usable(Box::new(Offer { manifest, bytes, is_trusted })))
    }

    /// Whether a blob is there, as far as its size tells.
    pub(crate) fn has_blob(&self, blob: &BlobHash, bytes: u64) -> Result<bool> {
        let is_spoilt = self.spoilt().contains(blob);
        Ok(!is_spoilt && self.bucket().size(&path_text(&self.layout().blob(blob)))? == Some(bytes))
    }

    fn names_spoilt_blobs(&self, manifest: &Manifest) -> bool {
        let spoilt = self.spoilt();
        !spoilt.is_empty() && manifest.outputs.values().flat_map(Output::blobs).any(|(blob, _)| spoilt.contains(&blob))
    }
}

impl Store {
    /// The manifest of `key` in the shared store, if it can be used; kept here if a trusted writer signed it.
    pub(crate) fn look_there(&self, sharing: &Sharing, key: &ActionKey) -> Result<Option<Manifest>> {
        let There::Usable(offer) = sharing.look(key)? else { return Ok(None) };
        if sharing.names_spoilt_blobs(&offer.manifest) {
            return Ok(None);
        }
        if offer.is_trusted && !self.is_looking() {
            self.keep(&offer)?;
            sharing.tally().fetched(Moved { manifests: 1, bytes: offer.bytes.len() as u64, ..Moved::default() });
        }
        Ok(Some(offer.manifest))
    }

    /// Makes an offer this store's own answer, signature and all.
    pub(crate) fn keep(&self, offer: &Offer) -> Result<()> {
        let file = write_aside(&self.layout().temporary(), &offer.bytes)?;
        persist(file, &self.layout().manifest(&offer.manifest.key))
    }

    /// A blob from the shared store, verified on the way in and rewound; `None` if it is not there, or not what it should be.
    pub(crate) fn fetch_blob(&self, sharing: &Sharing, blob: &BlobHash) -> Result<Option<File>> {
        let aside = self.layout().temporary();
        let mut output = HashingWriter::new(NamedTempFile::new_in(&aside).at("write", &aside)?);
        let path = path_text(&sharing.layout().blob(blob));
        if !sharing.bucket().get_into(&path, &mut output)? {
            return Ok(None);
        }
        let (file, hash, bytes) = output.finish().at("write", &aside)?;
        if hash != *blob {
            sharing.tally().damaged(&path);
            sharing.spoilt().insert(*blob);
            return Ok(None);
        }
        sharing.tally().fetched(Moved { blobs: 1, bytes, ..Moved::default() });
        self.take_in(file, blob).map(Some)
    }

    fn take_in(&self, mut file: NamedTempFile, blob: &BlobHash) -> Result<File> {
        if self.is_looking() {
            file.rewind().at("read", file.path())?;
            return Ok(file.into_file());
        }
        let path = self.layout().blob(blob);
        persist(file, &path)?;
        File::open(&path).at("open", &path)
    }
}

//! Writing to a shared store: blobs, then the manifest, then a look at what is there now; that is what the writer goes on with.

use std::io::{self, Seek};

use super::offer::{Offer, There};
use super::report::Moved;
use super::{Push, Put, Sharing, path_text};
use crate::error::{AtPath, Error, Result};
use crate::hash::BlobHash;
use crate::manifest::{Manifest, Output};
use crate::store::Store;

impl Store {
    /// Shares a finished action if that is wanted, and returns what everyone goes on with. That it could not be sent is noted,
    /// and no reason to lose it.
    pub(crate) fn share(&self, manifest: Manifest, replace: bool) -> Manifest {
        let Some(sharing) = self.sharing().filter(|sharing| sharing.options().push == Push::Always) else {
            return manifest;
        };
        let sent = self.send_and_adopt(sharing, &manifest, replace);
        sharing.tally().result_sent(&manifest.key, sent.as_ref().err());
        sent.ok().flatten().unwrap_or(manifest)
    }

    /// Another writer's manifest, if that is what the shared store has in the end.
    fn send_and_adopt(&self, sharing: &Sharing, manifest: &Manifest, replace: bool) -> Result<Option<Manifest>> {
        let mut there = sharing.look(&manifest.key)?;
        if !replace && let Some(adopted) = self.adopt(sharing, &there)? {
            return Ok(Some(adopted));
        }
        sharing.mark()?;
        for (blob, bytes) in blobs_of(manifest) {
            self.send_blob(sharing, &blob, bytes)?;
        }
        for _ in 0..2 {
            let how = if matches!(there, There::Nothing) { Put::IfAbsent } else { Put::Replace };
            sharing.send_manifest(manifest, how)?;
            there = sharing.look(&manifest.key)?;
            if matches!(&there, There::Usable(offer) if offer.manifest == *manifest) {
                return Ok(None);
            }
            if let Some(adopted) = self.adopt(sharing, &there)? {
                return Ok(Some(adopted));
            }
        }
        // Someone we do not trust keeps writing over it.
        Ok(None)
    }

    /// Goes on with another writer's manifest, if all it names can be had.
    fn adopt(&self, sharing: &Sharing, there: &There) -> Result<Option<Manifest>> {
        match there {
            There::Usable(offer) if offer.is_trusted && self.is_complete(sharing, offer)? => {
                self.keep(offer)?;
                Ok(Some(offer.manifest.clone()))
            }
            _ => Ok(None),
        }
    }

    /// Whether all blobs of an offer are there, after adding those that we have: equal work makes equal blobs.
    pub(crate) fn is_complete(&self, sharing: &Sharing, offer: &Offer) -> Result<bool> {
        for (blob, bytes) in blobs_of(&offer.manifest) {
            if sharing.has_blob(&blob, bytes)? {
                continue;
            }
            if self.open_here(&blob)?.is_none() {
                return Ok(false);
            }
            self.send_blob(sharing, &blob, bytes)?;
        }
        Ok(true)
    }

    /// Sends a blob unless it is there; whether it was sent. It is verified first: damage must not travel.
    pub(crate) fn send_blob(&self, sharing: &Sharing, blob: &BlobHash, bytes: u64) -> Result<bool> {
        if sharing.has_blob(blob, bytes)? {
            return Ok(false);
        }
        let path = self.layout().blob(blob);
        let gone = || Error::io("send", &path, io::Error::new(io::ErrorKind::NotFound, "it is missing or damaged"));
        let mut file = self.open_here(blob)?.ok_or_else(gone)?;
        file.rewind().at("read", &path)?;
        sharing.bucket().put_file(&path_text(&sharing.layout().blob(blob)), &mut file, bytes)?;
        sharing.spoilt().remove(blob);
        sharing.tally().sent(Moved { blobs: 1, bytes, ..Moved::default() });
        Ok(true)
    }
}

impl Sharing {
    /// Whether it was written: something else may be there already.
    pub(crate) fn send_manifest(&self, manifest: &Manifest, how: Put) -> Result<bool> {
        let bytes = manifest.to_signed_bytes(&self.options().trust.signer()?);
        let written = self.bucket().put(&path_text(&self.layout().manifest(&manifest.key)), &bytes, how)?;
        if written {
            self.tally().sent(Moved { manifests: 1, bytes: bytes.len() as u64, ..Moved::default() });
        }
        Ok(written)
    }
}

pub(crate) fn blobs_of(manifest: &Manifest) -> Vec<(BlobHash, u64)> {
    manifest.outputs.values().flat_map(Output::blobs).collect()
}

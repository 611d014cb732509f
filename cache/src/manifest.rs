//! The record of one finished action: what it was, what came out, who made it. Small, readable, sealed.
//!
//! On disk two lines: the manifest as JSON, then its seal. The seal's checksum (and, in a shared store, its signature) is over the
//! exact bytes of the first line, so nothing has to be brought into a canonical form before it is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::{ActionKey, BlobHash, ContentHash, Digest, Hasher};
use crate::key::Preimage;
use crate::provenance::Provenance;

const SEAL_DOMAIN: &str = "decoct 1 manifest seal";

/// Raised when the meaning of a field changes; unknown fields are ignored, so adding one is no reason.
pub const MANIFEST_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub key: ActionKey,
    pub preimage: Preimage,
    /// By the name a recipe uses after the dot; a node's only output is called `rows` or `model` by its engine.
    pub outputs: BTreeMap<String, Output>,
    pub provenance: Provenance,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Output {
    /// A table in one Parquet file.
    Rows { content: ContentHash, blob: BlobHash, rows: u64, bytes: u64 },
    /// A folder of files.
    Tree { content: ContentHash, files: Vec<TreeFile> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Relative, `/` between folders, no `..`.
    pub path: String,
    pub blob: BlobHash,
    pub bytes: u64,
    /// Times, rates and the like: stored and restored, but not part of the tree's content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provenance: bool,
}

impl Output {
    pub fn content(&self) -> ContentHash {
        match self {
            Self::Rows { content, .. } | Self::Tree { content, .. } => *content,
        }
    }

    /// Size of all its blobs.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Rows { bytes, .. } => *bytes,
            Self::Tree { files, .. } => files.iter().map(|file| file.bytes).sum(),
        }
    }

    /// `None` for a tree.
    pub fn rows(&self) -> Option<u64> {
        match self {
            Self::Rows { rows, .. } => Some(*rows),
            Self::Tree { .. } => None,
        }
    }

    /// Every blob with its size.
    pub fn blobs(&self) -> Vec<(BlobHash, u64)> {
        match self {
            Self::Rows { blob, bytes, .. } => vec![(*blob, *bytes)],
            Self::Tree { files, .. } => files.iter().map(|file| (file.blob, file.bytes)).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Seal {
    checksum: Digest,
    /// Of a writer's ed25519 key; a private store needs none.
    #[serde(default)]
    signature: Option<String>,
}

impl Manifest {
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.get(name)
    }

    pub fn bytes(&self) -> u64 {
        self.outputs.values().map(Output::bytes).sum()
    }

    /// The two lines that are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a manifest holds nothing that JSON lacks");
        let seal = Seal { checksum: checksum(&bytes), signature: None };
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &seal).expect("a seal holds nothing that JSON lacks");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the manifest of `key`; the reason if these bytes are not that.
    pub fn from_bytes(key: &ActionKey, bytes: &[u8]) -> Result<Self, &'static str> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (body, seal) = lines.next().zip(lines.next()).ok_or("it is cut off")?;
        let seal: Seal = serde_json::from_slice(seal).map_err(|_| "its seal is unreadable")?;
        if seal.checksum != checksum(body) || lines.next() != Some(&[]) || lines.next().is_some() {
            return Err("its checksum does not match");
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|_| "its fields are not a manifest's")?;
        match manifest {
            m if m.format > MANIFEST_FORMAT => Err("it was written by a newer program"),
            m if m.key != *key || m.preimage.action_key() != *key => Err("it belongs to another key"),
            m => Ok(m),
        }
    }
}

fn checksum(body: &[u8]) -> Digest {
    Hasher::new(SEAL_DOMAIN).raw(body).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let preimage = Preimage::new().text("kind", "cot").float("temperature", 0.7);
        let file = TreeFile {
            path: "model.safetensors".into(),
            blob: BlobHash(Digest::from_bytes([1; 32])),
            bytes: 9,
            provenance: false,
        };
        let content = ContentHash(Digest::from_bytes([2; 32]));
        let outputs = [
            ("model".to_owned(), Output::Tree { content, files: vec![file] }),
            (
                "rows".to_owned(),
                Output::Rows { content, blob: BlobHash(Digest::from_bytes([3; 32])), rows: 5, bytes: 7 },
            ),
        ];
        let provenance = Provenance { labels: vec!["rehearsal".into()], seconds: 0.25, ..Provenance::default() };
        Manifest { format: MANIFEST_FORMAT, key: preimage.action_key(), preimage, outputs: outputs.into(), provenance }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = manifest();
        assert_eq!(Manifest::from_bytes(&written.key, &written.to_bytes()).unwrap(), written);
        assert_eq!(written.bytes(), 16);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let written = manifest();
        let bytes = written.to_bytes();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                let read = Manifest::from_bytes(&written.key, &flipped);
                assert!(
                    read.is_err() || read.as_ref() == Ok(&written),
                    "bit {bit} of byte {position} changed the meaning"
                );
            }
            assert!(Manifest::from_bytes(&written.key, &bytes[..position]).is_err(), "cut at {position}");
        }
    }

    /// A whole, valid manifest in the wrong place must not answer for another action.
    #[test]
    fn a_manifest_of_another_key_is_refused() {
        let other = Preimage::new().text("kind", "verify").action_key();
        assert_eq!(Manifest::from_bytes(&other, &manifest().to_bytes()), Err("it belongs to another key"));
    }

    #[test]
    fn a_preimage_that_does_not_hash_to_its_key_is_refused() {
        let mut forged = manifest();
        forged.preimage = Preimage::new().text("kind", "verify");
        assert_eq!(Manifest::from_bytes(&forged.key, &forged.to_bytes()), Err("it belongs to another key"));
    }
}

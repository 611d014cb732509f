//! The record of one finished action: what it was, what came out, who made it. Small, readable, sealed.
//!
//! On disk two lines: the manifest as JSON, then its seal. The seal's checksum and, in a shared store, its writer's signature are
//! over the exact bytes of the first line, so nothing has to be brought into a canonical form before it is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::{ActionKey, BlobHash, ContentHash, Digest, Hasher};
use crate::key::Preimage;
use crate::provenance::Provenance;
use crate::trust::{PublicKey, Signature, Signer};

const SEAL_DOMAIN: &str = "decoct 1 manifest seal";
const SIGNATURE_DOMAIN: &str = "decoct 1 manifest signature";

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

/// A manifest that has been read and checked, with the writer whose good signature it carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    pub manifest: Manifest,
    /// `None` if no one signed it, as in a private store. A wrong signature is damage, and never comes this far.
    pub signer: Option<PublicKey>,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    checksum: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signer: Option<PublicKey>,
    /// Over the bytes of the first line. A private store needs none.
    #[serde(default)]
    signature: Option<Signature>,
}

impl Manifest {
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.get(name)
    }

    pub fn bytes(&self) -> u64 {
        self.outputs.values().map(Output::bytes).sum()
    }

    /// The two lines that are stored, signed by no one.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_sealed(None)
    }

    /// The two lines as a shared store keeps them.
    pub fn to_signed_bytes(&self, signer: &Signer) -> Vec<u8> {
        self.to_sealed(Some(signer))
    }

    /// Reads the manifest of `key`, signed or not; the reason if these bytes are not that.
    pub fn from_bytes(key: &ActionKey, bytes: &[u8]) -> Result<Self, &'static str> {
        Sealed::from_bytes(key, bytes).map(|sealed| sealed.manifest)
    }

    fn to_sealed(&self, signer: Option<&Signer>) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a manifest holds nothing that JSON lacks");
        let seal = Seal {
            checksum: checksum(&bytes),
            signer: signer.map(Signer::public),
            signature: signer.map(|signer| signer.sign(SIGNATURE_DOMAIN, &bytes)),
        };
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &seal).expect("a seal holds nothing that JSON lacks");
        bytes.push(b'\n');
        bytes
    }
}

impl Sealed {
    /// Reads the manifest of `key` and checks its seal; the reason if these bytes are not that.
    pub fn from_bytes(key: &ActionKey, bytes: &[u8]) -> Result<Self, &'static str> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (body, seal) = lines.next().zip(lines.next()).ok_or("it is cut off")?;
        let seal: Seal = serde_json::from_slice(seal).map_err(|_| "its seal is unreadable")?;
        if seal.checksum != checksum(body) || lines.next() != Some(&[]) || lines.next().is_some() {
            return Err("its checksum does not match");
        }
        let signer = seal.signer_of(body)?;
        let manifest: Manifest = serde_json::from_slice(body).map_err(|_| "its fields are not a manifest's")?;
        match manifest {
            m if m.format > MANIFEST_FORMAT => Err("it was written by a newer program"),
            m if m.key != *key || m.preimage.action_key() != *key => Err("it belongs to another key"),
            manifest => Ok(Self { manifest, signer }),
        }
    }
}

impl Seal {
    /// Who signed `body`, if anyone says so; an error unless it is true.
    fn signer_of(&self, body: &[u8]) -> Result<Option<PublicKey>, &'static str> {
        match (&self.signer, &self.signature) {
            (None, None) => Ok(None),
            (Some(key), Some(signature)) if key.verify(SIGNATURE_DOMAIN, body, signature) => Ok(Some(*key)),
            (Some(_), Some(_)) => Err("its signature is wrong"),
            _ => Err("its signature is incomplete"),
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

    fn signer(name: &str) -> Signer {
        let folder = tempfile::tempdir().unwrap();
        crate::trust::Trust::open(&folder.path().join(name)).unwrap().signer().unwrap()
    }

    #[test]
    fn what_is_signed_is_read_with_its_signer() {
        let (written, anna) = (manifest(), signer("anna"));
        let read = |bytes: &[u8]| Sealed::from_bytes(&written.key, bytes).unwrap();
        let signed = Sealed { manifest: written.clone(), signer: Some(anna.public()) };
        assert_eq!(read(&written.to_signed_bytes(&anna)), signed);
        assert_eq!(read(&written.to_bytes()), Sealed { signer: None, ..signed });
    }

    /// Bytes of the first release's seals, which named no signer.
    #[test]
    fn a_seal_of_the_first_release_is_read() {
        let written = manifest();
        let body = serde_json::to_string(&written).unwrap();
        let checksum = checksum(body.as_bytes());
        for seal in
            [format!(r#"{{"checksum":"{checksum}","signature":null}}"#), format!(r#"{{"checksum":"{checksum}"}}"#)]
        {
            let read = Sealed::from_bytes(&written.key, format!("{body}\n{seal}\n").as_bytes());
            assert_eq!(read, Ok(Sealed { manifest: written.clone(), signer: None }));
        }
    }

    fn every_flipped_bit_and_every_cut_is_noticed(written: &Manifest, bytes: &[u8]) {
        let whole = Sealed::from_bytes(&written.key, bytes);
        assert!(whole.is_ok());
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[position] ^= 1 << bit;
                let read = Sealed::from_bytes(&written.key, &flipped);
                assert!(read.is_err() || read == whole, "bit {bit} of byte {position} changed the meaning");
            }
            assert!(Sealed::from_bytes(&written.key, &bytes[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn an_unsigned_manifest_notices_every_flipped_bit_and_every_cut() {
        let written = manifest();
        every_flipped_bit_and_every_cut_is_noticed(&written, &written.to_bytes());
    }

    #[test]
    fn a_signed_manifest_notices_every_flipped_bit_and_every_cut() {
        let written = manifest();
        every_flipped_bit_and_every_cut_is_noticed(&written, &written.to_signed_bytes(&signer("anna")));
    }

    /// The disaster: someone who can write to the shared store puts other rows under a trusted name.
    #[test]
    fn no_forgery_is_read_as_signed_by_the_one_it_names() {
        let (written, anna, eve) = (manifest(), signer("anna"), signer("eve"));
        let mut forged = written.clone();
        forged.outputs.remove("rows");
        let body = |manifest: &Manifest| serde_json::to_vec(manifest).unwrap();
        let sealed = |manifest: &Manifest, signer: Option<PublicKey>, signature: Option<Signature>| {
            let body = body(manifest);
            let seal = Seal { checksum: checksum(&body), signer, signature };
            [body, b"\n".to_vec(), serde_json::to_vec(&seal).unwrap(), b"\n".to_vec()].concat()
        };
        let check = |bytes: Vec<u8>, expected: Result<Option<PublicKey>, &str>| {
            assert_eq!(Sealed::from_bytes(&written.key, &bytes).map(|sealed| sealed.signer), expected);
        };
        let of_anna = anna.sign(SIGNATURE_DOMAIN, &body(&written));
        check(sealed(&written, Some(anna.public()), Some(of_anna)), Ok(Some(anna.public())));
        check(sealed(&forged, Some(anna.public()), Some(of_anna)), Err("its signature is wrong"));
        check(
            sealed(&forged, Some(anna.public()), Some(eve.sign(SIGNATURE_DOMAIN, &body(&forged)))),
            Err("its signature is wrong"),
        );
        check(sealed(&written, Some(eve.public()), Some(of_anna)), Err("its signature is wrong"));
        check(
            sealed(&written, Some(anna.public()), Some(anna.sign("another domain", &body(&written)))),
            Err("its signature is wrong"),
        );
        check(sealed(&forged, Some(anna.public()), None), Err("its signature is incomplete"));
        check(sealed(&written, None, Some(of_anna)), Err("its signature is incomplete"));
        check(
            sealed(&forged, Some(eve.public()), Some(eve.sign(SIGNATURE_DOMAIN, &body(&forged)))),
            Ok(Some(eve.public())),
        );
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

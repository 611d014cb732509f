//! A stretch of one log of replies as it travels: named, hashed and signed, so that it can be neither changed nor swapped.
//!
//! ```text
//! {"format":1,"name":"<log>.<from>-<to>","hash":"…"}
//! {"signer":"decoct1:…","signature":"…"}                over the bytes of the first line
//! records: bytes from..to of that log, whole ones
//! ```
//! The name says what is in it, so nothing is fetched or sent twice; stretches that cover each other are the same records.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::BlobHash;
use crate::trust::{PublicKey, Signature, Signer};

const SIGNATURE_DOMAIN: &str = "decoct 1 reply stretch";
const FORMAT: u32 = 1;
/// Names of logs are ours: digits and dashes. Anything longer is no name of a log.
const LONGEST_LOG_NAME: usize = 100;

/// Bytes `from..to` of the log `log`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stretch {
    pub log: String,
    pub from: u64,
    pub to: u64,
}

impl Stretch {
    pub fn bytes(&self) -> u64 {
        self.to - self.from
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.log, self.from, self.to)
    }
}

impl FromStr for Stretch {
    type Err = ();

    /// Names come from strangers: exactly what is written, and nothing that leads out of a folder.
    fn from_str(name: &str) -> Result<Self, ()> {
        let (log, range) = name.split_once('.').ok_or(())?;
        let (from, to) = range.split_once('-').ok_or(())?;
        let stretch = Self { log: log.to_owned(), from: from.parse().or(Err(()))?, to: to.parse().or(Err(()))? };
        let is_sound = is_log_name(log) && stretch.from < stretch.to && stretch.to_string() == name;
        is_sound.then_some(stretch).ok_or(())
    }
}

fn is_log_name(name: &str) -> bool {
    let is_ours = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    (1..=LONGEST_LOG_NAME).contains(&name.len()) && name.bytes().all(is_ours)
}

#[derive(Serialize, Deserialize)]
struct Label {
    format: u32,
    name: String,
    /// Of the records.
    hash: BlobHash,
}

#[derive(Default, Serialize, Deserialize)]
struct Seal {
    #[serde(default)]
    signer: Option<PublicKey>,
    #[serde(default)]
    signature: Option<Signature>,
}

/// The bytes to send for `records`.
pub(crate) fn seal(stretch: &Stretch, records: &[u8], signer: &Signer) -> Vec<u8> {
    let label = Label { format: FORMAT, name: stretch.to_string(), hash: hash_of(records) };
    let label = serde_json::to_vec(&label).expect("text and numbers are JSON");
    let signature = signer.sign(SIGNATURE_DOMAIN, &label);
    let seal = Seal { signer: Some(signer.public()), signature: Some(signature) };
    let seal = serde_json::to_vec(&seal).expect("text is JSON");
    [&label[..], b"\n", &seal, b"\n", records].concat()
}

/// Records and their signer, if these bytes are an undamaged `stretch`; else the reason. A wrong signature is damage, none is not.
pub(crate) fn open<'a>(stretch: &Stretch, bytes: &'a [u8]) -> Result<(&'a [u8], Option<PublicKey>), &'static str> {
    let (label, rest) = split_line(bytes).ok_or("it is cut off")?;
    let (seal, records) = split_line(rest).ok_or("it is cut off")?;
    let read: Label = serde_json::from_slice(label).map_err(|_| "its label is unreadable")?;
    let seal: Seal = serde_json::from_slice(seal).map_err(|_| "its seal is unreadable")?;
    match &read {
        label if label.format > FORMAT => Err("it was written by a newer program"),
        label if label.name != stretch.to_string() => Err("it is another stretch"),
        label if records.len() as u64 != stretch.bytes() || label.hash != hash_of(records) => {
            Err("its hash is another")
        }
        _ => Ok((records, seal.signer_of(label)?)),
    }
}

impl Seal {
    fn signer_of(&self, label: &[u8]) -> Result<Option<PublicKey>, &'static str> {
        match (&self.signer, &self.signature) {
            (None, None) => Ok(None),
            (Some(signer), Some(signature)) if signer.verify(SIGNATURE_DOMAIN, label, signature) => Ok(Some(*signer)),
            _ => Err("its signature is wrong"),
        }
    }
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn hash_of(records: &[u8]) -> BlobHash {
    BlobHash(blake3::hash(records).into())
}

/// Which parts of which logs are somewhere.
#[derive(Debug, Default)]
pub(crate) struct Coverage(HashMap<String, Vec<(u64, u64)>>);

impl Coverage {
    pub fn add(&mut self, stretch: &Stretch) {
        let parts = self.0.entry(stretch.log.clone()).or_default();
        let (mut from, mut to) = (stretch.from, stretch.to);
        parts.retain(|(start, end)| {
            let is_apart = *end < from || *start > to;
            if !is_apart {
                (from, to) = (from.min(*start), to.max(*end));
            }
            is_apart
        });
        parts.push((from, to));
    }

    /// All of a log, however long it is.
    pub fn add_whole(&mut self, log: &str) {
        self.add(&Stretch { log: log.to_owned(), from: 0, to: u64::MAX });
    }

    pub fn covers(&self, stretch: &Stretch) -> bool {
        let parts = self.0.get(&stretch.log).into_iter().flatten();
        parts.into_iter().any(|(from, to)| *from <= stretch.from && stretch.to <= *to)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust::Trust;

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { log: "00ab-1-0-0001".into(), from, to }
    }

    #[test]
    fn a_name_is_exactly_what_we_write_and_leads_nowhere_else() {
        let check = |name: &str, expected: bool| assert_eq!(name.parse::<Stretch>().is_ok(), expected, "{name}");
        check("00ab-1-0-0001.16-200", true);
        check(&stretch(16, 200).to_string(), true);
        for bad in [
            "",
            "00ab",
            "00ab.16",
            "00ab.16-",
            "00ab.200-16",
            "00ab.16-16",
            "00ab.016-200",
            "00ab.+16-200",
            "../ab.16-200",
            "00ab.16-200.log",
            "00AB.16-200",
            ".16-200",
            "00ab.16-99999999999999999999",
            &format!("{}.16-200", "a".repeat(101)),
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn a_stretch_counts_under_its_own_name_only() {
        let home = tempfile::tempdir().unwrap();
        let signer = Trust::open(home.path()).unwrap().signer().unwrap();
        let sealed = seal(&stretch(16, 23), b"records", &signer);
        assert_eq!(open(&stretch(16, 23), &sealed), Ok((&b"records"[..], Some(signer.public()))));
        assert_eq!(open(&stretch(17, 24), &sealed), Err("it is another stretch"));
        assert_eq!(open(&Stretch { log: "ff".into(), ..stretch(16, 23) }, &sealed), Err("it is another stretch"));
        assert_eq!(open(&stretch(16, 23), &sealed[..sealed.len() - 1]), Err("its hash is another"));
        let seal_at = sealed.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let unsigned = [&sealed[..seal_at], b"{}\nrecords"].concat();
        assert_eq!(open(&stretch(16, 23), &unsigned), Ok((&b"records"[..], None)));
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[position] ^= 1 << bit;
                let opened = open(&stretch(16, 23), &flipped);
                assert!(opened.is_err() || opened == Ok((&b"records"[..], None)), "bit {bit} of byte {position}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_is_covered_whatever_the_order(parts in prop::collection::vec((0u64..40, 1u64..9), 0..12), probe in (0u64..50, 1u64..9)) {
            let mut coverage = Coverage::default();
            let mut bytes = [false; 64];
            for (from, length) in parts {
                coverage.add(&stretch(from, from + length));
                bytes[from as usize..(from + length) as usize].fill(true);
            }
            let (from, to) = (probe.0, probe.0 + probe.1);
            let expected = bytes[from as usize..to as usize].iter().all(|covered| *covered);
            prop_assert_eq!(coverage.covers(&stretch(from, to)), expected);
            let of_another_log = Stretch { log: "ff".into(), ..stretch(from, to) };
            prop_assert!(!coverage.covers(&of_another_log));
        }
    }
}

//! One reply on disk, and how to find the intact ones among damaged bytes.
//!
//! ```text
//! segment  ┌──────────────────┬────────┬────────┬─ ⋯
//!          │ header, 16 bytes │ record │ record │
//!          └──────────────────┴────────┴────────┴─ ⋯
//! record   ┌──────┬──────────┬─────────┬──────────┬─────────┐
//!          │ rpl1 │ checksum │ n, u32  │ address  │ reply   │   integers little-endian
//!          │ 4    │ 8 bytes  │ 4 bytes │ 32 bytes │ n bytes │
//!          └──────┴──────────┴─────────┴──────────┴─────────┘
//! ```
//! The checksum is XXH64 over all that follows it. It finds accidents, and blake3 would be most of the cost of a look-up; who
//! shares segments signs a blake3 over the whole of each.

use twox_hash::XxHash64;

use crate::hash::{Digest, ReplyAddress};

/// First bytes of every segment; the digit is the version of the format.
pub const SEGMENT_HEADER: [u8; 16] = *b"decoct replies 1";

/// Lets a scan find the next record behind one whose length was damaged.
const MARK: [u8; 4] = *b"rpl1";
const CHECKSUM_BYTES: usize = 8;
const PREFIX_BYTES: usize = 48;

/// Where a reply lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: ReplyAddress,
    /// Of the record's first byte.
    pub offset: u64,
    /// Of the whole record.
    pub bytes: u32,
}

/// Appends the record of one reply; its length.
///
/// # Panics
/// If the reply is larger than 4 GB.
pub fn encode(address: &ReplyAddress, reply: &[u8], out: &mut Vec<u8>) -> u32 {
    let bytes = u32::try_from(reply.len() + PREFIX_BYTES).expect("a reply of less than 4 GB");
    let start = out.len();
    out.reserve(bytes as usize);
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    out.extend_from_slice(&(bytes - PREFIX_BYTES as u32).to_le_bytes());
    out.extend_from_slice(address.as_bytes());
    out.extend_from_slice(reply);
    let (head, checked) = out[start..].split_at_mut(MARK.len() + CHECKSUM_BYTES);
    head[MARK.len()..].copy_from_slice(&checksum(checked));
    bytes
}

/// Address and reply of the record that `bytes` begin with; `None` if there is no intact one.
pub fn decode(bytes: &[u8]) -> Option<(ReplyAddress, &[u8])> {
    let (expected, checked) = bytes.strip_prefix(&MARK)?.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (length, rest) = checked.split_first_chunk::<4>()?;
    let (address, rest) = rest.split_first_chunk::<32>()?;
    let reply = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let checked = &checked[..checked.len() - rest.len() + reply.len()];
    (checksum(checked) == *expected).then_some((ReplyAddress(Digest::from_bytes(*address)), reply))
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    pub entries: Vec<Entry>,
    /// Behind the last intact record: where a live writer goes on, or where a dead one's torn tail begins.
    pub end: u64,
    /// Bytes between intact records that belong to none.
    pub damaged_bytes: u64,
}

/// Finds every intact record in `bytes`, which begin at `offset` of their segment.
pub fn scan(bytes: &[u8], offset: u64) -> Scan {
    let mut found = Scan { end: offset, ..Scan::default() };
    let mut position = 0;
    while position < bytes.len() {
        match decode(&bytes[position..]) {
            Some((address, reply)) => {
                let (start, size) = (offset + position as u64, PREFIX_BYTES + reply.len());
                found.damaged_bytes += start - found.end;
                found.entries.push(Entry { address, offset: start, bytes: size as u32 });
                position += size;
                found.end = offset + position as u64;
            }
            None => position = next_mark(bytes, position + 1),
        }
    }
    found
}

fn next_mark(bytes: &[u8], from: usize) -> usize {
    let found = bytes[from..].windows(MARK.len()).position(|window| window == MARK);
    found.map_or(bytes.len(), |distance| from + distance)
}

fn checksum(checked: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash64::oneshot(0, checked).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(byte: u8) -> ReplyAddress {
        ReplyAddress(Digest::from_bytes([byte; 32]))
    }

    fn log(replies: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = Vec::new();
        let starts = replies.iter().enumerate().map(|(i, reply)| {
            let start = bytes.len() as u64;
            encode(&address(i as u8), reply, &mut bytes);
            start
        });
        let starts = starts.collect();
        (bytes, starts)
    }

    proptest! {
        #[test]
        fn a_torn_tail_costs_only_the_record_it_tears(replies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..6), cut in any::<prop::sample::Index>()) {
            let (bytes, starts) = log(&replies);
            let cut = cut.index(bytes.len());
            let whole = starts.iter().skip(1).chain([&(bytes.len() as u64)]).filter(|end| **end <= cut as u64).count();
            let found = scan(&bytes[..cut], 0);
            prop_assert_eq!(found.entries.len(), whole);
            prop_assert_eq!(found.end, if whole == 0 { 0 } else { starts.get(whole).copied().unwrap() });
        }

        #[test]
        fn a_flipped_bit_costs_only_the_record_it_hits(replies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..6), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (mut bytes, starts) = log(&replies);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let hit = starts.iter().rposition(|start| *start <= at as u64).unwrap();
            let survivors: Vec<_> = scan(&bytes, 0).entries.iter().map(|entry| entry.address).collect();
            let expected: Vec<_> = (0..replies.len()).filter(|i| *i != hit).map(|i| address(i as u8)).collect();
            prop_assert_eq!(survivors, expected);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![Just(b'r'), Just(b'p'), Just(b'l'), Just(b'1'), any::<u8>()], 0..400)) {
            prop_assert!(scan(&bytes, 16).end >= 16);
        }
    }
}

//! Lines of JSON that notice when they were changed: small records that nothing else guards.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hash::Hasher;

const SEAL_DOMAIN: &str = "decoct 1 sealed line";
const OPENING: &[u8] = br#","seal":""#;
const CLOSING: &[u8] = br#""}"#;
/// 64 bits of a hash find accidents; nobody is kept from writing a line of his own.
const SEAL_DIGITS: usize = 16;

/// One object as JSON without line ends, with a hash of itself as its last field.
///
/// # Panics
/// If `record` is no object with at least one field.
pub fn sealed(record: &impl Serialize) -> String {
    let text = serde_json::to_string(record).expect("a record holds nothing that JSON lacks");
    let body = text.strip_suffix('}').expect("a record is an object");
    assert!(body.len() > 1, "a record has fields");
    let [opening, closing] = [OPENING, CLOSING].map(|part| std::str::from_utf8(part).expect("ASCII"));
    format!("{body}{opening}{}{closing}", seal_of(text.as_bytes()))
}

/// `None` unless `line` is as it was sealed.
pub fn unsealed<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let body_bytes = line.len().checked_sub(OPENING.len() + SEAL_DIGITS + CLOSING.len())?;
    let (body, seal) = line.split_at(body_bytes);
    let seal = seal.strip_prefix(OPENING)?.strip_suffix(CLOSING)?;
    let text = [body, b"}"].concat();
    (seal == seal_of(&text).as_bytes()).then(|| serde_json::from_slice(&text).ok()).flatten()
}

fn seal_of(text: &[u8]) -> String {
    let mut digits = Hasher::new(SEAL_DOMAIN).raw(text).finish().to_string();
    digits.truncate(SEAL_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let record = json!({"node": "chains", "cost_usd": 0.25, "text": "a\n\"b\""});
        let line = sealed(&record);
        assert_eq!(unsealed::<Value>(line.as_bytes()), Some(record));
        assert!(serde_json::from_str::<Value>(&line).is_ok() && !line.contains('\n'), "it is still a line of JSON");
        for position in 0..line.len() {
            for bit in 0..8 {
                let mut flipped = line.clone().into_bytes();
                flipped[position] ^= 1 << bit;
                assert_eq!(unsealed::<Value>(&flipped), None, "bit {bit} of byte {position}");
            }
            assert_eq!(unsealed::<Value>(&line.as_bytes()[..position]), None, "cut at {position}");
        }
    }
}

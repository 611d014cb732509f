//! Keys of writers and what they sign: ed25519, every signature bound to a domain, everything public written as text.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the text of a public key begins with; the digit is the version of the scheme.
const PUBLIC_PREFIX: &str = "decoct1:";

/// Digits of the short form: enough to tell colleagues apart, too few to trust a key by.
const SHORT_DIGITS: usize = 8;

/// Whose work it is: written as `decoct1:` and 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether the holder of this key signed exactly `message` for `domain`.
    ///
    /// Strict: no second signature can be made from a valid one, and a key under which anything verifies is refused.
    pub fn verify(&self, domain: &str, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&bound(domain, message), &signature).is_ok()
    }

    /// The first eight digits, for messages in which the whole key would only be in the way.
    pub fn short(&self) -> String {
        hex(&self.0[..SHORT_DIGITS / 2])
    }
}

/// Text that is not the public key of a writer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a public key: `{PUBLIC_PREFIX}` and 64 lowercase hexadecimal digits are expected")]
pub struct NotAPublicKey(String);

impl FromStr for PublicKey {
    type Err = NotAPublicKey;

    fn from_str(text: &str) -> Result<Self, NotAPublicKey> {
        let bytes = text.strip_prefix(PUBLIC_PREFIX).and_then(unhex::<32>);
        let sound = |bytes: &[u8; 32]| VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak());
        bytes.filter(sound).map(Self).ok_or_else(|| NotAPublicKey(text.to_owned()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", hex(&self.0))
    }
}

/// 64 bytes, written as 128 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// Text that is not a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a signature: 128 lowercase hexadecimal digits are expected")]
pub struct NotASignature;

impl FromStr for Signature {
    type Err = NotASignature;

    fn from_str(text: &str) -> Result<Self, NotASignature> {
        unhex::<64>(text).map(Self).ok_or(NotASignature)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Debug, and serde as text, through what `Display` and `FromStr` say.
macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(PublicKey);
as_text!(Signature);

/// The secret half of a writer's key. It shows itself nowhere: `Debug` tells the public half.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// `domain` is a constant of ours that says what kind of thing `message` is, so that a signature under one kind of thing
    /// never counts under another.
    pub fn sign(&self, domain: &str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&bound(domain, message)).to_bytes())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// A key that has never been before.
    pub(super) fn generate() -> std::io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    pub(super) fn from_secret_text(text: &str) -> Option<Self> {
        unhex::<32>(text).map(|secret| Self(SigningKey::from_bytes(&secret)))
    }

    /// For the key file and nothing else.
    pub(super) fn secret_text(&self) -> String {
        hex(self.0.as_bytes())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public())
    }
}

/// The bytes that are signed: the length keeps any domain from running on into a message.
fn bound(domain: &str, message: &[u8]) -> Vec<u8> {
    [&(domain.len() as u64).to_le_bytes(), domain.as_bytes(), message].concat()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("four bits are a digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// `None` unless `text` is exactly `2 * N` lowercase digits: a key or signature has one spelling.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(byte: u8) -> Signer {
        Signer(SigningKey::from_bytes(&[byte; 32]))
    }

    /// RFC 8032, 7.1, test 1: the key is what every other ed25519 program makes of the same secret.
    #[test]
    fn keys_are_those_of_the_standard() {
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "decoct1:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let signer = Signer::from_secret_text(secret).unwrap();
        assert_eq!(signer.public().to_string(), public);
        assert_eq!(signer.public().short(), "d75a9801");
        assert_eq!(public.parse(), Ok(signer.public()));
    }

    #[test]
    fn a_signature_counts_for_one_key_one_domain_and_one_message() {
        let signature = signer(1).sign("manifest", b"rows");
        let check = |key: &Signer, domain: &str, message: &[u8], expected: bool| {
            assert_eq!(key.public().verify(domain, message, &signature), expected, "{domain} {message:?}");
        };
        check(&signer(1), "manifest", b"rows", true);
        check(&signer(2), "manifest", b"rows", false);
        check(&signer(1), "segment", b"rows", false);
        check(&signer(1), "manifestr", b"ows", false);
        check(&signer(1), "manifes", b"trows", false);
        check(&signer(1), "manifest", b"row", false);
        check(&signer(1), "manifest", b"", false);
    }

    #[test]
    fn what_is_not_a_key_is_refused_in_a_sentence() {
        let good = signer(1).public().to_string();
        let digits = good.strip_prefix(PUBLIC_PREFIX).unwrap();
        for bad in [
            "".to_owned(),
            digits.to_owned(),
            format!("decoct2:{digits}"),
            good.to_uppercase(),
            format!("{PUBLIC_PREFIX}{}", digits.to_uppercase()),
            good[..good.len() - 1].to_owned(),
            format!("{good}0"),
            format!("{good} "),
            good.replace(&digits[..2], "é"),
            // Half of all bytes are no point of the curve.
            format!("{PUBLIC_PREFIX}{}", "02".repeat(32)),
            // A point under which any message verifies for one signature.
            format!("{PUBLIC_PREFIX}01{}", "00".repeat(31)),
        ] {
            let error = bad.parse::<PublicKey>().unwrap_err().to_string();
            assert!(error.contains("64 lowercase hexadecimal digits"), "{bad}: {error}");
        }
    }

    /// The disaster: a log line or a crash report with the secret in it.
    #[test]
    fn the_secret_shows_itself_nowhere() {
        let signer = signer(7);
        let shown = format!("{signer:?} {signer:#?} {} {:?}", signer.public(), signer.sign("x", b"y"));
        assert!(!shown.contains(&signer.secret_text()), "{shown}");
        assert!(!shown.contains("7, 7, 7"), "{shown}");
        assert!(shown.contains(&signer.public().to_string()));
    }

    #[test]
    fn two_keys_made_are_two_keys() {
        assert_ne!(Signer::generate().unwrap().public(), Signer::generate().unwrap().public());
    }

    proptest! {
        #[test]
        fn one_flipped_bit_anywhere_and_nothing_verifies(message in prop::collection::vec(any::<u8>(), 1..60), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let signature = signer(3).sign("d", &message);
            let key = signer(3).public();
            prop_assert!(key.verify("d", &message, &signature));
            let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1 << bit;
            let (mut flipped, mut other_signature, mut other_key) = (message.clone(), signature, key);
            flip(&mut flipped);
            flip(&mut other_signature.0);
            flip(&mut other_key.0);
            prop_assert!(!key.verify("d", &flipped, &signature));
            prop_assert!(!key.verify("d", &message, &other_signature));
            prop_assert!(!other_key.verify("d", &message, &signature));
        }

        #[test]
        fn text_is_read_back_and_has_one_spelling(bytes in any::<[u8; 32]>(), foreign in "\\PC{0,140}") {
            let signer = Signer(SigningKey::from_bytes(&bytes));
            let signature = signer.sign("d", &bytes);
            prop_assert_eq!(signer.public().to_string().parse(), Ok(signer.public()));
            prop_assert_eq!(signature.to_string().parse(), Ok(signature));
            prop_assert_eq!(Signer::from_secret_text(&signer.secret_text()).unwrap().public(), signer.public());
            if let Ok(key) = foreign.parse::<PublicKey>() {
                prop_assert_eq!(key.to_string(), foreign);
            }
        }
    }
}

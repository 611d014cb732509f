//! Hashes and the one way to compute them: blake3, domain-separated, every field length-prefixed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// 32 bytes of blake3, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a hash: 64 hexadecimal digits are expected")]
pub struct NotAHash(String);

impl FromStr for Digest {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| NotAHash(text.to_owned()))
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hash with a meaning, so that a key cannot be handed in where a content hash is expected.
macro_rules! hash_of {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAHash;

            fn from_str(text: &str) -> Result<Self, NotAHash> {
                text.parse().map($name)
            }
        }
    };
}

hash_of!(
    /// What a piece of work is: the hash of everything that can change its outcome.
    ActionKey
);
hash_of!(
    /// What an output says: the hash of its rows or of its files, whatever wrote them.
    ContentHash
);
hash_of!(
    /// What a stored file holds: plain blake3 of its bytes, so that `b3sum` can check it too.
    BlobHash
);
hash_of!(
    /// Which model call a reply answers: the hash of the whole request.
    ReplyAddress
);

/// Hashes named fields under a domain: neither two domains nor two ways to cut the same bytes into fields collide.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// `domain` is a constant of ours, never user text.
    pub fn new(domain: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(domain))
    }

    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.bytes(name.as_bytes()).bytes(value)
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    /// Bytes whose length the caller has fixed otherwise (a tag, an integer, a framed stream).
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.0.update(value);
        self
    }

    pub fn finish(&self) -> Digest {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(domain: &str, fields: &[(&str, &str)]) -> Digest {
        let mut hasher = Hasher::new(domain);
        for (name, value) in fields {
            hasher.field(name, value.as_bytes());
        }
        hasher.finish()
    }

    #[test]
    fn cutting_the_same_bytes_differently_is_another_hash() {
        let base = hashed("a", &[("x", "12"), ("y", "3")]);
        for other in [
            hashed("b", &[("x", "12"), ("y", "3")]),
            hashed("a", &[("x", "1"), ("y", "23")]),
            hashed("a", &[("x1", "2"), ("y", "3")]),
            hashed("a", &[("y", "3"), ("x", "12")]),
            hashed("a", &[("x", "12"), ("y", "3"), ("", "")]),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, hashed("a", &[("x", "12"), ("y", "3")]));
    }

    #[test]
    fn hex_round_trips_and_anything_else_is_refused() {
        let hash = hashed("a", &[]);
        assert_eq!(hash.to_string().parse::<Digest>().unwrap(), hash);
        assert_eq!(hash.to_string().len(), 64);
        for bad in ["", "ab", "zz", &"g".repeat(64), &"0".repeat(63)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}

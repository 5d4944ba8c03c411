//! Content addresses, and the hasher that proves them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

/// The registered algorithms of the image specification ("Digests").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, which everything uses.
    Sha256,
    /// `sha512`, which the specification also registers.
    Sha512,
}

impl Algorithm {
    /// The name before the ':'.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash, in bytes.
    const fn hash_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest `<algorithm>:<lower-case hex>`. The hash is kept in binary: an index of a million of
/// them must stay small.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash; bytes past the algorithm's length are zero.
    hash: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DigestError {
    /// No `<algorithm>:` in front.
    #[error("a digest is written <algorithm>:<hex>")]
    Shape,
    /// Neither sha256 nor sha512.
    #[error("the digest algorithm is neither sha256 nor sha512")]
    Algorithm,
    /// Wrong length or a character that is not lower-case hex.
    #[error("a {algorithm} digest has {hex_digits} lower-case hex digits", algorithm = .0.as_str(), hex_digits = .0.hash_bytes() * 2)]
    Hex(Algorithm),
}

impl Digest {
    /// Parses `sha256:<64 hex>` or `sha512:<128 hex>`.
    ///
    /// # Errors
    /// When shape, algorithm or hex do not hold.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Shape)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm),
        };
        Self::from_hex(algorithm, hex)
    }

    /// Parses the hex after the ':'.
    ///
    /// # Errors
    /// When the length or a character is wrong.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        if hex.len() != algorithm.hash_bytes() * 2 {
            return Err(DigestError::Hex(algorithm));
        }
        let mut hash = [0u8; 64];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let value = pair.iter().try_fold(0u8, |value, digit| Some(value << 4 | hex_value(*digit)?));
            *byte = value.ok_or(DigestError::Hex(algorithm))?;
        }
        Ok(Self { algorithm, hash })
    }

    /// Takes a hash as it is, in binary. `None` if it has another length than `algorithm`'s.
    #[must_use]
    pub fn from_hash(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let mut hash = [0u8; 64];
        hash.get_mut(..algorithm.hash_bytes())?.copy_from_slice(Some(bytes).filter(|bytes| bytes.len() == algorithm.hash_bytes())?);
        Some(Self { algorithm, hash })
    }

    /// The hash, in binary.
    #[must_use]
    pub fn hash(&self) -> &[u8] {
        self.hash.get(..self.algorithm.hash_bytes()).unwrap_or_default()
    }

    /// The sha256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hex, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut hex = String::with_capacity(self.algorithm.hash_bytes() * 2);
        for byte in self.hash.iter().take(self.algorithm.hash_bytes()) {
            hex.push(hex_digit(byte >> 4));
            hex.push(hex_digit(byte & 0xf));
        }
        hex
    }
}

impl Digest {
    /// The first 16 bytes of the hash: enough where millions are held in memory, and two that meet
    /// would only be kept longer than need be.
    #[must_use]
    pub fn prefix(&self) -> [u8; 16] {
        let mut prefix = [0; 16];
        prefix.iter_mut().zip(self.hash).for_each(|(to, from)| *to = from);
        prefix
    }
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

const fn hex_digit(value: u8) -> char {
    match value {
        0..=9 => (b'0' + value) as char,
        _ => (b'a' + value - 10) as char,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Hashes bytes as they come. Cloning keeps the state, so a second reader can go on from there.
#[derive(Clone)]
pub enum DigestHasher {
    /// State of a sha256.
    Sha256(Sha256),
    /// State of a sha512.
    Sha512(Sha512),
}

impl DigestHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut hash = [0u8; 64];
        let mut fill = |output: &[u8]| hash.iter_mut().zip(output).for_each(|(to, from)| *to = *from);
        let algorithm = match self {
            Self::Sha256(state) => {
                fill(state.finalize().as_slice());
                Algorithm::Sha256
            }
            Self::Sha512(state) => {
                fill(state.finalize().as_slice());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_prints_as_it_was_read() {
        assert_eq!(Digest::parse(EMPTY_SHA256).unwrap().to_string(), EMPTY_SHA256);
        assert_eq!(Digest::of(b"").to_string(), EMPTY_SHA256);
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(Digest::parse(&sha512).unwrap().to_string(), sha512);
    }

    #[test]
    fn wrong_digests_are_refused() {
        assert_eq!(Digest::parse("latest"), Err(DigestError::Shape));
        assert_eq!(Digest::parse("md5:d41d8cd98f00b204e9800998ecf8427e"), Err(DigestError::Algorithm));
        assert_eq!(Digest::parse("sha256:ab"), Err(DigestError::Hex(Algorithm::Sha256)));
        let upper = EMPTY_SHA256.replace("e3b0", "E3B0");
        assert_eq!(Digest::parse(&upper), Err(DigestError::Hex(Algorithm::Sha256)));
        assert!(Digest::parse(&format!("sha256:{}", "ä".repeat(32))).is_err());
    }

    #[test]
    fn hasher_goes_on_from_a_clone() {
        let mut first = DigestHasher::new(Algorithm::Sha256);
        first.update(b"head");
        let mut second = first.clone();
        first.update(b"pond");
        second.update(b"pond");
        assert_eq!(first.finish(), Digest::of(b"headpond"));
        assert_eq!(second.finish(), Digest::of(b"headpond"));
    }
}

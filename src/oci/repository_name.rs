//! Repository names: the `<name>` of the distribution specification, with ECR's length.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A valid repository name.
///
/// Grammar (distribution specification, "Pulling manifests"): components of
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/`. Length 1 to 255 bytes: ECR allows 256, but a
/// name is also a path component of the store, where 255 is the limit of every file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

/// Why a text is not a repository name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RepositoryNameError {
    /// Shorter than [`RepositoryName::MIN_BYTES`] or longer than [`RepositoryName::MAX_BYTES`].
    #[error("a repository name has {min} to {max} characters, this one has {0}", min = RepositoryName::MIN_BYTES, max = RepositoryName::MAX_BYTES)]
    Length(usize),
    /// A component does not follow the grammar.
    #[error("components are lower-case letters and digits, joined by '.', '_', '__' or '-', and separated by single '/'")]
    Grammar,
}

impl RepositoryName {
    /// Shortest name, in bytes.
    pub const MIN_BYTES: usize = 1;
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Parses a name.
    ///
    /// # Errors
    /// When length or grammar do not hold.
    pub fn parse(text: &str) -> Result<Self, RepositoryNameError> {
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()) {
            return Err(RepositoryNameError::Length(text.len()));
        }
        if !text.split('/').all(is_component) {
            return Err(RepositoryNameError::Grammar);
        }
        Ok(Self(text.into()))
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` is one path component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
#[must_use]
pub fn is_component(text: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_alphanumeric) || !bytes.last().is_some_and(is_alphanumeric) {
        return false;
    }
    bytes.split(is_alphanumeric).all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_grammar_parse() {
        for name in ["a", "ab", "library/nginx", "a/b/c/d", "a__b", "a---b", "a.b_c-d/e1", "manifests/blobs", "a/manifests"] {
            assert_eq!(RepositoryName::parse(name).unwrap().as_str(), name);
        }
        assert!(RepositoryName::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        for name in ["", "/a", "a/", "a//b", "A/b", "-ab", "ab-", "a___b", "a..b", "a._b", "ä/b", "a b", "a:b", "../b", "a/../b", "a%2fb"]
        {
            assert!(RepositoryName::parse(name).is_err(), "{name}");
        }
        assert_eq!(RepositoryName::parse(&"a".repeat(256)), Err(RepositoryNameError::Length(256)));
    }
}

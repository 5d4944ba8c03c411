//! What a manifest request names: a tag or a digest.

use std::fmt;

use thiserror::Error;

use super::{Digest, Tag};

/// `<reference>` of the distribution specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// A content address that cannot.
    Digest(Digest),
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// It holds a ':' and so can only be a digest, and is none.
    #[error(transparent)]
    Digest(#[from] super::digest::DigestError),
    /// It is not a tag either.
    #[error(transparent)]
    Tag(#[from] super::tag::TagError),
}

impl Reference {
    /// Parses a tag or a digest; a ':' tells them apart.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(Digest::parse(text)?)) } else { Ok(Self::Tag(Tag::parse(text)?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

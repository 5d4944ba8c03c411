//! Tags.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A valid tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution specification, "Pulling manifests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// The text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a tag is 1 to {max} letters, digits, '_', '.' or '-', and starts with none of '.' and '-'", max = Tag::MAX_BYTES)]
pub struct TagError;

impl Tag {
    /// Longest tag, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Parses a tag.
    ///
    /// # Errors
    /// When the grammar does not hold.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let starts_right = bytes.next().is_some_and(is_word);
        let goes_on_right = bytes.all(|b| is_word(b) || b == b'.' || b == b'-');
        if starts_right && goes_on_right && text.len() <= Self::MAX_BYTES { Ok(Self(text.into())) } else { Err(TagError) }
    }

    /// The tag as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar() {
        for tag in ["a", "1.2.3", "_x", "V1_2-rc.1", &"t".repeat(128)] {
            assert_eq!(Tag::parse(tag).unwrap().as_str(), tag);
        }
        for tag in ["", ".a", "-a", "a b", "a/b", "ä", "a:b", &"t".repeat(129)] {
            assert_eq!(Tag::parse(tag), Err(TagError), "{tag}");
        }
    }
}

//! Prefixes of repository names.

use std::fmt;

use crate::oci::repository_name::is_component;

/// What a rule's names start with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// `ROOT`: no prefix at all; as a rule's prefix it comes last.
    Root,
    /// Components joined by '/', without a '/' at the end; 2 to 30 characters.
    Name(String),
}

impl Prefix {
    /// Shortest prefix, in bytes, as in ECR.
    pub const MIN_BYTES: usize = 2;
    /// Longest prefix, in bytes, as in ECR.
    pub const MAX_BYTES: usize = 30;

    /// Parses a prefix (ECR's `ecrRepositoryPrefix`); a '/' at the end means the same and is dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "ROOT" {
            return Some(Self::Root);
        }
        let name = text.strip_suffix('/').unwrap_or(text);
        let holds = (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()) && name.split('/').all(is_component);
        holds.then(|| Self::Name(name.to_owned()))
    }

    /// The prefix as text: `ROOT`, or the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Root => "ROOT",
            Self::Name(name) => name,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_follow_the_grammar_of_ecr() {
        let name = |text: &str| Some(Prefix::Name(text.to_owned()));
        assert_eq!(Prefix::parse("ROOT"), Some(Prefix::Root));
        assert_eq!(Prefix::parse("quay/"), name("quay"));
        assert_eq!(Prefix::parse("team/docker-hub"), name("team/docker-hub"));
        assert_eq!(Prefix::parse(&"a".repeat(30)), name(&"a".repeat(30)));
        for text in ["", "a", "/", "Root", "Quay", "quay//", "/quay", "a--", "a b", "quay/ROOT", &"a".repeat(31)] {
            assert_eq!(Prefix::parse(text), None, "{text}");
        }
    }
}

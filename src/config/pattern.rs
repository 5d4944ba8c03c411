//! Patterns over names and tags.

use std::fmt;

/// A pattern: `*` matches any run of characters, '/' too; everything else matches itself, and the
/// whole text must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Longest pattern, in bytes: no name or tag is longer.
    pub const MAX_BYTES: usize = 255;

    /// Parses a pattern: 1 to [`Self::MAX_BYTES`] characters that names and tags are made of, or `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let may_occur = |b: u8| b.is_ascii_alphanumeric() || b"._-/*".contains(&b);
        let holds = !text.is_empty() && text.len() <= Self::MAX_BYTES && text.bytes().all(may_occur);
        holds.then(|| Self(text.to_owned()))
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` matches. Linear: the pieces between stars are looked for from left to right,
    /// each where it first occurs, with no way back.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail));
        let found = inner.and_then(|inner| middle.split('*').try_fold(inner, |left, piece| left.split_once(piece).map(|(_, left)| left)));
        found.is_some()
    }

    /// Orders patterns from exact to loose: without a star first, then by how much they say.
    pub(super) fn looseness(&self) -> (bool, usize) {
        let said = self.0.bytes().filter(|b| *b != b'*').count();
        (self.0.contains('*'), Self::MAX_BYTES - said)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn star_matches_any_run_and_the_rest_is_anchored() {
        for (text, name) in
            [("*", ""), ("*", "a/b"), ("library/*", "library/nginx"), ("*/nginx", "a/b/nginx"), ("a*b*c", "abbc"), ("1.*-x", "1.2-x")]
        {
            assert!(pattern(text).matches(name), "{text} {name}");
        }
        for (text, name) in [("a", "ab"), ("library/*", "library"), ("a*a", "a"), ("a*b*c", "acb"), ("*a*b*", "ba"), ("1.2", "102")] {
            assert!(!pattern(text).matches(name), "{text} {name}");
        }
    }

    #[test]
    fn what_cannot_be_in_a_name_is_refused() {
        for text in ["", "a b", "a?", "[ab]", "ä", &"a".repeat(256)] {
            assert!(Pattern::parse(text).is_none(), "{text}");
        }
    }

    /// The obvious matcher, exponential but short.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if oracle(rest, text) => true,
            (Some((b'*', _)), Some((_, left))) => oracle(pattern, left),
            (Some((want, rest)), Some((have, left))) if want == have => oracle(rest, left),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matcher_agrees_with_the_obvious_one(text in "[ab*]{1,7}", name in "[ab]{0,7}") {
            prop_assert_eq!(pattern(&text).matches(&name), oracle(text.as_bytes(), name.as_bytes()));
        }
    }
}

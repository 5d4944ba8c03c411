//! What one replica tells another of what their upstream refused.

use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::ERROR_HEADER;

/// What a header's value cannot hold, and the sign of the encoding itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// As much of the words is told, in characters.
const MAX_DETAIL_CHARS: usize = 1_000;

/// What an upstream's refusal means. That a replica itself cannot answer is none: another is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It is not there, or not shown.
    NotFound,
    /// The credentials of the rule are refused.
    Denied,
    /// Fewer requests are wanted.
    TooManyRequests,
    /// There is no answer.
    Unavailable,
    /// The answer makes no sense.
    Invalid,
}

impl RefusalKind {
    const ALL: [Self; 5] = [Self::NotFound, Self::Denied, Self::TooManyRequests, Self::Unavailable, Self::Invalid];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
        }
    }

    /// The kind and words as the value of [`ERROR_HEADER`].
    #[must_use]
    pub fn header(self, detail: &str) -> Option<HeaderValue> {
        let detail: String = detail.chars().take(MAX_DETAIL_CHARS).collect();
        HeaderValue::try_from(format!("{} {}", self.as_str(), utf8_percent_encode(&detail, ENCODED))).ok()
    }

    /// The kind and words of an answer; `None` if no upstream refused.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<(Self, String)> {
        let (kind, detail) = headers.get(ERROR_HEADER)?.to_str().ok()?.split_once(' ')?;
        let kind = Self::ALL.into_iter().find(|known| known.as_str() == kind)?;
        Some((kind, percent_decode_str(detail).decode_utf8_lossy().into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_words_come_through(detail in "\\PC{0,100}|[ -~]{0,100}", kind in 0usize..5) {
            let kind = RefusalKind::ALL[kind];
            let headers = HeaderMap::from_iter([(ERROR_HEADER, kind.header(&detail).unwrap())]);
            prop_assert_eq!(RefusalKind::of(&headers), Some((kind, detail)));
        }
    }

    #[test]
    fn unknown_kinds_are_no_refusal() {
        for value in ["", "not_found", "gone away"] {
            let headers = HeaderMap::from_iter([(ERROR_HEADER, HeaderValue::from_static(value))]);
            assert_eq!(RefusalKind::of(&headers), None, "{value}");
        }
    }
}

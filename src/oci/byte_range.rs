//! `Range` of RFC 9110 §14: one range of bytes.

use std::ops::Range;

/// What a `Range` header asks for, before the length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// `bytes=first-last`, both inclusive.
    FromTo {
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: u64,
    },
    /// `bytes=first-`.
    From {
        /// First byte.
        first: u64,
    },
    /// `bytes=-count`: the last bytes.
    Suffix {
        /// How many.
        count: u64,
    },
}

/// The range does not overlap the representation: answered 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsatisfiable;

/// A satisfiable range of a representation of `length` bytes; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub first: u64,
    /// Last byte, inclusive, and below the length.
    pub last: u64,
}

impl RangeRequest {
    /// Parses a `Range` value. `None` for what RFC 9110 lets a server ignore, so that the whole
    /// representation is sent: another unit, several ranges, or a malformed one.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, set) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", count) => Some(Self::Suffix { count: digits(count)? }),
            (first, "") => Some(Self::From { first: digits(first)? }),
            (first, last) => {
                let (first, last) = (digits(first)?, digits(last)?);
                (first <= last).then_some(Self::FromTo { first, last })
            }
        }
    }

    /// The range within a representation of `length` bytes.
    ///
    /// # Errors
    /// [`Unsatisfiable`] when no byte of it exists.
    pub fn within(self, length: u64) -> Result<ByteRange, Unsatisfiable> {
        let end = length.checked_sub(1).ok_or(Unsatisfiable)?;
        let (first, last) = match self {
            Self::FromTo { first, last } => (first, last.min(end)),
            Self::From { first } => (first, end),
            Self::Suffix { count: 0 } => return Err(Unsatisfiable),
            Self::Suffix { count } => (length.saturating_sub(count), end),
        };
        if first <= last { Ok(ByteRange { first, last }) } else { Err(Unsatisfiable) }
    }
}

/// A number of ASCII digits; one too large for `u64` is as good as the largest.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

impl ByteRange {
    /// How many bytes; at least 1.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// As a half-open range.
    #[must_use]
    pub const fn half_open(self) -> Range<u64> {
        self.first..self.last + 1
    }

    /// The value of `Content-Range` for a representation of `length` bytes.
    #[must_use]
    pub fn content_range(self, length: u64) -> String {
        format!("bytes {}-{}/{length}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_the_rfc_parse() {
        assert_eq!(RangeRequest::parse("bytes=0-499"), Some(RangeRequest::FromTo { first: 0, last: 499 }));
        assert_eq!(RangeRequest::parse("Bytes= 5-"), Some(RangeRequest::From { first: 5 }));
        assert_eq!(RangeRequest::parse("bytes=-500"), Some(RangeRequest::Suffix { count: 500 }));
        let too_large = RangeRequest::parse("bytes=0-99999999999999999999");
        assert_eq!(too_large, Some(RangeRequest::FromTo { first: 0, last: u64::MAX }));
    }

    #[test]
    fn what_may_be_ignored_is_ignored() {
        for value in ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2", "bytes=1--2"]
        {
            assert_eq!(RangeRequest::parse(value), None, "{value}");
        }
    }

    #[test]
    fn ranges_outside_are_unsatisfiable() {
        assert_eq!(RangeRequest::From { first: 10 }.within(10), Err(Unsatisfiable));
        assert_eq!(RangeRequest::Suffix { count: 0 }.within(10), Err(Unsatisfiable));
        assert_eq!(RangeRequest::From { first: 0 }.within(0), Err(Unsatisfiable));
        assert_eq!(RangeRequest::Suffix { count: 99 }.within(10), Ok(ByteRange { first: 0, last: 9 }));
    }

    proptest! {
        #[test]
        fn a_satisfiable_range_lies_within(value in "bytes=[0-9]{0,4}-[0-9]{0,4}", length in 0u64..5000) {
            if let Some(Ok(range)) = RangeRequest::parse(&value).map(|r| r.within(length)) {
                prop_assert!(range.first <= range.last && range.last < length);
                prop_assert_eq!(range.half_open().end - range.half_open().start, range.length());
            }
        }

        #[test]
        fn any_text_is_taken(value in "\\PC*", length: u64) {
            let _ = RangeRequest::parse(&value).map(|r| r.within(length));
        }
    }
}

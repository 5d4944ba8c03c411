//! `Content-Range` (RFC 9110 §14.4).

/// What part of the whole an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// First and last byte, both inclusive, in order. `None` for `*`, which comes with 416.
    pub(super) first_and_last: Option<(u64, u64)>,
    /// The whole; `None` for `*`.
    pub(super) total_bytes: Option<u64>,
}

impl ContentRange {
    /// Parses the value. `None` when it is malformed or cannot be: last before first, or not below the total.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let total_bytes = if total == "*" { None } else { Some(total.parse().ok()?) };
        let first_and_last = if range == "*" {
            None
        } else {
            let (first, last) = range.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let is_possible =
            first_and_last.is_none_or(|(first, last): (u64, u64)| first <= last && total_bytes.is_none_or(|total| last < total));
        (unit.eq_ignore_ascii_case("bytes") && is_possible).then_some(Self { first_and_last, total_bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_the_rfc_parse() {
        assert_eq!(ContentRange::parse("bytes 0-9/10"), Some(ContentRange { first_and_last: Some((0, 9)), total_bytes: Some(10) }));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), Some(ContentRange { first_and_last: Some((5, 9)), total_bytes: None }));
        assert_eq!(ContentRange::parse("bytes */10"), Some(ContentRange { first_and_last: None, total_bytes: Some(10) }));
    }

    #[test]
    fn impossible_ranges_are_refused() {
        for value in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "lines 0-1/2",
            "bytes 0-/5",
            "bytes -5/5",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(ContentRange::parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(value in "\\PC*|bytes [0-9*-]{0,30}/[0-9*]{0,25}") {
            if let Some((first, last)) = ContentRange::parse(&value).and_then(|range| range.first_and_last) {
                prop_assert!(first <= last);
            }
        }
    }
}

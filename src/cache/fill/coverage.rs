//! Which bytes of a blob are present.

use std::ops::Range;

/// A set of byte intervals: sorted, disjoint, none empty, none touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    intervals: Vec<Range<u64>>,
}

impl Coverage {
    /// Adds an interval, merging it with what it overlaps or touches.
    pub fn add(&mut self, added: Range<u64>) {
        if added.is_empty() {
            return;
        }
        let first = self.intervals.partition_point(|interval| interval.end < added.start);
        let last = self.intervals.partition_point(|interval| interval.start <= added.end);
        let touched = self.intervals.get(first..last).unwrap_or_default();
        let start = touched.first().map_or(added.start, |interval| interval.start.min(added.start));
        let end = touched.last().map_or(added.end, |interval| interval.end.max(added.end));
        self.intervals.splice(first..last, std::iter::once(start..end));
    }

    /// How far the bytes from `offset` on are present without a gap; `offset` itself if it is not.
    #[must_use]
    pub fn covered_to(&self, offset: u64) -> u64 {
        let next = self.intervals.partition_point(|interval| interval.end <= offset);
        match self.intervals.get(next) {
            Some(interval) if interval.start <= offset => interval.end,
            _ => offset,
        }
    }

    /// The first gap within `range`, if there is one.
    #[must_use]
    pub fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.covered_to(range.start);
        (start < range.end).then(|| start..self.next_start(start).min(range.end))
    }

    /// All gaps within `range`, in order.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut rest = range;
        std::iter::from_fn(move || {
            let gap = self.first_gap(rest.clone())?;
            rest.start = gap.end;
            Some(gap)
        })
    }

    /// Where the next interval after `offset` starts; `u64::MAX` if there is none.
    #[must_use]
    pub fn next_start(&self, offset: u64) -> u64 {
        let next = self.intervals.partition_point(|interval| interval.start <= offset);
        self.intervals.get(next).map_or(u64::MAX, |interval| interval.start)
    }

    /// The end of the last interval: no byte at or after it is present.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.intervals.last().map_or(0, |interval| interval.end)
    }

    /// Whether every byte of a blob of `total_bytes` is present.
    #[must_use]
    pub fn is_complete(&self, total_bytes: u64) -> bool {
        self.covered_to(0) >= total_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn touching_intervals_become_one() {
        let mut coverage = Coverage::default();
        for range in [10..20, 30..40, 20..30, 0..5] {
            coverage.add(range);
        }
        assert_eq!(coverage.intervals, [0..5, 10..40]);
        assert_eq!(coverage.covered_to(0), 5);
        assert_eq!(coverage.covered_to(5), 5);
        assert_eq!(coverage.first_gap(0..100), Some(5..10));
        assert_eq!(coverage.gaps(0..50).collect::<Vec<_>>(), [5..10, 40..50]);
    }

    proptest! {
        #[test]
        fn coverage_agrees_with_a_bitmap(ranges in prop::collection::vec((0u64..64, 0u64..16), 0..24)) {
            let (mut coverage, mut bitmap) = (Coverage::default(), [false; 96]);
            for (start, length) in ranges {
                coverage.add(start..start + length);
                bitmap[start as usize..(start + length) as usize].fill(true);
            }
            for offset in 0..90usize {
                let covered = bitmap[offset..].iter().take_while(|present| **present).count();
                prop_assert_eq!(coverage.covered_to(offset as u64), (offset + covered) as u64);
            }
            let gaps: u64 = coverage.gaps(0..96).map(|gap| gap.end - gap.start).sum();
            prop_assert_eq!(gaps as usize, bitmap.iter().filter(|present| !**present).count());
            for pair in coverage.intervals.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
        }
    }
}

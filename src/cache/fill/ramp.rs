//! How many connections share one blob. Pure: it is told what came and when, and decides.
//!
//! It begins with one connection and adds them one at a time. Each has to show that it helps: the
//! rate of all together must rise by a part of what one connection brings. The first that does not
//! is taken back, and nothing is tried again: a line that one connection fills stays with one. So does
//! one that brings more than is written.

use std::time::Duration;

use tokio::time::Instant;

/// After a connection has begun, before the rate counts: the time in which TCP finds its speed.
const SETTLE: Duration = Duration::from_millis(200);
/// For so long the rate is measured.
const MEASURE: Duration = Duration::from_millis(300);
/// A blob that is here within this time gains nothing by another connection.
const WORTH_IT: Duration = Duration::from_secs(1);
/// The part of one connection's fair share by which another one must raise the rate: 1/3.
const LEAST_GAIN: u128 = 3;

/// What came over one of the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) bytes: u64,
    /// It had to wait to be written, since much else had come.
    pub(super) was_kept_waiting: bool,
    /// Connections that bring bytes.
    pub(super) delivering: usize,
    /// Of the blob.
    pub(super) missing_bytes: u64,
}

/// Decides how many connections share one blob.
#[derive(Clone, Debug)]
pub(super) struct Ramp {
    max: usize,
    allowed: usize,
    /// Bytes a second with one connection less.
    before: Option<u64>,
    /// When so many connections as are allowed were first seen to bring bytes.
    began: Option<Instant>,
    /// Bytes since the rate counts.
    bytes: u64,
    /// Of these, how many were kept waiting.
    waited_bytes: u64,
    /// Nothing changes any more.
    is_settled: bool,
}

impl Ramp {
    /// One connection, and at most `max`.
    #[must_use]
    pub(super) const fn new(max: usize) -> Self {
        Self { max, allowed: 1, before: None, began: None, bytes: 0, waited_bytes: 0, is_settled: max <= 1 }
    }

    /// So many connections share the blob.
    #[must_use]
    pub(super) const fn allowed(&self) -> usize {
        self.allowed
    }

    /// Bytes came.
    pub(super) fn received(&mut self, received: Received, now: Instant) {
        if self.is_settled || (self.began.is_none() && received.delivering < self.allowed) {
            return;
        }
        let counts_from = *self.began.get_or_insert(now) + SETTLE;
        if now < counts_from {
            return;
        }
        self.bytes += received.bytes;
        self.waited_bytes += if received.was_kept_waiting { received.bytes } else { 0 };
        let measured = now - counts_from;
        if measured >= MEASURE {
            let rate = u128::from(self.bytes) * 1000 / measured.as_millis().max(1);
            self.step(u64::try_from(rate).unwrap_or(u64::MAX), received.missing_bytes);
        }
    }

    /// A connection failed: what upstream does not want, or the line does not carry, is not tried again.
    pub(super) fn failed(&mut self) {
        self.allowed = self.allowed.saturating_sub(1).max(1);
        self.is_settled = true;
    }

    /// The rate with as many connections as are allowed is known.
    fn step(&mut self, rate: u64, missing_bytes: u64) {
        let others = self.allowed as u128 - 1;
        let helped =
            self.before.is_none_or(|before| u128::from(rate) * LEAST_GAIN * others >= u128::from(before) * (LEAST_GAIN * others + 1));
        let is_soon_done = u128::from(missing_bytes) < u128::from(rate) * u128::from(WORTH_IT.as_secs());
        if !helped {
            self.allowed -= 1;
        }
        let is_behind = self.waited_bytes > self.bytes / 2;
        if !helped || is_soon_done || is_behind || self.allowed >= self.max {
            self.is_settled = true;
            return;
        }
        self.allowed += 1;
        (self.before, self.began) = (Some(rate), None);
        (self.bytes, self.waited_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TICK: Duration = Duration::from_millis(10);

    const fn piece(bytes: u64, delivering: usize, missing_bytes: u64) -> Received {
        Received { bytes, was_kept_waiting: false, delivering, missing_bytes }
    }

    /// Lets bytes come for so long, at the rate that so many connections have together.
    fn run(ramp: &mut Ramp, now: &mut Instant, lasting: Duration, missing: u64, rate: impl Fn(usize) -> u64) {
        let end = *now + lasting;
        while *now < end {
            *now += TICK;
            let delivering = ramp.allowed();
            ramp.received(piece(rate(delivering) / 100, delivering, missing), *now);
        }
    }

    fn settled(max: usize, missing: u64, rate: impl Fn(usize) -> u64) -> usize {
        let mut ramp = Ramp::new(max);
        run(&mut ramp, &mut Instant::now(), Duration::from_secs(10), missing, rate);
        assert!(ramp.is_settled);
        ramp.allowed()
    }

    #[test]
    fn connections_are_added_one_by_one_while_each_brings_its_own() {
        let (mut ramp, mut now) = (Ramp::new(4), Instant::now());
        let seen: Vec<_> = (0..5)
            .map(|_| {
                let allowed = ramp.allowed();
                run(&mut ramp, &mut now, SETTLE + MEASURE + TICK, 500 * MIB, |count| 20 * MIB * count as u64);
                allowed
            })
            .collect();
        assert_eq!(seen, [1, 2, 3, 4, 4]);
    }

    #[test]
    fn a_line_that_one_connection_fills_stays_with_one() {
        assert_eq!(settled(4, 500 * MIB, |_| 100 * MIB), 1);
    }

    #[test]
    fn the_first_connection_that_does_not_help_is_the_last() {
        assert_eq!(settled(8, 500 * MIB, |count| 20 * MIB * (count as u64).min(3)), 3);
        // A little is not enough.
        assert_eq!(settled(8, 500 * MIB, |count| 100 * MIB + 5 * MIB * count as u64), 1);
    }

    #[test]
    fn what_is_here_in_a_second_is_left_to_one() {
        assert_eq!(settled(4, 40 * MIB, |count| 50 * MIB * count as u64), 1);
        assert_eq!(settled(4, 80 * MIB, |count| 50 * MIB * count as u64), 2);
    }

    #[test]
    fn what_comes_faster_than_it_is_written_is_left_to_one() {
        for (kept_waiting, expected) in [(6, 1), (4, 2)] {
            let (mut ramp, mut now) = (Ramp::new(2), Instant::now());
            for tick in 0..100 {
                now += TICK;
                let received = Received { was_kept_waiting: tick % 10 < kept_waiting, ..piece(MIB, 1, 500 * MIB) };
                ramp.received(received, now);
            }
            assert_eq!(ramp.allowed(), expected, "{kept_waiting} of 10");
        }
    }

    #[test]
    fn the_rate_counts_once_all_bring_bytes() {
        let (mut ramp, mut now) = (Ramp::new(2), Instant::now());
        run(&mut ramp, &mut now, SETTLE + MEASURE + TICK, 500 * MIB, |_| 20 * MIB);
        assert_eq!(ramp.allowed(), 2);
        for _ in 0..1000 {
            now += TICK;
            ramp.received(piece(MIB, 1, 500 * MIB), now);
        }
        assert!(!ramp.is_settled, "the second one has not answered yet");
    }

    #[test]
    fn a_failure_takes_one_back_for_good() {
        let mut ramp = Ramp::new(4);
        run(&mut ramp, &mut Instant::now(), Duration::from_secs(10), 500 * MIB, |count| 20 * MIB * count as u64);
        ramp.failed();
        assert_eq!(ramp.allowed(), 3);
        run(&mut ramp, &mut Instant::now(), Duration::from_secs(10), 500 * MIB, |count| 20 * MIB * count as u64);
        assert_eq!(ramp.allowed(), 3);
        (0..9).for_each(|_| ramp.failed());
        assert_eq!(ramp.allowed(), 1);
    }

    #[test]
    fn one_connection_never_grows() {
        let mut ramp = Ramp::new(1);
        run(&mut ramp, &mut Instant::now(), Duration::from_secs(10), 500 * MIB, |count| 20 * MIB * count as u64);
        assert_eq!(ramp.allowed(), 1);
    }
}

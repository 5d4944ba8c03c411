//! How long sending may take: what is known of the way to the bucket, without I/O.
//!
//! Of a part that is on its way nothing is seen but its end, so it has a time, and what time is enough only the line
//! knows: several parts share it. One that ran out of its time gives the next ones twice as much, down to a pace at which
//! the line is as good as dead. So on any line above that a blob gets through after a few tries, and where
//! the line is well a part that hangs is noticed within its usual time.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Slower than this sending counts as hanging, until it was seen to be the line.
const USUAL_BYTES_PER_SECOND: u64 = 128 * 1024;
/// Slower than this it always does: a part of 8 MiB may take an hour.
const LEAST_BYTES_PER_SECOND: u64 = 2 * 1024 + 512;
/// Longest that one object or part may take, whatever its length.
pub(super) const LONGEST: Duration = Duration::from_secs(60 * 60);
/// So much faster than it has to be, and what comes next has to be faster again.
const WELL_AHEAD: u32 = 4;

/// The slowest pace that is waited for; shared by all that is sent.
#[derive(Debug)]
pub(super) struct SendingPace {
    least: Mutex<u64>,
}

/// The time that one object or part has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendingTime {
    pub(super) within: Duration,
    /// The pace it comes of: of those that run out of their time together, one counts.
    least: u64,
}

impl SendingPace {
    pub(super) const fn new() -> Self {
        Self { least: Mutex::new(USUAL_BYTES_PER_SECOND) }
    }

    /// The time for `length_bytes`.
    pub(super) fn time_for(&self, length_bytes: usize) -> SendingTime {
        let least = *self.least.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = length_bytes as u64 / least.max(1);
        SendingTime { within: Duration::from_secs(seconds).min(LONGEST), least }
    }

    /// It was not enough.
    pub(super) fn ran_out(&self, time: SendingTime) {
        self.change(time, (time.least / 2).max(LEAST_BYTES_PER_SECOND));
    }

    /// It was sent, and took so long.
    pub(super) fn sent(&self, time: SendingTime, took: Duration) {
        if took.saturating_mul(WELL_AHEAD) <= time.within {
            self.change(time, (time.least * 2).min(USUAL_BYTES_PER_SECOND));
        }
    }

    fn change(&self, of: SendingTime, least: u64) {
        let mut now = self.least.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == of.least {
            *now = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = 8 << 20;
    const USUAL: Duration = Duration::from_secs(64);

    #[test]
    fn a_time_that_is_not_enough_doubles_once_for_all_that_ran_together_and_has_an_end() {
        let pace = SendingPace::new();
        let together = [pace.time_for(PART); 6];
        assert_eq!(together[0].within, USUAL);
        together.into_iter().for_each(|time| pace.ran_out(time));
        assert_eq!(pace.time_for(PART).within, 2 * USUAL);
        for _ in 0..20 {
            pace.ran_out(pace.time_for(PART));
        }
        assert!((LONGEST - 10 * USUAL..=LONGEST).contains(&pace.time_for(PART).within));
        assert_eq!(pace.time_for(1 << 30).within, LONGEST);
    }

    #[test]
    fn a_line_that_is_well_again_has_its_usual_time_again_and_one_that_just_manages_has_not() {
        let pace = SendingPace::new();
        (0..3).for_each(|_| pace.ran_out(pace.time_for(PART)));
        pace.sent(pace.time_for(PART), 3 * USUAL);
        assert_eq!(pace.time_for(PART).within, 8 * USUAL);
        (0..5).for_each(|_| pace.sent(pace.time_for(PART), Duration::from_secs(1)));
        assert_eq!(pace.time_for(PART).within, USUAL);
    }
}

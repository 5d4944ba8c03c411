//! Wall time, where it is data: freshness windows, records, `Retry-After`.
//!
//! Time that is only waited for (timeouts, back-off) is tokio's and does not come through here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// A source of wall time; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How far a test has moved the clock ahead, in milliseconds; below zero, back.
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead_ms.unsigned_abs());
        if ahead_ms < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    /// Moves this clock, and all its clones, ahead: a window of 24 hours passes in a test at once.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(milliseconds(by), Ordering::Relaxed);
    }

    /// Moves this clock, and all its clones, back: as an operator, or a time service, may.
    pub fn set_back(&self, by: Duration) {
        self.ahead_ms.fetch_sub(milliseconds(by), Ordering::Relaxed);
    }
}

/// Seconds since 1970; 0 for times before.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> u64 {
    since_1970(time).as_secs()
}

/// Milliseconds since 1970; 0 for times before.
#[must_use]
pub fn unix_milliseconds(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

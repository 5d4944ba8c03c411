//! Wall time, where it is data: freshness windows, records, `Retry-After`.
//!
//! Time that is only waited for (timeouts, back-off) is tokio's and does not come through here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A source of wall time; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How far a test has moved the clock ahead, in milliseconds.
    ahead_ms: Arc<AtomicU64>,
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
        SystemTime::now() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Moves this clock, and all its clones, ahead: a window of 24 hours passes in a test at once.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

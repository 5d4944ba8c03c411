//! So much a second, and no more.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Time that was not used is made up for by no more than this: a burst is what the rate is against.
const MAX_CREDIT: Duration = Duration::from_millis(250);

/// Slows down a reader, or whoever asks.
#[derive(Debug)]
pub(super) struct Pace {
    /// Zero is as fast as it goes.
    per_second: u64,
    due: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        Self { per_second, due: Instant::now() }
    }

    /// Waits until so many more bytes, or what is counted, may have been taken.
    pub(super) async fn spend(&mut self, count: u64) {
        if let Some(due) = self.due_after(count, Instant::now()) {
            sleep_until(due).await;
        }
    }

    /// When they may have been; `None` where there is no rate.
    fn due_after(&mut self, count: u64, now: Instant) -> Option<Instant> {
        if self.per_second == 0 {
            return None;
        }
        let earliest = now.checked_sub(MAX_CREDIT).unwrap_or(self.due);
        let takes = Duration::from_secs_f64(count as f64 / self.per_second as f64);
        self.due = self.due.max(earliest) + takes;
        Some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept_and_a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        let began = pace.due;
        let due = (0..10).filter_map(|_| pace.due_after(500, began)).last();
        assert_eq!(due, Some(began + Duration::from_secs(5)));
        let resumed = began + Duration::from_secs(65);
        let due = (0..4).filter_map(|_| pace.due_after(500, resumed)).last();
        assert_eq!(due, Some(resumed + Duration::from_secs(2) - MAX_CREDIT));
    }

    #[tokio::test]
    async fn no_rate_is_no_wait() {
        assert_eq!(Pace::new(0).due_after(u64::MAX, Instant::now()), None);
    }
}

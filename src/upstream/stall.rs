//! When a body that still drips counts as broken.

use std::time::Duration;

use tokio::time::Instant;

/// Watches that a body yields a least number of bytes in each window of time. Only time spent
/// waiting for upstream counts: a slow reader is not its fault.
pub(super) struct StallWatch {
    window: Duration,
    min_bytes: u64,
    /// Of the current window.
    remaining: Duration,
    bytes: u64,
    /// Set while somebody waits; kept when the waiting is cancelled, and gone on with.
    deadline: Option<Instant>,
}

impl StallWatch {
    pub(super) fn new(window: Duration, min_bytes: u64) -> Self {
        Self { window, min_bytes, remaining: window, bytes: 0, deadline: None }
    }

    /// Waiting begins, or goes on: until when?
    pub(super) fn deadline(&mut self, now: Instant) -> Instant {
        *self.deadline.get_or_insert_with(|| now + self.remaining)
    }

    /// Bytes came, and waiting ends.
    pub(super) fn progressed(&mut self, bytes: usize, now: Instant) {
        if let Some(deadline) = self.deadline.take() {
            self.remaining = deadline.saturating_duration_since(now);
        }
        self.bytes += bytes as u64;
        if self.bytes >= self.min_bytes {
            (self.bytes, self.remaining) = (0, self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn enough_bytes_begin_a_new_window() {
        let (mut watch, start) = (StallWatch::new(WINDOW, 100), Instant::now());
        watch.deadline(start);
        let later = start + Duration::from_secs(9);
        watch.progressed(100, later);
        assert_eq!(watch.deadline(later), later + WINDOW);
    }

    #[test]
    fn a_drip_does_not_move_the_deadline() {
        let (mut watch, start) = (StallWatch::new(WINDOW, 100), Instant::now());
        watch.deadline(start);
        for seconds in 1..10 {
            let now = start + Duration::from_secs(seconds);
            watch.progressed(1, now);
            assert_eq!(watch.deadline(now), start + WINDOW);
        }
    }

    #[test]
    fn the_readers_own_time_does_not_count() {
        let (mut watch, start) = (StallWatch::new(WINDOW, 100), Instant::now());
        watch.deadline(start);
        watch.progressed(1, start + Duration::from_secs(4));
        let back = start + Duration::from_secs(1000);
        assert_eq!(watch.deadline(back), back + Duration::from_secs(6));
    }

    #[test]
    fn a_cancelled_wait_goes_on_where_it_was() {
        let (mut watch, start) = (StallWatch::new(WINDOW, 100), Instant::now());
        watch.deadline(start);
        assert_eq!(watch.deadline(start + Duration::from_secs(7)), start + WINDOW);
    }
}

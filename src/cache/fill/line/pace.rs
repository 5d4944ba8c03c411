//! Bytes a second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Counted;

/// Time that was not used and may be made up for: timers are not exact.
const MAKE_UP: Duration = Duration::from_millis(20);

/// Lets bytes through at a rate: each quantum takes the time that it would have on such a line.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    /// Quanta that clients wait for.
    waiting: AtomicUsize,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()), waiting: AtomicUsize::new(0) }
    }

    /// First come, first served.
    pub(super) async fn take(&self, bytes: u64) {
        let _waiting = Counted::new(&self.waiting);
        let mut free_at = self.free_at.lock().await;
        sleep_until(*free_at).await;
        self.occupy(&mut free_at, bytes);
    }

    /// Takes what nobody waits for; else says when to look again.
    pub(super) fn take_spare(&self, bytes: u64) -> Result<(), Instant> {
        let now = Instant::now();
        let later = now + self.time_of(bytes);
        if self.waiting.load(Ordering::Acquire) > 0 {
            return Err(later);
        }
        let mut free_at = self.free_at.try_lock().map_err(|_| later)?;
        if *free_at > now {
            return Err(*free_at);
        }
        self.occupy(&mut free_at, bytes);
        Ok(())
    }

    fn occupy(&self, free_at: &mut Instant, bytes: u64) {
        let now = Instant::now();
        *free_at = (*free_at).max(now.checked_sub(MAKE_UP).unwrap_or(now)) + self.time_of(bytes);
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64)
    }
}

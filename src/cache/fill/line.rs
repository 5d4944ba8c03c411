//! The line to an upstream, as far as a rule's blobs may use it: places for connections, and bytes
//! a second.
//!
//! Both are shared fairly. A fill waits in line for its first connection, and takes a further one
//! only where nobody waits. Each fill has one quantum of bytes at a time, however many connections it
//! has. A fill that no client follows waits until there is something to spare.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::Fill;

/// Bytes that a fill may take at a time.
const QUANTUM_BYTES: u64 = 64 * 1024;
/// Time that was not used and may be made up for: timers are not exact.
const MAKE_UP: Duration = Duration::from_millis(20);

/// What a rule says of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimits {
    /// Connections of one blob.
    pub connections: usize,
    /// Connections of all blobs; `None` is no limit.
    pub max_connections: Option<usize>,
    /// `None` is no limit.
    pub max_bytes_per_second: Option<u64>,
}

/// The line, shared by all fills of a rule.
pub struct Line {
    connections: usize,
    places: Option<Arc<Semaphore>>,
    /// A place has become free.
    freed: Notify,
    pace: Option<Pace>,
}

/// A place for one connection; free again when dropped.
pub(super) struct Place {
    line: Arc<Line>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The line as one fill, or one bypass, uses it.
pub(super) struct LineShare {
    line: Arc<Line>,
    /// `None` is a bypass: its client always waits.
    fill: Option<Arc<Fill>>,
    /// Held by the connection that takes the next quantum.
    turn: Mutex<()>,
}

impl Line {
    /// A line with these limits.
    #[must_use]
    pub fn new(limits: LineLimits) -> Self {
        Self {
            connections: limits.connections,
            places: limits.max_connections.map(|places| Arc::new(Semaphore::new(places))),
            freed: Notify::new(),
            pace: limits.max_bytes_per_second.map(Pace::new),
        }
    }
}

impl Default for Line {
    /// One connection for each blob, and no limits.
    fn default() -> Self {
        Self::new(LineLimits { connections: 1, max_connections: None, max_bytes_per_second: None })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.permit.take().is_some() {
            self.line.freed.notify_waiters();
        }
    }
}

impl LineShare {
    pub(super) fn of_fill(line: Arc<Line>, fill: Arc<Fill>) -> Self {
        Self { line, fill: Some(fill), turn: Mutex::default() }
    }

    pub(super) fn of_bypass(line: Arc<Line>) -> Self {
        Self { line, fill: None, turn: Mutex::default() }
    }

    /// Connections that one blob may come over.
    pub(super) fn connections(&self) -> usize {
        self.line.connections
    }

    /// A place, if there is one that nobody waits for.
    pub(super) fn try_place(&self) -> Option<Place> {
        let permit = match &self.line.places {
            // It hands what becomes free to those who wait, first come, first served.
            Some(places) => Some(Arc::clone(places).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Place { line: Arc::clone(&self.line), permit })
    }

    /// A place, in line; one that nobody waits for while nobody waits for the blob.
    pub(super) async fn place(&self) -> Place {
        while let Some(fill) = self.unfollowed() {
            let (mut followed, mut freed) = (std::pin::pin!(fill.followed.notified()), std::pin::pin!(self.line.freed.notified()));
            // From here on none is missed.
            followed.as_mut().enable();
            freed.as_mut().enable();
            if let Some(place) = self.try_place() {
                return place;
            }
            if self.unfollowed().is_some() {
                tokio::select! {
                    () = followed => {}
                    () = freed => {}
                }
            }
        }
        let permit = match &self.line.places {
            // It is never closed.
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
            None => None,
        };
        Place { line: Arc::clone(&self.line), permit }
    }

    /// Waits until so many bytes may have come.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(pace) = &self.line.pace else { return };
        let mut left = bytes as u64;
        while left > 0 {
            let quantum = left.min(QUANTUM_BYTES);
            let _turn = self.turn.lock().await;
            if !self.take_spare(pace, quantum).await {
                pace.take(quantum).await;
            }
            left -= quantum;
        }
    }

    /// Waits for bytes that nobody else waits for. False if a client has come to wait for these.
    async fn take_spare(&self, pace: &Pace, bytes: u64) -> bool {
        while let Some(fill) = self.unfollowed() {
            let mut followed = std::pin::pin!(fill.followed.notified());
            followed.as_mut().enable();
            let Err(until) = pace.take_spare(bytes) else { return true };
            tokio::select! {
                () = followed => {}
                () = sleep_until(until) => {}
            }
        }
        false
    }

    /// The fill, while nobody waits for it.
    fn unfollowed(&self) -> Option<&Fill> {
        self.fill.as_deref().filter(|fill| fill.is_unfollowed())
    }
}

/// Lets bytes through at a rate: each quantum takes the time that it would have on such a line.
struct Pace {
    bytes_per_second: u64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    /// Quanta that clients wait for.
    waiting: AtomicUsize,
}

/// Counted while it lives, however that ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()), waiting: AtomicUsize::new(0) }
    }

    /// First come, first served.
    async fn take(&self, bytes: u64) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let mut free_at = self.free_at.lock().await;
        sleep_until(*free_at).await;
        self.occupy(&mut free_at, bytes);
    }

    /// Takes what nobody waits for; else says when to look again.
    fn take_spare(&self, bytes: u64) -> Result<(), Instant> {
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

#[cfg(test)]
mod tests;

//! The line to an upstream, as far as a rule's blobs may use it: places for connections, and bytes
//! a second.
//!
//! Both are shared fairly. A fill waits in line for its first place, which it keeps until it has every byte, and takes a
//! further one only where nobody waits. Each fill has one quantum of bytes at a time, however many connections it has. A
//! fill that no client follows waits until there is something to spare, and gives its places up when a client waits.

mod pace;
mod places;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::sleep_until;

use self::pace::Pace;
pub(super) use self::places::Place;
use self::places::Places;
use super::{Fill, FillError};
use crate::telemetry::metrics::RuleMetrics;

/// Bytes that a fill may take at a time.
const QUANTUM_BYTES: u64 = 64 * 1024;

/// What a rule says of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimits {
    /// Connections of one blob.
    pub connections: usize,
    /// Connections of all blobs; `None` is no limit.
    pub max_connections: Option<usize>,
    /// How long a blob of which no byte is here waits for the first of them, while a client waits for it.
    pub connection_wait: Duration,
    /// `None` is no limit.
    pub max_bytes_per_second: Option<u64>,
}

/// The line, shared by all fills of a rule.
pub struct Line {
    connections: usize,
    places: Option<Places>,
    connection_wait: Duration,
    pace: Option<Pace>,
}

/// Counted while it lives, however that ends.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
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
    /// A line with these limits. `metrics` show how many blobs wait for a connection.
    #[must_use]
    pub fn new(limits: LineLimits, metrics: &RuleMetrics) -> Self {
        Self {
            connections: limits.connections,
            places: limits.max_connections.map(|count| Places::new(count, metrics.clone())),
            connection_wait: limits.connection_wait,
            pace: limits.max_bytes_per_second.map(Pace::new),
        }
    }

    /// Waits until there is a place that nobody waits for.
    pub(in crate::cache) async fn spare(self: &Arc<Self>) {
        if let Some(places) = &self.places {
            places.changed_until(&Notify::new(), || self.try_place().map(drop)).await;
        }
    }
}

impl Default for Line {
    /// One connection for each blob, and no limits.
    fn default() -> Self {
        Self { connections: 1, places: None, connection_wait: Duration::ZERO, pace: None }
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

    /// A place, if there is one that nobody waits for; that of a client which has yet to take it is none.
    pub(super) fn try_place(&self) -> Option<Place> {
        let is_wanted = || self.line.places.as_ref().is_some_and(Places::are_wanted);
        if self.unfollowed().is_some() && is_wanted() {
            return None;
        }
        self.line.try_place()
    }

    /// A place, in line; one that nobody waits for while nobody waits for the blob.
    ///
    /// A blob of which bytes are here keeps its turn for as long as it takes: they would be thrown away with it.
    ///
    /// # Errors
    /// [`FillError::NoConnection`] when a client has waited too long for the first byte.
    pub(super) async fn place(&self) -> Result<Place, FillError> {
        loop {
            if let Some(place) = self.spare_place().await {
                return Ok(place);
            }
            let wait = if self.has_begun() { Duration::MAX } else { self.line.connection_wait };
            let place = tokio::select! {
                biased;
                () = self.left() => continue,
                place = self.line.place(wait) => place,
            };
            if let Some(place) = place {
                return Ok(place);
            }
            if !self.has_begun() {
                return Err(FillError::NoConnection { waited: self.line.connection_wait });
            }
        }
    }

    /// Waits for a place that nobody else waits for. `None` if a client waits, or has come to wait, for the blob.
    async fn spare_place(&self) -> Option<Place> {
        let (fill, places) = (self.fill.as_deref()?, self.line.places.as_ref()?);
        let there = || if self.unfollowed().is_some() { self.try_place().map(Some) } else { Some(None) };
        places.changed_until(&fill.followed, there).await
    }

    /// Waits until nobody waits for the blob.
    async fn left(&self) {
        let (Some(fill), Some(places)) = (&self.fill, &self.line.places) else { return std::future::pending().await };
        places.changed_until(&fill.unfollowed, || self.unfollowed().is_some().then_some(())).await;
    }

    /// Waits until the places of this blob are to be given up: nobody waits for it, and clients wait for others.
    pub(super) async fn given_way(&self) {
        let (Some(fill), Some(places)) = (&self.fill, &self.line.places) else { return std::future::pending().await };
        let there = || (self.unfollowed().is_some() && places.are_wanted()).then_some(());
        places.changed_until(&fill.unfollowed, there).await;
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

    /// Whether bytes of the blob are here.
    fn has_begun(&self) -> bool {
        self.fill.as_ref().is_some_and(|fill| fill.has_begun())
    }

    /// The fill, while nobody waits for it.
    fn unfollowed(&self) -> Option<&Fill> {
        self.fill.as_deref().filter(|fill| fill.is_unfollowed())
    }
}

#[cfg(test)]
mod tests;

//! Places for the connections that a rule's blobs may have at one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Line;
use crate::telemetry::metrics::RuleMetrics;

/// The places of a line.
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// A place has become free, or a client has come to wait for one.
    changed: Notify,
    /// Blobs that clients wait for, and that wait for a place.
    waiting: AtomicUsize,
    metrics: RuleMetrics,
}

/// A place for one connection; free again when dropped.
pub(in crate::cache::fill) struct Place {
    line: Arc<Line>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.permit.take().is_some()
            && let Some(places) = &self.line.places
        {
            places.changed.notify_waiters();
        }
    }
}

/// One that waits, as it is counted.
struct Waiting<'a> {
    places: &'a Places,
}

impl<'a> Waiting<'a> {
    fn new(places: &'a Places) -> Self {
        places.waiting.fetch_add(1, Ordering::AcqRel);
        places.metrics.waits_for_connection();
        places.changed.notify_waiters();
        Self { places }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.waiting.fetch_sub(1, Ordering::AcqRel);
        self.places.metrics.waited_for_connection();
        // One that was handed a place and does not take it has given it back, and nobody was told.
        self.places.changed.notify_waiters();
    }
}

impl Places {
    pub(super) fn new(count: usize, metrics: RuleMetrics) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), changed: Notify::new(), waiting: AtomicUsize::new(0), metrics }
    }

    /// Whether clients wait for a place.
    pub(super) fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits until `there` gives something, which it is asked for whenever a place becomes free, a client comes to
    /// wait for one, or `also` happens.
    pub(super) async fn changed_until<T>(&self, also: &Notify, there: impl Fn() -> Option<T>) -> T {
        loop {
            let (mut changed, mut other) = (std::pin::pin!(self.changed.notified()), std::pin::pin!(also.notified()));
            // From here on none is missed.
            changed.as_mut().enable();
            other.as_mut().enable();
            if let Some(found) = there() {
                return found;
            }
            tokio::select! {
                () = changed => {}
                () = other => {}
            }
        }
    }
}

impl Line {
    /// A place, if there is one that nobody waits for.
    pub(super) fn try_place(self: &Arc<Self>) -> Option<Place> {
        let permit = match &self.places {
            // It hands what becomes free to those who wait, first come, first served.
            Some(places) => Some(Arc::clone(&places.free).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Place { line: Arc::clone(self), permit })
    }

    /// A place, in line; `None` if it takes longer than `wait`.
    pub(super) async fn place(self: &Arc<Self>, wait: Duration) -> Option<Place> {
        let place = self.try_place();
        let (None, Some(places)) = (&place, &self.places) else { return place };
        let _waiting = Waiting::new(places);
        // It is never closed.
        let permit = tokio::time::timeout(wait, Arc::clone(&places.free).acquire_owned()).await.ok()?.ok()?;
        Some(Place { line: Arc::clone(self), permit: Some(permit) })
    }
}

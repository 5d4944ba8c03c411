//! One run at a time of each kind, and how it is told of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::report::{Event, Finding, Unneeded};

/// Events that wait for a reader. Progress is dropped beyond it; findings wait.
const MAX_QUEUED: usize = 64;
/// Progress is told no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// A reader that takes nothing for so long is gone.
const READER_WAIT: Duration = Duration::from_secs(60);

/// Another run of the same kind goes on, and was begun by somebody, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a {kind} is already running in this store")]
pub struct Busy {
    /// Which kind.
    pub kind: &'static str,
}

/// The place of one kind of run.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    place: Arc<AsyncMutex<()>>,
    /// Ends the run of the background, if it is that which has the place.
    background: Arc<Mutex<Option<CancellationToken>>>,
}

/// The place, taken.
pub(super) struct Place {
    _place: OwnedMutexGuard<()>,
    background: Option<Arc<Mutex<Option<CancellationToken>>>>,
}

impl Slot {
    /// Takes the place for a command. A run of the background makes room: it would be in the way for
    /// days, and begins anew later.
    pub(super) async fn take(&self, kind: &'static str) -> Result<Place, Busy> {
        // Taken out, so that a second command does not wait behind the first.
        let background = self.background.lock().unwrap_or_else(PoisonError::into_inner).take();
        let place = match background {
            Some(running) => {
                running.cancel();
                Arc::clone(&self.place).lock_owned().await
            }
            None => Arc::clone(&self.place).try_lock_owned().map_err(|_| Busy { kind })?,
        };
        Ok(Place { _place: place, background: None })
    }

    /// Takes the place for the background, and tells what ends its run. `None` if it is taken.
    pub(super) fn take_for_background(&self) -> Option<(Place, CancellationToken)> {
        let place = Arc::clone(&self.place).try_lock_owned().ok()?;
        let ended = CancellationToken::new();
        *self.background.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.clone());
        Some((Place { _place: place, background: Some(Arc::clone(&self.background)) }, ended))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(background) = &self.background {
            background.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// A run, seen by whoever began it. Dropping it ends the run.
#[derive(Debug)]
pub struct Run<R> {
    events: mpsc::Receiver<Event<R>>,
    _ends: DropGuard,
}

impl<R> Run<R> {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event<R>> {
        self.events.recv().await
    }
}

/// Where a run tells.
#[derive(Debug)]
pub(super) struct Teller<R> {
    events: Option<mpsc::Sender<Event<R>>>,
    told_at: Option<Instant>,
}

/// A run and where it tells. The token is cancelled when the run is dropped.
pub(super) fn run<R>() -> (Run<R>, Teller<R>, CancellationToken) {
    let (events, receiver) = mpsc::channel(MAX_QUEUED);
    let ended = CancellationToken::new();
    let run = Run { events: receiver, _ends: ended.clone().drop_guard() };
    (run, Teller { events: Some(events), told_at: None }, ended)
}

impl<R: Clone> Teller<R> {
    /// One that nobody listens to.
    pub(super) const fn silent() -> Self {
        Self { events: None, told_at: None }
    }

    /// Tells how far it is, now and then.
    pub(super) fn progress(&mut self, report: &R) {
        let Some(events) = &self.events else { return };
        let now = Instant::now();
        if self.told_at.is_none_or(|told_at| now >= told_at + PROGRESS_EVERY) {
            self.told_at = Some(now);
            // A reader that is behind learns it from the next one.
            let _ = events.try_send(Event::Progress { report: report.clone() });
        }
    }

    /// Tells something that was found.
    pub(super) async fn found(&mut self, finding: Finding) {
        self.send(Event::Found { finding }).await;
    }

    /// Tells a blob that nothing refers to.
    pub(super) async fn unneeded(&mut self, blob: Unneeded) {
        self.send(Event::Unneeded { blob }).await;
    }

    /// Tells the end.
    pub(super) async fn end(mut self, outcome: Result<R, String>) {
        let event = match outcome {
            Ok(report) => Event::Done { report },
            Err(error) => Event::Failed { error },
        };
        self.send(event).await;
    }

    async fn send(&mut self, event: Event<R>) {
        if let Some(events) = &self.events
            && events.send_timeout(event, READER_WAIT).await.is_err()
        {
            self.events = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_takes_the_place_of_the_background_and_not_of_a_command() {
        let slot = Slot::default();
        let (place, ended) = slot.take_for_background().expect("the place is free");
        assert!(slot.take_for_background().is_none());
        tokio::spawn(async move {
            ended.cancelled().await;
            drop(place);
        });
        let command = slot.take("scrub").await.expect("the background makes room");
        assert_eq!(slot.take("scrub").await.err(), Some(Busy { kind: "scrub" }));
        drop(command);
        assert!(slot.take("scrub").await.is_ok());
        assert!(slot.take_for_background().is_some());
    }
}

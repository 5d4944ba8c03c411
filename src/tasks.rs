//! Named, owned tasks and the order in which they end.
//!
//! Every task that outlives a request is spawned here, so that shutdown can wait for it and no
//! task is without an owner.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

/// A wait between two turns of a background task, and up to a tenth more or less: replicas that started
/// together do not work together.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    let share = Uuid::new_v4().as_u128() % 2001;
    wait.mul_f64(0.9 + 0.0001 * (share as f64))
}

/// The owner of background tasks; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancelled: CancellationToken,
}

impl Tasks {
    /// Spawns a task that is cancelled at shutdown, at its next await. `name` appears in its log lines.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let cancelled = self.cancelled.clone();
        let run = async move {
            tokio::select! {
                () = cancelled.cancelled() => tracing::debug!(task = name, "task cancelled by shutdown"),
                () = task => {}
            }
        };
        self.tracker.spawn(run.instrument(tracing::debug_span!("task", name)));
    }

    /// Spawns a short task that shutdown lets end: it writes what has been promised.
    pub fn spawn_to_end(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task.instrument(tracing::debug_span!("task", name)));
    }

    /// Cancelled when shutdown begins: for tasks that have something to do then.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Cancels all tasks and waits for them, at most `deadline`. True if all ended.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.cancelled.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_differ_by_a_tenth_at_most() {
        let waits: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(1000))).collect();
        let bounds = Duration::from_secs(900)..=Duration::from_millis(1_100_001);
        assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}

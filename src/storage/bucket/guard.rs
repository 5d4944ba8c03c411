//! Stands between everybody and the bucket: no call waits for ever, none waits for a bucket that is
//! known to be gone, and each is counted.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::{Error, Result};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::circuit::{Change, Circuit, Ticket};
use super::failure::{self, Unavailable};
use crate::telemetry::metrics::{BucketMetrics, BucketOperation, BucketResult};

/// How long a bucket that did not answer is left alone at first, and at most.
const COOLDOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The guard of one bucket; cheap to clone.
#[derive(Clone)]
pub(super) struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes those who wait for a bucket that turned out to hang.
    hung: Notify,
    /// How often a bucket that did not answer did again, for those who have something for it.
    recoveries: watch::Sender<u64>,
    /// After which a call is taken for one that hangs.
    slow_after: Duration,
    metrics: BucketMetrics,
}

struct State {
    circuit: Circuit,
    /// What it was last time.
    cause: Arc<str>,
}

/// How a call is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// What it is.
    pub(super) operation: BucketOperation,
    /// The time it has in all.
    pub(super) within: Duration,
    /// Whether it is short, so that waiting says something of the bucket, and can be given up when
    /// others found that the bucket hangs. Only such a call looks whether a bucket is back.
    pub(super) is_short: bool,
}

/// Tells when a bucket that did not answer does again. One that comes while nobody waits is told to the
/// next who does.
#[derive(Debug)]
pub struct Recoveries {
    count: watch::Receiver<u64>,
}

impl Recoveries {
    /// Waits for the next one; for ever, where nobody has the bucket any more.
    pub async fn next(&mut self) {
        if self.count.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Forgets those that have come: what is tried from now on knows of them.
    pub fn forget_past(&mut self) {
        self.count.mark_unchanged();
    }
}

impl Guard {
    pub(super) fn new(slow_after: Duration, metrics: BucketMetrics) -> Self {
        let state = State { circuit: Circuit::new(COOLDOWN.0, COOLDOWN.1), cause: Arc::from("") };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                hung: Notify::new(),
                recoveries: watch::Sender::new(0),
                slow_after,
                metrics,
            }),
        }
    }

    /// Makes a call, unless the bucket is known not to answer.
    pub(super) async fn run<T>(&self, call: Call, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let began = Instant::now();
        // First, or what is found between the admission and the waiting would be missed.
        let hung = self.shared.hung.notified();
        let mut admitted = match self.admit(began, call.is_short) {
            Ok(admitted) => admitted,
            Err(held_off) => {
                self.shared.metrics.requested(call.operation, BucketResult::HeldOff, None);
                return Err(held_off.into_error());
            }
        };
        let outcome = admitted.wait(call, began, hung, future).await;
        let result = outcome.as_ref().map_or_else(failure::result, |_| BucketResult::Answered);
        self.shared.metrics.requested(call.operation, result, Some(began.elapsed()));
        admitted.end(&outcome, result);
        outcome
    }

    /// Tells from now on when a bucket that did not answer does again.
    pub(super) fn recoveries(&self) -> Recoveries {
        Recoveries { count: self.shared.recoveries.subscribe() }
    }

    /// Whether calls that take any time are let through.
    pub(super) fn answers(&self) -> bool {
        !self.shared.lock().circuit.is_open()
    }

    /// Whether a bucket that did not answer may be asked again, by a short call.
    pub(super) fn wants_probe(&self) -> bool {
        self.shared.lock().circuit.wants_probe(Instant::now())
    }

    fn admit(&self, now: Instant, is_short: bool) -> Result<Admitted<'_>, Unavailable> {
        let mut state = self.shared.lock();
        match state.circuit.admit(now, is_short) {
            Ok(ticket) => Ok(Admitted { shared: &self.shared, ticket: Some(ticket) }),
            Err(retry_after) => Err(Unavailable::HeldOff { retry_after, cause: Arc::clone(&state.cause) }),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that the bucket is gone, and once that it is back.
    fn changed(&self, mut state: MutexGuard<'_, State>, change: Change, cause: &str) {
        if !cause.is_empty() {
            state.cause = Arc::from(cause);
        }
        self.metrics.circuit_state.set(i64::from(state.circuit.is_open()));
        drop(state);
        match change {
            Change::None => {}
            Change::Opened => tracing::warn!(
                error = cause,
                "the bucket does not answer; what is on disk and upstream is served without it, and it is asked again from time to time"
            ),
            Change::Closed(gone_for) => {
                self.recoveries.send_modify(|count| *count += 1);
                tracing::info!(gone_for_ms = u64::try_from(gone_for.as_millis()).unwrap_or(u64::MAX), "the bucket answers again");
            }
        }
    }
}

/// A call under way. Dropped before its end it tells the circuit nothing.
struct Admitted<'a> {
    shared: &'a Shared,
    ticket: Option<Ticket>,
}

impl Admitted<'_> {
    async fn wait<T>(
        &mut self,
        call: Call,
        began: Instant,
        hung: Notified<'_>,
        future: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        tokio::pin!(future, hung);
        let slow_after = if call.is_short { self.shared.slow_after.min(call.within) } else { call.within };
        let is_probe = tokio::select! {
            biased;
            outcome = &mut future => return outcome,
            () = &mut hung, if call.is_short => return Err(self.held_off()),
            () = sleep_until(began + slow_after) => self.slowed(call),
        };
        tokio::select! {
            biased;
            outcome = &mut future => outcome,
            () = &mut hung, if call.is_short && !is_probe => Err(self.held_off()),
            () = sleep_until(began + call.within) => Err(Unavailable::TimedOut { within: call.within }.into_error()),
        }
    }

    /// Whether it is the probe from now on.
    fn slowed(&mut self, call: Call) -> bool {
        let Some(ticket) = self.ticket.as_mut().filter(|_| call.is_short) else { return false };
        let mut state = self.shared.lock();
        let change = state.circuit.slowed(ticket, Instant::now());
        if change == Change::None {
            return ticket.is_probe();
        }
        let cause = Unavailable::TimedOut { within: self.shared.slow_after }.to_string();
        self.shared.changed(state, change, &cause);
        self.shared.hung.notify_waiters();
        true
    }

    fn held_off(&self) -> Error {
        Unavailable::HeldOff { retry_after: COOLDOWN.0, cause: Arc::clone(&self.shared.lock().cause) }.into_error()
    }

    fn end<T>(mut self, outcome: &Result<T>, result: BucketResult) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = Instant::now();
        let mut state = self.shared.lock();
        match (result, outcome.as_ref().err()) {
            (BucketResult::Failed, Some(error)) => {
                let change = match Unavailable::of(error) {
                    Some(Unavailable::HeldOff { .. }) => return state.circuit.released(ticket),
                    Some(Unavailable::TimedOut { .. }) => state.circuit.timed_out(ticket, now),
                    None => state.circuit.failed(ticket, now),
                };
                self.shared.changed(state, change, &error.to_string());
            }
            (BucketResult::Answered | BucketResult::Denied | BucketResult::Failed | BucketResult::HeldOff, _) => {
                let change = state.circuit.answered(ticket, now);
                self.shared.changed(state, change, "");
            }
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.lock().circuit.released(ticket);
        }
    }
}

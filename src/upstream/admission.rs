//! The circuit as requests meet it: shared, shown in the metrics, and told of every outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::circuit::{CircuitState, Failure, Machine, Purpose, Refusal, Ticket};
use super::{Unavailability, UpstreamError, UpstreamLimits};
use crate::clock::Clock;
use crate::telemetry::metrics::RuleMetrics;

/// The circuit of one endpoint.
pub(super) struct Circuit {
    /// Host and port of the upstream, for messages.
    name: String,
    machine: Mutex<Machine>,
    /// The rules in whose metrics the state is shown.
    shown_in: Mutex<Vec<Weak<RuleMetrics>>>,
    clock: Clock,
}

impl Circuit {
    pub(super) fn new(name: String, limits: &UpstreamLimits, clock: Clock) -> Self {
        Self { name, machine: Mutex::new(Machine::new(limits)), shown_in: Mutex::default(), clock }
    }

    pub(super) fn show_in(&self, metrics: &Arc<RuleMetrics>) {
        metrics.circuit(self.state().gauge());
        let mut shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
        shown_in.retain(|metrics| metrics.strong_count() > 0);
        shown_in.push(Arc::downgrade(metrics));
    }

    pub(super) fn state(&self) -> CircuitState {
        self.machine().state()
    }

    /// Lets a request through, to be settled by what it got.
    ///
    /// # Errors
    /// When it is held off: as [`UpstreamError::TooManyRequests`] if that was the cause.
    pub(super) fn admit(self: &Arc<Self>, purpose: Purpose) -> Result<Admission, UpstreamError> {
        let now = self.clock.now();
        let admitted = self.changing(|machine| machine.admit(purpose, now));
        match admitted {
            Ok(ticket) => Ok(Admission { circuit: Arc::clone(self), ticket: Some(ticket) }),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// What a request would be refused with now.
    pub(super) fn refusal(&self, purpose: Purpose) -> Option<UpstreamError> {
        let refusal = self.machine().refusal(purpose, self.clock.now())?;
        Some(self.refused(refusal))
    }

    fn refused(&self, refusal: Refusal) -> UpstreamError {
        let retry_after = Some(refusal.retry_after);
        if refusal.too_many_requests {
            return UpstreamError::TooManyRequests { retry_after, detail: format!("{} said so lately and is left alone", self.name) };
        }
        let detail = format!("{} failed lately and is left alone", self.name);
        UpstreamError::Unavailable { kind: Unavailability::CircuitOpen, retry_after, detail }
    }

    pub(super) fn slowed(&self) {
        self.changing(Machine::slowed);
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the machine, and tells of a change of its state.
    fn changing<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let (before, outcome, after) = {
            let mut machine = self.machine();
            let before = machine.state();
            let outcome = change(&mut machine);
            (before, outcome, machine.state())
        };
        if before != after {
            self.tell(before, after);
        }
        outcome
    }

    fn tell(&self, before: CircuitState, after: CircuitState) {
        match after {
            CircuitState::Open => tracing::warn!(upstream = %self.name, "upstream {} fails and is left alone for a while", self.name),
            CircuitState::Suspect => tracing::debug!(upstream = %self.name, "upstream {} failed or is slow", self.name),
            CircuitState::Well if before == CircuitState::Open => {
                tracing::info!(upstream = %self.name, "upstream {} answers again", self.name);
            }
            CircuitState::Well => tracing::debug!(upstream = %self.name, "upstream {} answers", self.name),
        }
        let shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
        for metrics in shown_in.iter().filter_map(Weak::upgrade) {
            metrics.circuit(after.gauge());
        }
    }
}

/// A request that was let through. Settled once, by the first outcome it is told; dropped without
/// one (its caller left), it frees its place and says nothing of the upstream.
pub(super) struct Admission {
    circuit: Arc<Circuit>,
    ticket: Option<Ticket>,
}

impl Admission {
    /// The upstream itself answered; what comes after (a body, another host) is not its health.
    pub(super) fn answered(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|machine| machine.answered(ticket));
        }
    }

    /// Tells the circuit how it went. 401, 403, 404 and lies are answers; a want of credentials says
    /// nothing of the upstream.
    pub(super) fn settle<T>(mut self, outcome: &Result<T, UpstreamError>) {
        if matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::Credentials, .. })) {
            return;
        }
        let failure = match outcome {
            Ok(_) | Err(UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. }) => None,
            Err(UpstreamError::TooManyRequests { retry_after, .. }) => Some(Failure::TooManyRequests(*retry_after)),
            Err(UpstreamError::Unavailable { kind: Unavailability::Connect, .. }) => Some(Failure::Connect),
            Err(UpstreamError::Unavailable { .. }) => Some(Failure::Other),
        };
        match (failure, self.ticket) {
            (None, _) => self.answered(),
            (Some(failure), Some(ticket)) => {
                self.ticket = None;
                let now = self.circuit.clock.now();
                self.circuit.changing(|machine| machine.failed(ticket, failure, now));
            }
            (Some(_), None) => {}
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|machine| machine.released(ticket));
        }
    }
}

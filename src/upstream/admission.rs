//! The circuit as requests meet it: shared, shown in the metrics, and told of every outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::allowance::SharedAllowance;
use super::blob_health::BlobHealth;
use super::circuit::{CircuitState, Failure, Machine};
use super::quota::Quota;
use super::standing::{Intent, Refusal, Standing, Ticket};
use super::{Unavailability, UpstreamError, UpstreamLimits};
use crate::clock::Clock;
use crate::telemetry::metrics::RuleMetrics;

/// The circuit of one endpoint.
pub(super) struct Circuit {
    /// Host and port of the upstream, for messages.
    name: String,
    health: Mutex<Machine>,
    /// Whether blobs come, wherever it redirects to.
    blob_health: Mutex<BlobHealth>,
    /// Shared with the other endpoints of the source.
    allowance: Arc<SharedAllowance>,
    quota_probe: Duration,
    /// The rules in whose metrics the state is shown.
    shown_in: Mutex<Vec<Weak<RuleMetrics>>>,
    clock: Clock,
}

impl Circuit {
    pub(super) fn new(name: String, limits: &UpstreamLimits, allowance: Arc<SharedAllowance>, clock: Clock) -> Arc<Self> {
        let (health, blob_health) = (Mutex::new(Machine::new(limits)), Mutex::new(BlobHealth::new(limits)));
        let quota_probe = limits.quota_probe;
        let circuit = Arc::new(Self { name, health, blob_health, allowance, quota_probe, shown_in: Mutex::default(), clock });
        circuit.allowance.share_with(&circuit);
        circuit
    }

    pub(super) fn show_in(&self, metrics: &Arc<RuleMetrics>) {
        {
            let mut shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
            shown_in.retain(|metrics| metrics.strong_count() > 0);
            shown_in.push(Arc::downgrade(metrics));
        }
        self.show_standing();
        if let Some(quota) = self.quota() {
            metrics.quota(quota.limit, quota.remaining);
        }
    }

    pub(super) fn of_manifests(&self) -> CircuitState {
        self.look(|standing| standing.of_manifests())
    }

    /// What upstream told of its pull limit, while that counts.
    pub(super) fn quota(&self) -> Option<Quota> {
        let now = self.clock.now();
        self.look(|standing| standing.quota(now).cloned())
    }

    /// Whether no more than so many pulls are left.
    pub(super) fn saves(&self, quota_floor: u64) -> bool {
        let now = self.clock.now();
        self.look(|standing| standing.saves(quota_floor, now))
    }

    /// Lets a request through, to be settled by what it got.
    ///
    /// # Errors
    /// When it is held off: as [`UpstreamError::TooManyRequests`] if that was the cause.
    pub(super) fn admit(self: &Arc<Self>, intent: Intent) -> Result<Admission, UpstreamError> {
        let now = self.clock.now();
        let admitted = self.changing(|standing| standing.admit(intent, now));
        match admitted {
            Ok(ticket) => Ok(Admission { circuit: Arc::clone(self), ticket: Some(ticket), told_remaining: None }),
            Err(refusal) => Err(self.refused(&refusal)),
        }
    }

    /// What a request would be refused with now.
    pub(super) fn refusal(&self, intent: Intent) -> Option<UpstreamError> {
        let now = self.clock.now();
        let refusal = self.look(|standing| standing.refusal(intent, now))?;
        Some(self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> UpstreamError {
        let name = &self.name;
        let (kind, retry_after, detail) = match *refusal {
            Refusal::Limited(retry_after) => {
                let detail = format!("{name} said so lately and is left alone");
                return UpstreamError::TooManyRequests { retry_after: Some(retry_after), detail };
            }
            Refusal::Failed(retry_after) => (Unavailability::CircuitOpen, retry_after, format!("{name} failed lately and is left alone")),
            Refusal::Saved(retry_after) => {
                let detail = format!("no more pulls are left at {name} than the rule's quota_floor");
                (Unavailability::QuotaFloor, retry_after, detail)
            }
        };
        UpstreamError::Unavailable { kind, retry_after: Some(retry_after), detail }
    }

    pub(super) fn slowed(&self) {
        self.changing(|standing| standing.slowed());
    }

    /// Whether others that have the same blobs are to be asked first.
    pub(super) fn blobs_come_last(&self) -> bool {
        self.blob_health().comes_last(self.clock.now())
    }

    /// A blob is asked for here before it is anywhere else.
    pub(super) fn blobs_asked_first(&self) {
        self.blob_health().asked_first(self.clock.now());
    }

    /// Begins to watch whether a blob comes.
    pub(super) fn watch_blob(self: &Arc<Self>) -> BlobWatch {
        BlobWatch { circuit: Arc::clone(self), epoch: self.blob_health().epoch() }
    }

    fn blob_health(&self) -> MutexGuard<'_, BlobHealth> {
        self.blob_health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machines, or changes them, all at one moment.
    fn look<T>(&self, look: impl FnOnce(&mut Standing<'_>) -> T) -> T {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let mut allowance = self.allowance.lock();
        look(&mut Standing { health: &mut health, allowance: &mut allowance, quota_probe: self.quota_probe })
    }

    /// Changes the standing, and tells of a change of the whole.
    fn changing<T>(&self, change: impl FnOnce(&mut Standing<'_>) -> T) -> T {
        let whole = |standing: &Standing<'_>| (standing.overall(), standing.held_until());
        let (before, outcome, after, is_limited) = self.look(|standing| {
            let before = whole(standing);
            let outcome = change(standing);
            (before, outcome, whole(standing), standing.is_limited())
        });
        if before.0 != after.0 {
            self.log(before.0, after.0, is_limited);
            self.show_standing();
        }
        if before.1 != after.1 {
            self.allowance.circuits().iter().for_each(|circuit| circuit.show_standing());
        }
        outcome
    }

    fn log(&self, before: CircuitState, after: CircuitState, is_limited: bool) {
        let name = &self.name;
        match after {
            CircuitState::Open if is_limited => {
                let quota = self.quota();
                let (remaining, counted_for) = (quota.as_ref().map(|quota| quota.remaining), quota.and_then(|quota| quota.source));
                tracing::warn!(upstream = %name, remaining, counted_for, "upstream {name} takes no more requests and is left alone for a while");
            }
            CircuitState::Open => tracing::warn!(upstream = %name, "upstream {name} fails and is left alone for a while"),
            CircuitState::Suspect => tracing::debug!(upstream = %name, "upstream {name} failed or is slow"),
            CircuitState::Well if before == CircuitState::Open => tracing::info!(upstream = %name, "upstream {name} answers again"),
            CircuitState::Well => tracing::debug!(upstream = %name, "upstream {name} answers"),
        }
    }

    /// Enters what upstream told of its pull limit.
    fn told(&self, quota: &Quota) {
        let now = self.clock.now();
        if !self.look(|standing| standing.told(quota, now)) {
            return;
        }
        let Quota { limit, remaining, source, .. } = quota;
        tracing::debug!(upstream = %self.name, limit, remaining, counted_for = source, "upstream {} has {remaining} pulls left", self.name);
        self.allowance.circuits().iter().for_each(|circuit| circuit.show(|metrics| metrics.quota(*limit, *remaining)));
    }

    /// Shows what is the case now, whoever has changed it.
    fn show_standing(&self) {
        let (state, held_until) = self.look(|standing| (standing.overall(), standing.held_until()));
        self.show(|metrics| {
            metrics.circuit(state.gauge());
            metrics.held_until(held_until);
        });
    }

    fn show(&self, show: impl Fn(&RuleMetrics)) {
        let shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
        shown_in.iter().filter_map(Weak::upgrade).for_each(|metrics| show(&metrics));
    }
}

/// A request that was let through. Settled once, by the first outcome it is told; dropped without
/// one (its caller left), it frees its place and says nothing of the upstream.
pub(super) struct Admission {
    circuit: Arc<Circuit>,
    ticket: Option<Ticket>,
    /// The pulls that were left, as the answer told.
    told_remaining: Option<u64>,
}

impl Admission {
    /// The upstream itself answered; what comes after (a body, another host) is not its health.
    pub(super) fn answered(&mut self) {
        self.end(true);
    }

    /// The answer tells of a pull limit.
    pub(super) fn told(&mut self, quota: &Quota) {
        self.told_remaining = Some(quota.remaining);
        self.circuit.told(quota);
    }

    /// `gave`: what was asked for, and no word why not.
    fn end(&mut self, gave: bool) {
        let Some(ticket) = self.ticket.take() else { return };
        let shows_room = self.told_remaining.map_or(gave && ticket.has_cost(), |remaining| remaining > 0);
        let now = self.circuit.clock.now();
        self.circuit.changing(|standing| standing.answered(ticket, shows_room, now));
    }

    /// Tells the circuit how it went. 401, 403, 404 and lies are answers; a want of credentials says
    /// nothing of the upstream.
    pub(super) fn settle<T>(mut self, outcome: &Result<T, UpstreamError>) {
        if matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::Credentials, .. })) {
            return;
        }
        let now = self.circuit.clock.now();
        let failure = match outcome {
            Ok(_) => return self.end(true),
            Err(UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. }) => return self.end(false),
            Err(UpstreamError::TooManyRequests { retry_after, .. }) => {
                if let Some(ticket) = self.ticket.take() {
                    self.circuit.changing(|standing| standing.limited(ticket, *retry_after, now));
                }
                return;
            }
            Err(UpstreamError::Unavailable { kind: Unavailability::Connect, .. }) => Failure::Connect,
            Err(UpstreamError::Unavailable { .. }) => Failure::Other,
        };
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|standing| standing.failed(ticket, failure, now));
        }
    }
}

/// A blob that was asked for: tells whether it comes, wherever it comes from.
pub(super) struct BlobWatch {
    circuit: Arc<Circuit>,
    epoch: u64,
}

impl BlobWatch {
    /// Bytes came.
    pub(super) fn brought(&self) {
        self.circuit.blob_health().brought(self.epoch);
    }

    /// It does not come. That it is not there, or is refused, is an answer.
    pub(super) fn failed(&self, error: &UpstreamError) {
        match error {
            UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } => {}
            UpstreamError::Unavailable { .. } | UpstreamError::TooManyRequests { .. } | UpstreamError::Lied { .. } => {
                self.circuit.blob_health().failed(self.epoch, self.circuit.clock.now());
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|standing| standing.released(ticket));
        }
    }
}

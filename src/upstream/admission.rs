//! The circuit as requests meet it: shared, shown in the metrics, and told of every outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use super::circuit::{self, Asking, CircuitState, Failure, Machine, Purpose};
use super::quota::{Quota, QuotaBook};
use super::throttle::{self, Limited, Throttle};
use super::{Unavailability, UpstreamError, UpstreamLimits};
use crate::clock::Clock;
use crate::telemetry::metrics::RuleMetrics;

/// The circuit of one endpoint.
pub(super) struct Circuit {
    /// Host and port of the upstream, for messages.
    name: String,
    /// How often what is left of a quota is looked up at most.
    quota_probe: Duration,
    state: Mutex<State>,
    /// The rules in whose metrics the state is shown.
    shown_in: Mutex<Vec<Weak<RuleMetrics>>>,
    clock: Clock,
}

/// What is known of an upstream under one credential.
struct State {
    /// Whether it answers.
    health: Machine,
    /// Whether it takes more requests of manifests and lists.
    manifests: Throttle,
    /// Whether it takes more requests of blobs.
    blobs: Throttle,
    quota: QuotaBook,
}

/// What a request asks for, why, and how many pulls its rule leaves to others.
#[derive(Clone, Copy)]
pub(super) struct Intent {
    pub(super) asking: Asking,
    pub(super) purpose: Purpose,
    pub(super) quota_floor: u64,
}

/// Why a request is not let through, and when to come again.
enum Refusal {
    Failed(Duration),
    Limited(Duration),
    Saved(Duration),
}

impl State {
    fn overall(&self) -> CircuitState {
        let is_limited = self.manifests.holds() || self.blobs.holds();
        if is_limited { CircuitState::Open } else { self.health.state() }
    }

    const fn lane(&mut self, asking: Asking) -> &mut Throttle {
        match asking {
            Asking::Manifest | Asking::ManifestHead | Asking::List => &mut self.manifests,
            Asking::Blob => &mut self.blobs,
        }
    }

    fn refusal(&mut self, intent: Intent, quota_probe: Duration, now: SystemTime) -> Option<Refusal> {
        if let Some(retry_after) = self.lane(intent.asking).refusal(now) {
            return Some(Refusal::Limited(retry_after));
        }
        if let Some(retry_after) = self.health.refusal(intent.purpose, now) {
            return Some(Refusal::Failed(retry_after));
        }
        let saved_for = self.quota.saved_for(intent.quota_floor, now).filter(|_| intent.purpose == Purpose::Revalidate)?;
        match intent.asking {
            Asking::ManifestHead => self.quota.known_for(quota_probe, now).map(|known| Refusal::Saved(known.min(saved_for))),
            Asking::Manifest | Asking::List => Some(Refusal::Saved(saved_for)),
            Asking::Blob => None,
        }
    }

    fn admit(&mut self, intent: Intent, quota_probe: Duration, now: SystemTime) -> Result<Ticket, Refusal> {
        if let Some(refusal) = self.refusal(intent, quota_probe, now) {
            return Err(refusal);
        }
        let health = self.health.admit(intent.purpose, now).map_err(Refusal::Failed)?;
        if self.quota.saved_for(intent.quota_floor, now).is_some() && intent.asking == Asking::ManifestHead {
            self.quota.looks(now);
        }
        Ok(Ticket { asking: intent.asking, health, throttle: self.lane(intent.asking).admit(now) })
    }

    /// A 429. It is an answer: the upstream is well.
    fn limited(&mut self, ticket: Ticket, retry_after: Option<Duration>, now: SystemTime) {
        let used_up_for = self.quota.used_up_for(now).filter(|_| ticket.asking != Asking::Blob);
        self.health.answered(ticket.health);
        self.lane(ticket.asking).limited(ticket.throttle, Limited { retry_after, used_up_for }, now);
    }
}

impl Circuit {
    pub(super) fn new(name: String, limits: &UpstreamLimits, clock: Clock) -> Self {
        let state = State {
            health: Machine::new(limits),
            manifests: Throttle::new(limits),
            blobs: Throttle::new(limits),
            quota: QuotaBook::default(),
        };
        Self { name, quota_probe: limits.quota_probe, state: Mutex::new(state), shown_in: Mutex::default(), clock }
    }

    pub(super) fn show_in(&self, metrics: &Arc<RuleMetrics>) {
        metrics.circuit(self.overall().gauge());
        if let Some(quota) = self.quota() {
            metrics.quota(quota.limit, quota.remaining);
        }
        let mut shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
        shown_in.retain(|metrics| metrics.strong_count() > 0);
        shown_in.push(Arc::downgrade(metrics));
    }

    pub(super) fn overall(&self) -> CircuitState {
        self.state().overall()
    }

    /// What upstream told of its pull limit, while that counts.
    pub(super) fn quota(&self) -> Option<Quota> {
        self.state().quota.current(self.clock.now()).cloned()
    }

    /// Lets a request through, to be settled by what it got.
    ///
    /// # Errors
    /// When it is held off: as [`UpstreamError::TooManyRequests`] if that was the cause.
    pub(super) fn admit(self: &Arc<Self>, intent: Intent) -> Result<Admission, UpstreamError> {
        let now = self.clock.now();
        let admitted = self.changing(|state| state.admit(intent, self.quota_probe, now));
        match admitted {
            Ok(ticket) => Ok(Admission { circuit: Arc::clone(self), ticket: Some(ticket), told_remaining: None }),
            Err(refusal) => Err(self.refused(&refusal)),
        }
    }

    /// What a request would be refused with now.
    pub(super) fn refusal(&self, intent: Intent) -> Option<UpstreamError> {
        let refusal = self.state().refusal(intent, self.quota_probe, self.clock.now())?;
        Some(self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> UpstreamError {
        let name = &self.name;
        let unavailable = |kind, retry_after, detail| UpstreamError::Unavailable { kind, retry_after: Some(retry_after), detail };
        match *refusal {
            Refusal::Limited(retry_after) => UpstreamError::TooManyRequests {
                retry_after: Some(retry_after),
                detail: format!("{name} said so lately and is left alone"),
            },
            Refusal::Failed(retry_after) => {
                unavailable(Unavailability::CircuitOpen, retry_after, format!("{name} failed lately and is left alone"))
            }
            Refusal::Saved(retry_after) => {
                let detail = format!("the pulls that are left at {name} are no more than the rule's quota_floor");
                unavailable(Unavailability::QuotaFloor, retry_after, detail)
            }
        }
    }

    pub(super) fn slowed(&self) {
        self.changing(|state| state.health.slowed());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells of a change of the whole.
    fn changing<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (before, outcome, after, is_limited) = {
            let mut state = self.state();
            let before = state.overall();
            let outcome = change(&mut state);
            (before, outcome, state.overall(), state.manifests.holds() || state.blobs.holds())
        };
        if before != after {
            self.tell(before, after, is_limited);
        }
        outcome
    }

    fn tell(&self, before: CircuitState, after: CircuitState, is_limited: bool) {
        let name = &self.name;
        match after {
            CircuitState::Open if is_limited => {
                let remaining = self.quota().map(|quota| quota.remaining);
                tracing::warn!(upstream = %name, remaining, "upstream {name} takes no more requests and is left alone for a while");
            }
            CircuitState::Open => tracing::warn!(upstream = %name, "upstream {name} fails and is left alone for a while"),
            CircuitState::Suspect => tracing::debug!(upstream = %name, "upstream {name} failed or is slow"),
            CircuitState::Well if before == CircuitState::Open => tracing::info!(upstream = %name, "upstream {name} answers again"),
            CircuitState::Well => tracing::debug!(upstream = %name, "upstream {name} answers"),
        }
        self.show(|metrics| metrics.circuit(after.gauge()));
    }

    /// Enters what upstream told of its pull limit.
    fn told(&self, quota: &Quota) {
        if !self.state().quota.enter(quota, self.clock.now()) {
            return;
        }
        let Quota { limit, remaining, source, .. } = quota;
        tracing::debug!(upstream = %self.name, limit, remaining, source, "upstream {} has {remaining} pulls left", self.name);
        self.show(|metrics| metrics.quota(*limit, *remaining));
    }

    fn show(&self, show: impl Fn(&RuleMetrics)) {
        let shown_in = self.shown_in.lock().unwrap_or_else(PoisonError::into_inner);
        shown_in.iter().filter_map(Weak::upgrade).for_each(|metrics| show(&metrics));
    }
}

/// The places of one request.
#[derive(Clone, Copy)]
struct Ticket {
    asking: Asking,
    health: circuit::Ticket,
    throttle: throttle::Ticket,
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
        let has_cost = matches!(ticket.asking, Asking::Manifest | Asking::Blob);
        let shows_room = self.told_remaining.map_or(gave && has_cost, |remaining| remaining > 0);
        let now = self.circuit.clock.now();
        self.circuit.changing(|state| {
            state.health.answered(ticket.health);
            state.lane(ticket.asking).answered(ticket.throttle, shows_room, now);
        });
    }

    /// Tells the circuit how it went. 401, 403, 404 and lies are answers.
    pub(super) fn settle<T>(mut self, outcome: &Result<T, UpstreamError>) {
        let now = self.circuit.clock.now();
        let failure = match outcome {
            Ok(_) => return self.end(true),
            Err(UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. }) => return self.end(false),
            Err(UpstreamError::TooManyRequests { retry_after, .. }) => {
                if let Some(ticket) = self.ticket.take() {
                    self.circuit.changing(|state| state.limited(ticket, *retry_after, now));
                }
                return;
            }
            Err(UpstreamError::Unavailable { kind: Unavailability::Connect, .. }) => Failure::Connect,
            Err(UpstreamError::Unavailable { .. }) => Failure::Other,
        };
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|state| {
                state.health.failed(ticket.health, failure, now);
                state.lane(ticket.asking).released(ticket.throttle);
            });
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.circuit.changing(|state| {
                state.health.released(ticket.health);
                state.lane(ticket.asking).released(ticket.throttle);
            });
        }
    }
}

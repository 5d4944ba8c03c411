//! What is known of an upstream under one credential: whether it answers, whether it takes more
//! requests of each lane, and what it told of its quota. No I/O.

use std::time::{Duration, SystemTime};

use super::allowance::Allowance;
use super::circuit::{self, Asking, CircuitState, Failure, Machine, Purpose};
use super::quota::Quota;
use super::throttle::{self, Limited, Throttle};

/// What a request asks for, why, and how many pulls its rule leaves to others.
#[derive(Clone, Copy)]
pub(super) struct Intent {
    pub(super) asking: Asking,
    pub(super) purpose: Purpose,
    pub(super) quota_floor: u64,
}

/// Why a request is not let through, and when to come again.
pub(super) enum Refusal {
    Failed(Duration),
    Limited(Duration),
    Saved(Duration),
}

/// A request that was let through. Every ticket is given back exactly once.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    asking: Asking,
    health: circuit::Ticket,
    throttle: throttle::Ticket,
}

impl Ticket {
    /// Whether pull limits count what was asked for; of blobs, the registry's other limits.
    pub(super) const fn has_cost(&self) -> bool {
        matches!(self.asking, Asking::Manifest | Asking::Blob)
    }
}

/// The machines that let a request through or not, each while it is locked.
pub(super) struct Standing<'a> {
    /// Whether upstream answers this endpoint.
    pub(super) health: &'a mut Machine,
    /// Whether it takes more requests of this source.
    pub(super) allowance: &'a mut Allowance,
    /// How often, at most, it is asked what is left of a quota.
    pub(super) quota_probe: Duration,
}

impl Standing<'_> {
    /// As far as all kinds of requests go.
    pub(super) fn overall(&self) -> CircuitState {
        if self.is_limited() { CircuitState::Open } else { self.health.state() }
    }

    /// As far as manifests and lists go.
    pub(super) fn of_manifests(&self) -> CircuitState {
        if self.allowance.manifests.holds() { CircuitState::Open } else { self.health.state() }
    }

    /// Whether it said lately that it takes no more requests of some kind.
    pub(super) fn is_limited(&self) -> bool {
        self.allowance.is_limited()
    }

    /// Until when manifests and blobs are held off.
    pub(super) fn held_until(&self) -> [Option<SystemTime>; 2] {
        self.allowance.held_until()
    }

    /// What was told of its pull limit, while that counts.
    pub(super) fn quota(&self, now: SystemTime) -> Option<&Quota> {
        self.allowance.quota.current(now)
    }

    /// Whether no more than so many pulls are left, as far as that counts.
    pub(super) fn saves(&self, quota_floor: u64, now: SystemTime) -> bool {
        self.allowance.quota.saved_for(quota_floor, now).is_some()
    }

    /// Enters what was told. True if it is news.
    pub(super) fn told(&mut self, quota: &Quota, now: SystemTime) -> bool {
        self.allowance.quota.enter(quota, now)
    }

    /// Why a request would not be let through now.
    pub(super) fn refusal(&self, intent: Intent, now: SystemTime) -> Option<Refusal> {
        let throttle = match intent.asking {
            Asking::Manifest | Asking::ManifestHead | Asking::List => &self.allowance.manifests,
            Asking::Blob => &self.allowance.blobs,
        };
        if let Some(retry_after) = throttle.refusal(now) {
            return Some(Refusal::Limited(retry_after));
        }
        if let Some(retry_after) = self.health.refusal(intent.purpose, now) {
            return Some(Refusal::Failed(retry_after));
        }
        let saved_for = self.allowance.quota.saved_for(intent.quota_floor, now).filter(|_| intent.purpose == Purpose::Revalidate)?;
        match intent.asking {
            Asking::ManifestHead => self.allowance.quota.known_for(self.quota_probe, now).map(|known| Refusal::Saved(known.min(saved_for))),
            Asking::Manifest | Asking::List => Some(Refusal::Saved(saved_for)),
            Asking::Blob => None,
        }
    }

    /// Lets a request through, or says why not.
    pub(super) fn admit(&mut self, intent: Intent, now: SystemTime) -> Result<Ticket, Refusal> {
        if let Some(refusal) = self.refusal(intent, now) {
            return Err(refusal);
        }
        let health = self.health.admit(intent.purpose, now).map_err(Refusal::Failed)?;
        if intent.asking == Asking::ManifestHead && self.allowance.quota.saved_for(intent.quota_floor, now).is_some() {
            self.allowance.quota.looks(now);
        }
        Ok(Ticket { asking: intent.asking, health, throttle: self.throttle(intent.asking).admit(now) })
    }

    /// It was answered with something else than a 429. `shows_room`: with what proves that it takes more.
    pub(super) fn answered(&mut self, ticket: Ticket, shows_room: bool, now: SystemTime) {
        self.health.answered(ticket.health);
        self.throttle(ticket.asking).answered(ticket.throttle, shows_room, now);
    }

    /// It was answered with a 429: so it is well.
    pub(super) fn limited(&mut self, ticket: Ticket, retry_after: Option<Duration>, now: SystemTime) {
        let used_up_for = self.allowance.quota.used_up_for(now).filter(|_| ticket.asking != Asking::Blob);
        self.health.answered(ticket.health);
        self.throttle(ticket.asking).limited(ticket.throttle, Limited { retry_after, used_up_for }, now);
    }

    /// It was not answered.
    pub(super) fn failed(&mut self, ticket: Ticket, failure: Failure, now: SystemTime) {
        self.health.failed(ticket.health, failure, now);
        self.throttle(ticket.asking).released(ticket.throttle);
    }

    /// It was given up: nothing is known.
    pub(super) fn released(&mut self, ticket: Ticket) {
        self.health.released(ticket.health);
        self.throttle(ticket.asking).released(ticket.throttle);
    }

    /// A revalidation in progress is slow.
    pub(super) fn slowed(&mut self) {
        self.health.slowed();
    }

    const fn throttle(&mut self, asking: Asking) -> &mut Throttle {
        match asking {
            Asking::Manifest | Asking::ManifestHead | Asking::List => &mut self.allowance.manifests,
            Asking::Blob => &mut self.allowance.blobs,
        }
    }
}

//! When an upstream that fails is asked again: a state machine without I/O.
//!
//! Failures in a row hold requests off for a time that doubles with each. Revalidations are held
//! off after the first one: the cache has an answer without them. Fetches are, when it is clear
//! that they would fail too. When the time is over one request is let through as a probe, and what
//! it is answered decides. Time is compared, never waited for.

use std::time::{Duration, SystemTime};

use super::UpstreamLimits;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see whether what is cached still holds: can be done without.
    Revalidate,
    /// To get what is not there.
    Fetch,
}

/// How far an upstream is relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// It answers.
    Well,
    /// It failed, or is slow: not asked for revalidations, but by one probe at a time.
    Suspect,
    /// It failed clearly: not asked for anything, but by one probe at a time.
    Open,
}

impl CircuitState {
    /// The value of the metric: 0, 1, 2.
    #[must_use]
    pub const fn gauge(self) -> i64 {
        match self {
            Self::Well => 0,
            Self::Suspect => 1,
            Self::Open => 2,
        }
    }
}

/// A failure that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection: the next request would get none either.
    Connect,
    /// Too many requests, and when to come again.
    TooManyRequests(Option<Duration>),
    /// Timeouts, 5xx and broken answers.
    Other,
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The upstream had said that there were too many requests.
    pub(super) too_many_requests: bool,
    /// When a request may be let through again.
    pub(super) retry_after: Duration,
}

/// A request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// How many failures had been counted when it began.
    epoch: u64,
    purpose: Purpose,
    is_probe: bool,
}

/// The time after a failure.
#[derive(Clone, Copy, Debug)]
struct Cooling {
    since: SystemTime,
    lasts: Duration,
    cause: Failure,
}

impl Cooling {
    /// What is left of it. Nothing, if the wall clock was set back behind its start.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        let passed = now.duration_since(self.since).ok()?;
        self.lasts.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

/// The state machine. Every ticket is given back exactly once: answered, failed or released.
#[derive(Debug)]
pub(super) struct Machine {
    first_cooldown: Duration,
    max_cooldown: Duration,
    max_retry_after: Duration,
    open_failures: u32,
    /// In a row. Of requests that ran together only one counts.
    failures: u32,
    epoch: u64,
    cooling: Option<Cooling>,
    is_probing: bool,
    /// A revalidation is taking longer than the cache waits.
    is_slow: bool,
    revalidating: u32,
}

impl Machine {
    pub(super) fn new(limits: &UpstreamLimits) -> Self {
        Self {
            first_cooldown: limits.circuit_cooldown,
            max_cooldown: limits.circuit_max_cooldown,
            max_retry_after: limits.max_retry_after,
            open_failures: limits.circuit_open_failures,
            failures: 0,
            epoch: 0,
            cooling: None,
            is_probing: false,
            is_slow: false,
            revalidating: 0,
        }
    }

    pub(super) fn state(&self) -> CircuitState {
        match self.cooling.map(|cooling| cooling.cause) {
            Some(Failure::Connect | Failure::TooManyRequests(_)) => CircuitState::Open,
            Some(Failure::Other) if self.failures >= self.open_failures => CircuitState::Open,
            Some(Failure::Other) => CircuitState::Suspect,
            None if self.is_slow => CircuitState::Suspect,
            None => CircuitState::Well,
        }
    }

    /// Lets a request through, or says when to come again.
    pub(super) fn admit(&mut self, purpose: Purpose, now: SystemTime) -> Result<Ticket, Refusal> {
        if let Some(refusal) = self.refusal(purpose, now) {
            return Err(refusal);
        }
        let is_probe = self.lets_only_probes(purpose);
        self.is_probing |= is_probe;
        if purpose == Purpose::Revalidate {
            self.revalidating += 1;
        }
        Ok(Ticket { epoch: self.epoch, purpose, is_probe })
    }

    /// Why a request would not be let through now.
    pub(super) fn refusal(&self, purpose: Purpose, now: SystemTime) -> Option<Refusal> {
        if self.lets_only_probes(purpose) { self.may_probe(now).err() } else { None }
    }

    fn lets_only_probes(&self, purpose: Purpose) -> bool {
        match (self.state(), purpose) {
            (CircuitState::Well, _) | (CircuitState::Suspect, Purpose::Fetch) => false,
            (CircuitState::Suspect, Purpose::Revalidate) | (CircuitState::Open, _) => true,
        }
    }

    fn may_probe(&self, now: SystemTime) -> Result<(), Refusal> {
        let too_many_requests = self.cooling.is_some_and(|cooling| matches!(cooling.cause, Failure::TooManyRequests(_)));
        let retry_after = match self.cooling.and_then(|cooling| cooling.left(now)) {
            Some(left) => left,
            // The slow request itself is the probe.
            None if self.is_probing || (self.is_slow && self.revalidating > 0) => self.first_cooldown,
            None => return Ok(()),
        };
        Err(Refusal { too_many_requests, retry_after })
    }

    /// It was answered. That does not lift a 429 which came after the request had begun.
    pub(super) fn answered(&mut self, ticket: Ticket) {
        self.released(ticket);
        let is_limited = self.cooling.is_some_and(|cooling| matches!(cooling.cause, Failure::TooManyRequests(_)));
        if is_limited && ticket.epoch < self.epoch {
            return;
        }
        self.failures = 0;
        self.cooling = None;
        self.is_slow = false;
    }

    /// It failed.
    pub(super) fn failed(&mut self, ticket: Ticket, cause: Failure, now: SystemTime) {
        self.released(ticket);
        let is_first_of_its_kind = ticket.epoch == self.epoch;
        let limits_more = matches!(cause, Failure::TooManyRequests(_)) && self.state() != CircuitState::Open;
        if !is_first_of_its_kind && !limits_more {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.epoch += 1;
        self.is_slow = false;
        self.cooling = Some(Cooling { since: now, lasts: self.cooldown(cause), cause });
    }

    /// It was given up: nothing is known.
    pub(super) fn released(&mut self, ticket: Ticket) {
        if ticket.is_probe {
            self.is_probing = false;
        }
        if ticket.purpose == Purpose::Revalidate {
            self.revalidating = self.revalidating.saturating_sub(1);
        }
    }

    /// A revalidation in progress is slow. Without one, it was answered just now.
    pub(super) fn slowed(&mut self) {
        self.is_slow = self.is_slow || self.revalidating > 0;
    }

    fn cooldown(&self, cause: Failure) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures.saturating_sub(1));
        let usual = self.first_cooldown.saturating_mul(doubled).min(self.max_cooldown);
        match cause {
            Failure::TooManyRequests(Some(retry_after)) => usual.max(retry_after.min(self.max_retry_after)),
            Failure::TooManyRequests(None) | Failure::Connect | Failure::Other => usual,
        }
    }
}

#[cfg(test)]
mod tests;

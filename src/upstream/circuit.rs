//! When an upstream that fails is asked again: a state machine without I/O.
//!
//! Failures in a row hold requests off for a time that doubles with each. Revalidations are held
//! off after the first one: the cache has an answer without them. Fetches are, when it is clear
//! that they would fail too. When the time is over one request is let through as a probe, and what
//! it is answered decides. Time is compared, never waited for. A 429 is an answer: `throttle` has it.

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

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// A manifest: what pull limits count.
    Manifest,
    /// What a manifest is, by HEAD. Most do not count it.
    ManifestHead,
    /// Tags or referrers.
    List,
    /// A blob, or its length.
    Blob,
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
    /// Timeouts, 5xx and broken answers.
    Other,
}

/// A request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// How many failures had been counted when it began.
    epoch: u64,
    purpose: Purpose,
    is_probe: bool,
}

/// A span of wall time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) since: SystemTime,
    pub(super) lasts: Duration,
}

impl Pause {
    /// What is left of it. Nothing, if the wall clock was set back behind its start.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        let passed = now.duration_since(self.since).ok()?;
        self.lasts.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

/// The pause after a failure.
#[derive(Clone, Copy, Debug)]
struct Cooling {
    pause: Pause,
    cause: Failure,
}

/// The state machine. Every ticket is given back exactly once: answered, failed or released.
#[derive(Debug)]
pub(super) struct Machine {
    first_cooldown: Duration,
    max_cooldown: Duration,
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
            Some(Failure::Connect) => CircuitState::Open,
            Some(Failure::Other) if self.failures >= self.open_failures => CircuitState::Open,
            Some(Failure::Other) => CircuitState::Suspect,
            None if self.is_slow => CircuitState::Suspect,
            None => CircuitState::Well,
        }
    }

    /// Lets a request through, or says when to come again.
    pub(super) fn admit(&mut self, purpose: Purpose, now: SystemTime) -> Result<Ticket, Duration> {
        if let Some(retry_after) = self.refusal(purpose, now) {
            return Err(retry_after);
        }
        let is_probe = self.lets_only_probes(purpose);
        self.is_probing |= is_probe;
        if purpose == Purpose::Revalidate {
            self.revalidating += 1;
        }
        Ok(Ticket { epoch: self.epoch, purpose, is_probe })
    }

    /// When to come again with a request that would not be let through now.
    pub(super) fn refusal(&self, purpose: Purpose, now: SystemTime) -> Option<Duration> {
        if self.lets_only_probes(purpose) { self.no_probe_for(now) } else { None }
    }

    fn lets_only_probes(&self, purpose: Purpose) -> bool {
        match (self.state(), purpose) {
            (CircuitState::Well, _) | (CircuitState::Suspect, Purpose::Fetch) => false,
            (CircuitState::Suspect, Purpose::Revalidate) | (CircuitState::Open, _) => true,
        }
    }

    fn no_probe_for(&self, now: SystemTime) -> Option<Duration> {
        // The slow request itself is the probe.
        let is_probing = self.is_probing || (self.is_slow && self.revalidating > 0);
        let left = self.cooling.and_then(|cooling| cooling.pause.left(now));
        left.or_else(|| is_probing.then_some(self.first_cooldown))
    }

    /// It was answered.
    pub(super) fn answered(&mut self, ticket: Ticket) {
        self.released(ticket);
        self.failures = 0;
        self.cooling = None;
        self.is_slow = false;
    }

    /// It failed.
    pub(super) fn failed(&mut self, ticket: Ticket, cause: Failure, now: SystemTime) {
        self.released(ticket);
        if ticket.epoch != self.epoch {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.epoch += 1;
        self.is_slow = false;
        let lasts = cooldown(self.failures, self.first_cooldown, self.max_cooldown);
        self.cooling = Some(Cooling { pause: Pause { since: now, lasts }, cause });
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
}

/// The pause after so many failures in a row.
pub(super) fn cooldown(failures: u32, first: Duration, max: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(max)
}

#[cfg(test)]
mod tests;

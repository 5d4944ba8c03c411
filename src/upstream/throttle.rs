//! When an upstream that wants fewer requests is asked again: a state machine without I/O.
//!
//! A 429 holds off the lane it was said on, manifests or blobs: pull limits count the one and not the
//! other. It holds for as long as `Retry-After` says, else for a cooldown that doubles. Where the pulls
//! of a window are used up, it holds until the window has passed, with a probe now and then: a quota
//! frees in its own time. An answer that has cost nothing (a HEAD) proves no room for what costs.

use std::time::{Duration, SystemTime};

use super::UpstreamLimits;
use super::circuit::{Pause, cooldown};

/// What a 429 said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    /// `Retry-After`.
    pub(super) retry_after: Option<Duration>,
    /// How long the window of a quota of which nothing remains still lasts at most.
    pub(super) used_up_for: Option<Duration>,
}

/// A request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// How many 429s had been counted when it began.
    epoch: u64,
    is_probe: bool,
}

/// The time after a 429.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// Until upstream is believed to take requests again.
    whole: Pause,
    /// Until it is tried.
    next_probe: Pause,
}

/// The state machine. Every ticket is given back exactly once: answered, limited or released.
#[derive(Debug)]
pub(super) struct Throttle {
    first_cooldown: Duration,
    max_cooldown: Duration,
    max_retry_after: Duration,
    quota_probe: Duration,
    /// 429s since the last proof of room. Of requests that ran together only one counts.
    in_a_row: u32,
    epoch: u64,
    hold: Option<Hold>,
    is_probing: bool,
}

impl Throttle {
    pub(super) fn new(limits: &UpstreamLimits) -> Self {
        Self {
            first_cooldown: limits.circuit_cooldown,
            max_cooldown: limits.circuit_max_cooldown,
            max_retry_after: limits.max_retry_after,
            quota_probe: limits.quota_probe,
            in_a_row: 0,
            epoch: 0,
            hold: None,
            is_probing: false,
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// When upstream is believed to take requests again. May be in the past: it has not been asked since.
    pub(super) fn held_until(&self) -> Option<SystemTime> {
        self.hold.and_then(|hold| hold.whole.since.checked_add(hold.whole.lasts))
    }

    /// When to come again with a request that would not be let through now.
    pub(super) fn refusal(&self, now: SystemTime) -> Option<Duration> {
        let hold = self.hold?;
        hold.next_probe.left(now).or_else(|| self.is_probing.then_some(self.first_cooldown))
    }

    /// Lets a request through; ask [`Self::refusal`] first.
    pub(super) fn admit(&mut self, now: SystemTime) -> Ticket {
        let is_probe = self.hold.is_some();
        self.is_probing |= is_probe;
        if let Some(hold) = &mut self.hold
            && hold.whole.left(now).is_some()
        {
            hold.next_probe = Pause { since: now, lasts: self.quota_probe };
        }
        Ticket { epoch: self.epoch, is_probe }
    }

    /// It was answered with something else. `shows_room`: with what proves that upstream takes more.
    pub(super) fn answered(&mut self, ticket: Ticket, shows_room: bool, now: SystemTime) {
        self.released(ticket);
        if ticket.epoch < self.epoch {
            return;
        }
        if shows_room {
            self.in_a_row = 0;
        }
        if shows_room || self.hold.is_some_and(|hold| hold.whole.left(now).is_none()) {
            self.hold = None;
        }
    }

    /// It was answered with a 429.
    pub(super) fn limited(&mut self, ticket: Ticket, said: Limited, now: SystemTime) {
        self.released(ticket);
        if ticket.epoch < self.epoch && self.hold.is_some() {
            return;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.epoch += 1;
        let (lasts, probe_after) = self.times(said);
        let pause = |lasts| Pause { since: now, lasts };
        self.hold = Some(Hold { whole: pause(lasts), next_probe: pause(probe_after) });
    }

    /// It was given up: nothing is known.
    pub(super) const fn released(&mut self, ticket: Ticket) {
        if ticket.is_probe {
            self.is_probing = false;
        }
    }

    /// How long a 429 holds, and when upstream is tried.
    fn times(&self, said: Limited) -> (Duration, Duration) {
        let usual = cooldown(self.in_a_row, self.first_cooldown, self.max_cooldown);
        let least = if said.used_up_for.is_some() { usual.max(self.quota_probe) } else { usual };
        match (said.retry_after, said.used_up_for) {
            (Some(retry_after), _) => {
                let lasts = least.max(retry_after.min(self.max_retry_after));
                (lasts, lasts)
            }
            (None, Some(window)) => (window.max(least), least),
            (None, None) => (least, least),
        }
    }
}

#[cfg(test)]
mod tests;

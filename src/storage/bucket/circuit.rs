//! When a bucket that gives no answer is asked again: a state machine without I/O.
//!
//! A failure holds all calls off for a time that doubles with each, so that nobody waits for a
//! bucket that is gone. When the time is over one short call is let through as a probe: one that may
//! take a minute would hold all others off for as long. A call that takes longer than it should counts
//! as a failure while it is still waited for: it is the probe then. Time is given, never waited for.

use std::time::Duration;

use tokio::time::Instant;

/// A call that was let through. Given back exactly once: answered, failed or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// How many failures had been counted when it began.
    epoch: u64,
    began: Instant,
    is_probe: bool,
}

impl Ticket {
    /// Whether it is what others wait for.
    pub(super) const fn is_probe(&self) -> bool {
        self.is_probe
    }
}

/// What a call's end changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The bucket is not asked any more.
    Opened,
    /// It answers again; it had not for so long.
    Closed(Duration),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Circuit {
    first_cooldown: Duration,
    max_cooldown: Duration,
    /// In a row. Of calls that ran together only one counts.
    failures: u32,
    epoch: u64,
    /// Since the first of the failures in a row.
    open_since: Option<Instant>,
    next_probe: Option<Instant>,
    is_probing: bool,
    last_answered: Option<Instant>,
}

impl Circuit {
    pub(super) const fn new(first_cooldown: Duration, max_cooldown: Duration) -> Self {
        Self {
            first_cooldown,
            max_cooldown,
            failures: 0,
            epoch: 0,
            open_since: None,
            next_probe: None,
            is_probing: false,
            last_answered: None,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    /// Whether a short call would be let through as a probe.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        self.is_open() && !self.is_probing && self.next_probe.is_none_or(|at| at <= now)
    }

    /// Lets a call through, or says when to come again. One that is not short is never the probe.
    pub(super) fn admit(&mut self, now: Instant, is_short: bool) -> Result<Ticket, Duration> {
        if !self.is_open() {
            return Ok(Ticket { epoch: self.epoch, began: now, is_probe: false });
        }
        match self.next_probe.map(|at| at.saturating_duration_since(now)).filter(|left| !left.is_zero()) {
            Some(left) => Err(left),
            None if self.is_probing || !is_short => Err(self.first_cooldown),
            None => {
                self.is_probing = true;
                Ok(Ticket { epoch: self.epoch, began: now, is_probe: true })
            }
        }
    }

    /// It was answered, with whatever.
    pub(super) fn answered(&mut self, ticket: Ticket, now: Instant) -> Change {
        self.released(ticket);
        self.last_answered = Some(now);
        let Some(since) = self.open_since.take() else { return Change::None };
        self.failures = 0;
        self.next_probe = None;
        Change::Closed(now.saturating_duration_since(since))
    }

    /// It failed.
    pub(super) fn failed(&mut self, ticket: Ticket, now: Instant) -> Change {
        self.released(ticket);
        if ticket.epoch < self.epoch && !ticket.is_probe {
            return Change::None;
        }
        self.open(now)
    }

    /// It was not answered in time. That others were says that the bucket is there.
    pub(super) fn timed_out(&mut self, ticket: Ticket, now: Instant) -> Change {
        if self.last_answered.is_some_and(|at| at > ticket.began) {
            self.released(ticket);
            return Change::None;
        }
        self.failed(ticket, now)
    }

    fn open(&mut self, now: Instant) -> Change {
        self.failures = self.failures.saturating_add(1);
        self.epoch += 1;
        self.next_probe = Some(now + self.cooldown());
        let was_open = self.is_open();
        self.open_since.get_or_insert(now);
        if was_open { Change::None } else { Change::Opened }
    }

    /// It takes long. Unless others were answered or failed meanwhile it is the probe from now on.
    pub(super) fn slowed(&mut self, ticket: &mut Ticket, now: Instant) -> Change {
        if self.is_open() || ticket.epoch < self.epoch || self.last_answered.is_some_and(|at| at > ticket.began) {
            return Change::None;
        }
        let change = self.open(now);
        *ticket = Ticket { epoch: self.epoch, is_probe: true, ..*ticket };
        self.is_probing = true;
        change
    }

    /// It was given up: nothing is known.
    pub(super) fn released(&mut self, ticket: Ticket) {
        if ticket.is_probe {
            self.is_probing = false;
        }
    }

    fn cooldown(&self) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures.saturating_sub(1));
        self.first_cooldown.saturating_mul(doubled).min(self.max_cooldown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn circuit() -> (Circuit, Instant) {
        (Circuit::new(SECOND, 30 * SECOND), Instant::now())
    }

    fn fail(circuit: &mut Circuit, now: Instant) -> Change {
        let ticket = circuit.admit(now, true).unwrap();
        circuit.failed(ticket, now)
    }

    #[test]
    fn a_failure_holds_calls_off_until_one_probe_is_answered() {
        let (mut circuit, start) = circuit();
        assert_eq!(fail(&mut circuit, start), Change::Opened);
        assert_eq!(circuit.admit(start + SECOND / 2, true), Err(SECOND / 2));
        let probe = circuit.admit(start + SECOND, true).unwrap();
        assert!(circuit.admit(start + SECOND, true).is_err(), "one probe at a time");
        assert_eq!(circuit.answered(probe, start + 2 * SECOND), Change::Closed(2 * SECOND));
        let ticket = circuit.admit(start + 2 * SECOND, true).unwrap();
        assert_eq!(circuit.answered(ticket, start + 2 * SECOND), Change::None);
    }

    #[test]
    fn the_time_doubles_up_to_its_limit() {
        let (mut circuit, mut now) = circuit();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            fail(&mut circuit, now);
            assert_eq!(circuit.admit(now, true), Err(seconds * SECOND));
            now += seconds * SECOND;
        }
    }

    #[test]
    fn calls_that_fail_together_count_once() {
        let (mut circuit, start) = circuit();
        let tickets: Vec<_> = (0..10).map(|_| circuit.admit(start, true).unwrap()).collect();
        let changes: Vec<_> = tickets.into_iter().map(|ticket| circuit.failed(ticket, start)).collect();
        assert_eq!(changes.iter().filter(|change| **change == Change::Opened).count(), 1);
        assert_eq!(circuit.admit(start, true), Err(SECOND));
    }

    #[test]
    fn a_slow_call_holds_others_off_and_its_answer_lets_them_through() {
        let (mut circuit, start) = circuit();
        let mut slow = circuit.admit(start, true).unwrap();
        assert_eq!(circuit.slowed(&mut slow, start + 3 * SECOND), Change::Opened);
        assert!(circuit.admit(start + 10 * SECOND, true).is_err(), "the slow call is the probe");
        assert_eq!(circuit.answered(slow, start + 11 * SECOND), Change::Closed(8 * SECOND));
        assert!(circuit.admit(start + 11 * SECOND, true).is_ok());
    }

    #[test]
    fn a_slow_call_that_fails_leaves_it_open_for_longer() {
        let (mut circuit, start) = circuit();
        let mut slow = circuit.admit(start, true).unwrap();
        circuit.slowed(&mut slow, start);
        assert_eq!(circuit.failed(slow, start), Change::None);
        assert_eq!(circuit.admit(start, true), Err(2 * SECOND));
    }

    #[test]
    fn a_call_that_takes_long_while_others_are_answered_holds_nobody_off() {
        let (mut circuit, start) = circuit();
        let mut slow = circuit.admit(start, true).unwrap();
        let quick = circuit.admit(start, true).unwrap();
        circuit.answered(quick, start + SECOND);
        assert_eq!(circuit.slowed(&mut slow, start + 3 * SECOND), Change::None);
        assert_eq!(circuit.timed_out(slow, start + 10 * SECOND), Change::None);
        assert!(circuit.admit(start + 10 * SECOND, true).is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_another() {
        let (mut circuit, start) = circuit();
        fail(&mut circuit, start);
        let probe = circuit.admit(start + SECOND, true).unwrap();
        circuit.released(probe);
        assert!(circuit.admit(start + SECOND, true).is_ok());
    }

    #[test]
    fn a_call_that_may_take_long_is_no_probe() {
        let (mut circuit, start) = circuit();
        fail(&mut circuit, start);
        assert!(!circuit.wants_probe(start));
        assert!(circuit.wants_probe(start + SECOND));
        assert_eq!(circuit.admit(start + SECOND, false), Err(SECOND));
        let probe = circuit.admit(start + SECOND, true).unwrap();
        assert!(!circuit.wants_probe(start + SECOND));
        circuit.answered(probe, start + SECOND);
        assert!(circuit.admit(start + SECOND, false).is_ok());
    }
}

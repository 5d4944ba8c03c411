//! Whether an upstream's blobs come. Its own answers do not say: most redirect to a content network, and
//! bodies break off after their heads. No I/O.
//!
//! It holds no request off: who asks nobody else, asks as always. It says who is asked first where
//! several have the same blob.

use std::time::{Duration, SystemTime};

use super::UpstreamLimits;
use super::circuit::{Pause, cooldown};

/// How the last requests for blobs went.
#[derive(Debug)]
pub(super) struct BlobHealth {
    first_pause: Duration,
    max_pause: Duration,
    /// As long as a probe may take to fail.
    probe: Duration,
    /// In a row. Of requests that ran together only one counts.
    failures: u32,
    epoch: u64,
    pause: Option<Pause>,
}

impl BlobHealth {
    pub(super) const fn new(limits: &UpstreamLimits) -> Self {
        Self {
            first_pause: limits.circuit_cooldown,
            max_pause: limits.circuit_max_cooldown,
            probe: limits.manifest_timeout,
            failures: 0,
            epoch: 0,
            pause: None,
        }
    }

    /// What a request that begins now belongs to.
    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether others are to be asked first.
    pub(super) fn comes_last(&self, now: SystemTime) -> bool {
        self.pause.is_some_and(|pause| pause.left(now).is_some())
    }

    /// It is asked first. After a failure that is the probe, and others are asked first until its end is known.
    pub(super) fn asked_first(&mut self, now: SystemTime) {
        if let Some(pause) = &mut self.pause {
            *pause = Pause { since: now, lasts: pause.lasts.max(self.probe) };
        }
    }

    /// Bytes came. `epoch`: of when they were asked for.
    pub(super) const fn brought(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.failures = 0;
            self.pause = None;
        }
    }

    /// None came, or they broke off.
    pub(super) fn failed(&mut self, epoch: u64, now: SystemTime) {
        if epoch != self.epoch {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.epoch += 1;
        self.pause = Some(Pause { since: now, lasts: cooldown(self.failures, self.first_pause, self.max_pause) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> (BlobHealth, SystemTime) {
        (BlobHealth::new(&UpstreamLimits::default()), SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
    }

    #[test]
    fn after_a_failure_it_comes_last_until_one_probe_may_go_first() {
        let (mut health, now) = health();
        assert!(!health.comes_last(now));
        health.failed(health.epoch(), now);
        assert!(health.comes_last(now));
        let later = now + SECOND;
        assert!(!health.comes_last(later));
        health.asked_first(later);
        assert!(health.comes_last(later) && health.comes_last(later + 29 * SECOND), "one is enough");
        health.brought(health.epoch());
        assert!(!health.comes_last(later));
        health.asked_first(later);
        assert!(!health.comes_last(later), "it is well");
    }

    #[test]
    fn pauses_double_with_each_failure_in_a_row_up_to_the_longest() {
        let (mut health, now) = health();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.failed(health.epoch(), now);
            let end = now + seconds * SECOND;
            assert!(health.comes_last(end - Duration::from_millis(1)) && !health.comes_last(end), "{seconds} s");
        }
    }

    #[test]
    fn failures_of_requests_that_ran_together_count_once() {
        let (mut health, now) = health();
        let epoch = health.epoch();
        (0..9).for_each(|_| health.failed(epoch, now));
        assert!(!health.comes_last(now + SECOND));
        health.brought(epoch);
        assert!(health.comes_last(now), "what was asked for before says nothing of now");
    }
}

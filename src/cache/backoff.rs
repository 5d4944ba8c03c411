//! When a broken transfer is taken up again, and when it is given up.

use std::time::Duration;

use crate::upstream::{Unavailability, UpstreamError};

/// Pause after the first failure; it doubles with each that follows without progress.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A transfer that breaks this often is given up even if it gets a little further each time.
const MAX_RESUMES: u32 = 200;

/// A transfer that has waited for so long without a byte is given up.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Counts the failures of one transfer.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Failures in a row that end it.
    attempts: u32,
    /// Whether a client waits for the very first answer: then only what may be a hiccup is tried again.
    opening: bool,
    in_a_row: u32,
    in_all: u32,
    /// Pauses since the last byte.
    waited: Duration,
}

impl Backoff {
    /// Gives up after `attempts` failures without progress between them.
    #[must_use]
    pub const fn new(attempts: u32) -> Self {
        Self { attempts, opening: false, in_a_row: 0, in_all: 0, waited: Duration::ZERO }
    }

    /// For a blob of which nothing has come: one more attempt, and only after what may be a hiccup.
    #[must_use]
    pub const fn opening() -> Self {
        Self { attempts: 2, opening: true, in_a_row: 0, in_all: 0, waited: Duration::ZERO }
    }

    /// Bytes have come.
    pub const fn progressed(&mut self) {
        self.in_a_row = 0;
        self.waited = Duration::ZERO;
    }

    /// How long to pause after `error`.
    ///
    /// # Errors
    /// The error itself, when it is final or was one too many.
    pub fn pause(&mut self, error: UpstreamError) -> Result<Duration, UpstreamError> {
        // Where upstream was not even asked, nothing was attempted.
        self.in_a_row += u32::from(!is_left_alone(&error));
        self.in_all += 1;
        let may_help = if self.opening { is_hiccup(&error) } else { is_transient(&error) };
        if !may_help || self.in_a_row >= self.attempts || self.in_all >= MAX_RESUMES || self.waited >= MAX_WAIT {
            return Err(error);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.in_a_row.saturating_sub(1).min(10)).min(MAX_PAUSE);
        let pause = retry_after(&error).map_or(pause, |asked| asked.clamp(pause, MAX_PAUSE));
        self.waited += pause;
        Ok(pause)
    }

    /// Pauses after `error`.
    ///
    /// # Errors
    /// As [`Backoff::pause`].
    pub async fn wait(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        let pause = self.pause(error)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Whether the circuit kept the request back.
const fn is_left_alone(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Unavailable { kind: Unavailability::CircuitOpen, .. })
}

/// Whether asking again at once may help.
const fn is_hiccup(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Unavailable { kind: Unavailability::Broken | Unavailability::Status(_), retry_after: None, .. })
}

/// Whether asking again later may help.
const fn is_transient(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Unavailable { .. } | UpstreamError::TooManyRequests { .. } => true,
        UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. } => false,
    }
}

const fn retry_after(error: &UpstreamError) -> Option<Duration> {
    match error {
        UpstreamError::Unavailable { retry_after, .. } | UpstreamError::TooManyRequests { retry_after, .. } => *retry_after,
        UpstreamError::NotFound { .. } | UpstreamError::Denied { .. } | UpstreamError::Lied { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(kind: Unavailability, retry_after: Option<Duration>) -> UpstreamError {
        UpstreamError::Unavailable { kind, retry_after, detail: String::new() }
    }

    fn pauses(backoff: &mut Backoff, error: &UpstreamError) -> Vec<u128> {
        std::iter::from_fn(|| backoff.pause(error.clone()).ok()).map(|pause| pause.as_millis()).take(1000).collect()
    }

    #[test]
    fn pauses_double_until_the_attempts_are_used_up() {
        let error = broken(Unavailability::Broken, None);
        assert_eq!(pauses(&mut Backoff::new(5), &error), [100, 200, 400, 800]);
        assert_eq!(pauses(&mut Backoff::new(9), &error)[5..], [3200, 5000, 5000]);
        assert_eq!(pauses(&mut Backoff::opening(), &error), [100]);
    }

    #[test]
    fn bytes_begin_a_new_row_but_not_for_ever() {
        let error = broken(Unavailability::Broken, None);
        let mut backoff = Backoff::new(2);
        let resumes = std::iter::from_fn(|| {
            backoff.progressed();
            backoff.pause(error.clone()).ok()
        });
        assert_eq!(resumes.take(1000).count(), MAX_RESUMES as usize - 1);
    }

    #[test]
    fn what_the_circuit_keeps_back_is_no_attempt_but_waiting() {
        let kept_back = broken(Unavailability::CircuitOpen, Some(Duration::from_secs(4)));
        let mut backoff = Backoff::new(2);
        assert_eq!(pauses(&mut backoff, &kept_back), [4000; 15], "a minute");
        backoff.progressed();
        assert!(backoff.pause(kept_back).is_ok());
    }

    #[test]
    fn what_is_final_is_not_tried_again() {
        for error in [UpstreamError::NotFound { detail: String::new() }, UpstreamError::Lied { detail: String::new() }] {
            assert_eq!(Backoff::new(5).pause(error.clone()), Err(error));
        }
    }
}

//! When a broken transfer is taken up again, and when it is given up.

use std::time::Duration;

use crate::upstream::{Unavailability, UpstreamError};

/// Pause after the first failure; it doubles with each that follows without progress.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A transfer that breaks this often is given up even if it gets a little further each time.
const MAX_RESUMES: u32 = 200;

/// Counts the failures of one transfer.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Failures in a row that end it.
    attempts: u32,
    /// Whether a client waits for the very first answer: then only what may be a hiccup is tried again.
    opening: bool,
    in_a_row: u32,
    in_all: u32,
}

impl Backoff {
    /// Gives up after `attempts` failures without progress between them.
    #[must_use]
    pub const fn new(attempts: u32) -> Self {
        Self { attempts, opening: false, in_a_row: 0, in_all: 0 }
    }

    /// For a blob of which nothing has come: one more attempt, and only after what may be a hiccup.
    #[must_use]
    pub const fn opening() -> Self {
        Self { attempts: 2, opening: true, in_a_row: 0, in_all: 0 }
    }

    /// Bytes have come.
    pub const fn progressed(&mut self) {
        self.in_a_row = 0;
    }

    /// How long to pause after `error`.
    ///
    /// # Errors
    /// The error itself, when it is final or was one too many.
    pub fn pause(&mut self, error: UpstreamError) -> Result<Duration, UpstreamError> {
        self.in_a_row += 1;
        self.in_all += 1;
        let may_help = if self.opening { is_hiccup(&error) } else { is_transient(&error) };
        if !may_help || self.in_a_row >= self.attempts || self.in_all >= MAX_RESUMES {
            return Err(error);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.in_a_row - 1).min(10)).min(MAX_PAUSE);
        Ok(retry_after(&error).map_or(pause, |asked| asked.clamp(pause, MAX_PAUSE)))
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

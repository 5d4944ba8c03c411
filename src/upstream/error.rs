//! How an upstream can fail, by meaning.

use std::time::Duration;

use thiserror::Error;

/// How an upstream was unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailability {
    /// No connection: name, address, refusal or TLS.
    Connect,
    /// Connected, and no answer or no progress in time.
    Timeout,
    /// This status: 5xx, 408 or 425.
    Status(u16),
    /// The connection broke off in mid-answer.
    Broken,
    /// Not asked: it failed lately.
    CircuitOpen,
    /// Not asked: what is left of its quota is kept for what is not cached.
    QuotaFloor,
    /// Not asked: the credentials for it cannot be had.
    Credentials,
}

/// Why an upstream did not give what was asked for. Each message reads alone, names the upstream
/// and what was asked, and holds no secret and no query string (presigned URLs are secrets).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// It says that this does not exist (404, 410).
    #[error("not found upstream: {detail}")]
    NotFound {
        /// What was asked and answered.
        detail: String,
    },
    /// It refuses, after authentication (401, 402, 403, 451). Many registries say so of what does not exist.
    #[error("upstream refuses: {detail}")]
    Denied {
        /// The status.
        status: u16,
        /// What was asked and answered.
        detail: String,
    },
    /// It wants fewer requests (429), or wanted so a short while ago.
    #[error("upstream takes no more requests for now: {detail}")]
    TooManyRequests {
        /// When it may be asked again, if it said so.
        retry_after: Option<Duration>,
        /// What was asked and answered.
        detail: String,
    },
    /// It gave no answer, or one that says nothing about what was asked.
    #[error("upstream is unavailable: {detail}")]
    Unavailable {
        /// How.
        kind: Unavailability,
        /// When it may be asked again, if that is known.
        retry_after: Option<Duration>,
        /// What was asked and what happened.
        detail: String,
    },
    /// It broke the protocol: wrong digest, wrong length, a realm elsewhere, and the like. Nothing of
    /// such an answer is used.
    #[error("upstream breaks the protocol: {detail}")]
    Lied {
        /// What was wrong.
        detail: String,
    },
}

impl UpstreamError {
    pub(super) fn unavailable(kind: Unavailability, detail: impl Into<String>) -> Self {
        Self::Unavailable { kind, retry_after: None, detail: detail.into() }
    }

    pub(super) fn lied(detail: impl Into<String>) -> Self {
        Self::Lied { detail: detail.into() }
    }
}

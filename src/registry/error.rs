//! What a use case could not do, in the registry's words.

use std::time::Duration;

use thiserror::Error;

use crate::cache::{CacheError, FillError, StaleReason};
use crate::telemetry::metrics::CacheKind;
use crate::upstream::{Unavailability, UpstreamError};

/// In place of what the source of a rule's credentials said, which may name accounts and roles; that is logged
/// where it is read.
const NO_CREDENTIALS: &str = "the credentials of this rule could not be obtained; the server's log says why";

/// Why there is no answer. What each becomes on the wire is `http::error_response`'s table.
#[derive(Clone, Debug, Error)]
pub enum RegistryError {
    /// No rule and no repository of that name.
    #[error("no rule matches {name} and no repository has that name; pull <prefix>/<name>, or add a rule")]
    NameUnknown {
        /// The name that was asked for.
        name: String,
    },
    /// The repository does not exist upstream, or upstream does not show it.
    #[error("repository not known to registry: {detail}")]
    RepositoryUnknown {
        /// What upstream said.
        detail: String,
    },
    /// The manifest does not exist, or upstream does not show it.
    #[error("Requested image not found: {detail}")]
    ManifestUnknown {
        /// What upstream said.
        detail: String,
    },
    /// The blob does not exist, or upstream does not show it.
    #[error("blob unknown to registry: {detail}")]
    BlobUnknown {
        /// What upstream said.
        detail: String,
    },
    /// Upstream refused the rule's credentials.
    #[error(
        "The authentication to the upstream registry failed. Verify that the credentials provided in the pull through cache rule are correct, and try again. (The server's log says what was answered.)"
    )]
    UpstreamDenied {
        /// What upstream said. It may say who was refused, so it is for the log, and for other replicas.
        detail: String,
    },
    /// Upstream wants to be asked less, and nothing is cached.
    #[error("the upstream registry limits requests, and this is not cached: {detail}")]
    TooManyRequests {
        /// How long upstream asked to wait.
        retry_after: Option<Duration>,
        /// What upstream said.
        detail: String,
    },
    /// Upstream cannot be reached or fails, and nothing is cached.
    #[error("the upstream registry gives no answer, and this is not cached: {detail}")]
    UpstreamUnavailable {
        /// When to ask again.
        retry_after: Option<Duration>,
        /// What happened.
        detail: String,
    },
    /// Upstream sent something wrong; nothing of it was kept.
    #[error("the upstream registry sent something wrong, which was not kept: {detail}")]
    UpstreamInvalid {
        /// What was wrong.
        detail: String,
    },
    /// The range lies outside the blob.
    #[error("the range lies outside the {total_bytes} bytes there are")]
    RangeNotSatisfiable {
        /// Length of the blob.
        total_bytes: u64,
    },
    /// This server cannot, now: its store fails, it shuts down, or a limit is reached.
    #[error("{detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
}

impl RegistryError {
    /// Puts a failure of the cache into the registry's words. Upstream's 401 and 403 are never
    /// forwarded: without credentials they mean "private, or not there".
    pub(super) fn of(error: CacheError, kind: CacheKind, has_credentials: bool) -> Self {
        match error {
            CacheError::Upstream(error) | CacheError::Negative(error) | CacheError::Fill(FillError::Upstream(error)) => {
                Self::of_upstream(error, kind, has_credentials)
            }
            CacheError::Unreachable => Self::unknown(kind, error.to_string()),
            CacheError::TooStale { reason: StaleReason::NotFound } => Self::unknown(kind, error.to_string()),
            CacheError::TooStale { reason: StaleReason::TooManyRequests | StaleReason::Quota } => {
                Self::TooManyRequests { retry_after: None, detail: error.to_string() }
            }
            CacheError::TooStale { reason: StaleReason::Slow | StaleReason::Unavailable | StaleReason::Denied | StaleReason::Invalid } => {
                Self::UpstreamUnavailable { retry_after: None, detail: error.to_string() }
            }
            CacheError::Manifest(_) | CacheError::Fill(FillError::DigestMismatch { .. } | FillError::TooLong { .. }) => {
                Self::UpstreamInvalid { detail: error.to_string() }
            }
            CacheError::RangeNotSatisfiable { total_bytes } => Self::RangeNotSatisfiable { total_bytes },
            CacheError::Storage(_)
            | CacheError::Aborted(_)
            | CacheError::Fill(FillError::Read(_) | FillError::Dropped | FillError::NoConnection { .. } | FillError::TooManyBypasses) => {
                Self::Unavailable { detail: error.to_string() }
            }
        }
    }

    fn of_upstream(error: UpstreamError, kind: CacheKind, has_credentials: bool) -> Self {
        match error {
            UpstreamError::NotFound { detail } => Self::unknown(kind, detail),
            UpstreamError::Denied { detail, .. } if has_credentials => Self::UpstreamDenied { detail },
            UpstreamError::Denied { detail, .. } => {
                Self::unknown(kind, format!("it is private upstream, or not there, and the rule has no credentials ({detail})"))
            }
            UpstreamError::TooManyRequests { retry_after, detail } => Self::TooManyRequests { retry_after, detail },
            UpstreamError::Unavailable { kind: Unavailability::Credentials, retry_after, .. } => {
                Self::UpstreamUnavailable { retry_after, detail: NO_CREDENTIALS.to_owned() }
            }
            UpstreamError::Unavailable { retry_after, detail, .. } => Self::UpstreamUnavailable { retry_after, detail },
            UpstreamError::Lied { detail } => Self::UpstreamInvalid { detail },
        }
    }

    fn unknown(kind: CacheKind, detail: String) -> Self {
        match kind {
            CacheKind::Tag | CacheKind::Manifest => Self::ManifestUnknown { detail },
            CacheKind::Blob => Self::BlobUnknown { detail },
            CacheKind::TagsList | CacheKind::Referrers => Self::RepositoryUnknown { detail },
        }
    }
}

impl From<CacheError> for RegistryError {
    /// A failure before it is known what was asked for.
    fn from(error: CacheError) -> Self {
        Self::Unavailable { detail: error.to_string() }
    }
}

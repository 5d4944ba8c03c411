//! Why the cache has no answer.

use thiserror::Error;

use super::{FillError, FlightAborted, StaleReason};
use crate::oci::manifest::ManifestError;
use crate::storage::StorageError;
use crate::upstream::UpstreamError;

/// The cache has nothing, and could not get it. Cheap enough to clone: one failure is told to all
/// who waited for it.
#[derive(Clone, Debug, Error)]
pub enum CacheError {
    /// Upstream failed, or said no.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Upstream said no a moment ago, and is not asked again before `limits.negative_ttl`.
    #[error(transparent)]
    Negative(UpstreamError),
    /// No rule reaches the upstream any more, and the content is not cached.
    #[error("it is not cached, and no rule reaches its upstream any more")]
    Unreachable,
    /// Past the rule's `max_stale`, and upstream does not confirm it.
    #[error("the cached tag is older than the rule's freshness.max_stale, and upstream did not confirm it: {}", reason.as_str())]
    TooStale {
        /// Why upstream did not confirm it.
        reason: StaleReason,
    },
    /// Upstream's document is not a manifest.
    #[error("upstream's manifest is refused: {0}")]
    Manifest(String),
    /// The fill failed.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The range lies outside the blob.
    #[error("the range lies outside the {total_bytes} bytes there are")]
    RangeNotSatisfiable {
        /// Length of the blob.
        total_bytes: u64,
    },
    /// This server shuts down.
    #[error(transparent)]
    Aborted(#[from] FlightAborted),
}

impl From<ManifestError> for CacheError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error.to_string())
    }
}

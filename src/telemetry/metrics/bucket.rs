//! The bucket.

use prometheus::IntGauge;

use super::definitions::Definitions;

/// The bucket.
#[derive(Clone)]
pub struct BucketMetrics {
    /// `headpond_bucket_uploads_inflight`.
    pub uploads_inflight: IntGauge,
}

impl BucketMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        Some(Self { uploads_inflight: d.gauge("headpond_bucket_uploads_inflight", "Blobs on their way to the bucket.")? })
    }
}

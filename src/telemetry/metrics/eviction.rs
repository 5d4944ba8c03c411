//! What is kept on disk, and what went.

use prometheus::IntCounter;

use super::definitions::Definitions;

/// What is kept on disk, and what went.
#[derive(Clone)]
pub struct EvictionMetrics {
    /// `headpond_evicted_blobs_total`.
    pub evicted_blobs: IntCounter,
}

impl EvictionMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        Some(Self { evicted_blobs: d.counter("headpond_evicted_blobs_total", "Blobs removed from the disk to make room.")? })
    }
}

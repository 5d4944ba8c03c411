//! Scrubs and garbage collections.

use prometheus::IntCounter;

use super::definitions::Definitions;

/// Scrubs and garbage collections.
#[derive(Clone)]
pub struct UpkeepMetrics {
    /// `headpond_scrubbed_bytes_total`.
    pub scrubbed_bytes: IntCounter,
}

impl UpkeepMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        Some(Self { scrubbed_bytes: d.counter("headpond_scrubbed_bytes_total", "Bytes that scrubs have read.")? })
    }
}

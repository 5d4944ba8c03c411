//! What is kept on disk, and what went.

use std::sync::{Arc, OnceLock};

use prometheus::{IntCounter, IntGauge};

use super::definitions::Definitions;

/// How the disk stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStanding {
    /// Bytes that the store has there, with those that are reserved.
    pub used_bytes: u64,
    /// Most it may have; 0 is no limit.
    pub max_bytes: u64,
    /// What of it is never evicted.
    pub kept_bytes: u64,
    /// Free on the file system.
    pub free_bytes: u64,
    /// Blobs there.
    pub blobs: u64,
    /// Blobs evicted since the start.
    pub evicted_blobs: u64,
    /// What they had on disk.
    pub evicted_bytes: u64,
    /// How long the last of them had not been used.
    pub evicted_age_seconds: u64,
    /// How often there was no room.
    pub refused: u64,
}

/// What is kept on disk, and what went. The numbers are fetched when they are exposed.
#[derive(Clone)]
pub struct EvictionMetrics {
    used_bytes: IntGauge,
    max_bytes: IntGauge,
    kept_bytes: IntGauge,
    free_bytes: IntGauge,
    blobs: IntGauge,
    evicted_blobs: IntCounter,
    evicted_bytes: IntCounter,
    evicted_age_seconds: IntGauge,
    refused: IntCounter,
    source: Arc<OnceLock<Source>>,
}

type Source = Box<dyn Fn() -> DiskStanding + Send + Sync>;

impl EvictionMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        Some(Self {
            used_bytes: d.gauge("headpond_storage_used_bytes", "Bytes that the store has on disk, or has reserved there.")?,
            max_bytes: d.gauge("headpond_storage_max_bytes", "Most that the store may have on disk; 0 is no limit.")?,
            kept_bytes: d.gauge(
                "headpond_storage_kept_bytes",
                "Of the used bytes, what is not evicted: manifests, records, directories, and blobs that the bucket does not have yet.",
            )?,
            free_bytes: d.gauge("headpond_storage_free_bytes", "Bytes free on the file system of the store.")?,
            blobs: d.gauge("headpond_blobs", "Blobs on disk.")?,
            evicted_blobs: d.counter("headpond_evicted_blobs_total", "Blobs removed from the disk to make room.")?,
            evicted_bytes: d.counter("headpond_evicted_bytes_total", "Bytes that evicted blobs had on disk.")?,
            evicted_age_seconds: d.gauge("headpond_evicted_age_seconds", "How long the last evicted blob had not been used.")?,
            refused: d.counter("headpond_storage_refusals_total", "Times that there was no room, not even by eviction.")?,
            source: Arc::default(),
        })
    }

    /// Has the numbers come from `source`. Once for all clones.
    pub fn come_from(&self, source: impl Fn() -> DiskStanding + Send + Sync + 'static) {
        let _ = self.source.set(Box::new(source));
    }

    /// Fetches the numbers.
    pub(super) fn refresh(&self) {
        let Some(source) = self.source.get() else { return };
        let now = source();
        let gauges = [
            (&self.used_bytes, now.used_bytes),
            (&self.max_bytes, now.max_bytes),
            (&self.kept_bytes, now.kept_bytes),
            (&self.free_bytes, now.free_bytes),
            (&self.blobs, now.blobs),
            (&self.evicted_age_seconds, now.evicted_age_seconds),
        ];
        gauges.into_iter().for_each(|(gauge, value)| gauge.set(i64::try_from(value).unwrap_or(i64::MAX)));
        let counters = [(&self.evicted_blobs, now.evicted_blobs), (&self.evicted_bytes, now.evicted_bytes), (&self.refused, now.refused)];
        counters.into_iter().for_each(|(counter, value)| counter.inc_by(value.saturating_sub(counter.get())));
    }
}

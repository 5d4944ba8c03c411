//! Scrubs and garbage collections.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::definitions::Definitions;

/// Scrubs and garbage collections.
#[derive(Clone)]
pub struct UpkeepMetrics {
    /// `headpond_scrubbed_bytes_total`.
    pub scrubbed_bytes: IntCounter,
    /// `headpond_quarantined_blobs_total`.
    pub quarantined_blobs: IntCounter,
    /// `headpond_scrub_lost_blobs_total`.
    pub lost_blobs: IntCounter,
    rotten: IntCounterVec,
    last_scrub: IntGauge,
    /// `headpond_gc_deleted_blobs_total`.
    pub gc_deleted_blobs: IntCounter,
    /// `headpond_gc_deleted_bytes_total`.
    pub gc_deleted_bytes: IntCounter,
    last_gc: IntGauge,
    retired: IntCounterVec,
}

/// Kinds of records that are retired.
const RETIRED: [&str; 5] = ["tag", "manifest", "link", "repository", "word"];

impl UpkeepMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        let rotten = d.counters("headpond_scrub_rotten_total", "Rotten blobs and damaged hosted records that scrubs found.", &["kind"])?;
        for kind in ["cached", "hosted"] {
            rotten.with_label_values(&[kind]);
        }
        let retired =
            d.counters("headpond_retired_records_total", "Records of content that nobody pulled for long, removed.", &["kind"])?;
        for kind in RETIRED {
            retired.with_label_values(&[kind]);
        }
        Some(Self {
            retired,
            scrubbed_bytes: d.counter("headpond_scrubbed_bytes_total", "Bytes that scrubs have read.")?,
            quarantined_blobs: d.counter("headpond_quarantined_blobs_total", "Rotten blobs put aside.")?,
            lost_blobs: d.counter("headpond_scrub_lost_blobs_total", "Blobs on disk that the bucket had lost, sent again.")?,
            rotten,
            last_scrub: d.gauge("headpond_scrub_last_end_timestamp_seconds", "When the last scrub was through; 0 is never.")?,
            gc_deleted_blobs: d.counter("headpond_gc_deleted_blobs_total", "Blobs that nothing referred to, deleted.")?,
            gc_deleted_bytes: d.counter("headpond_gc_deleted_bytes_total", "Their bytes.")?,
            last_gc: d.gauge("headpond_gc_last_end_timestamp_seconds", "When the last garbage collection was through; 0 is never.")?,
        })
    }

    /// Counts something rotten; hosted content needs somebody to look.
    pub fn found_rotten(&self, is_hosted: bool) {
        self.rotten.with_label_values(&[if is_hosted { "hosted" } else { "cached" }]).inc();
    }

    /// Counts records that were retired: `tag`, `manifest`, `link`, `repository` or `word`.
    pub fn retired(&self, kind: &'static str, count: u64) {
        self.retired.with_label_values(&[kind]).inc_by(count);
    }

    /// Notes that a scrub was through.
    pub fn scrub_ended(&self, now_unix_seconds: u64) {
        self.last_scrub.set(now_unix_seconds.cast_signed());
    }

    /// Notes that a garbage collection was through.
    pub fn gc_ended(&self, now_unix_seconds: u64) {
        self.last_gc.set(now_unix_seconds.cast_signed());
    }
}

//! The bucket.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::definitions::Definitions;

/// What the bucket is asked for, the label `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketOperation {
    /// An object or a part of it; a HEAD too.
    Get,
    /// A whole object.
    Put,
    /// One page of a listing.
    List,
    /// Removing an object.
    Delete,
    /// Copying an object within the bucket.
    Copy,
    /// Beginning an upload in parts.
    BeginUpload,
    /// One part.
    PutPart,
    /// Completing an upload in parts.
    CompleteUpload,
    /// Giving it up.
    AbortUpload,
}

impl BucketOperation {
    const ALL: [Self; 9] = [
        Self::Get,
        Self::Put,
        Self::List,
        Self::Delete,
        Self::Copy,
        Self::BeginUpload,
        Self::PutPart,
        Self::CompleteUpload,
        Self::AbortUpload,
    ];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
            Self::BeginUpload => "begin_upload",
            Self::PutPart => "put_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
        }
    }
}

/// What became of it, the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketResult {
    /// Done, or not there, or not as it was expected to be.
    Answered,
    /// Access was denied.
    Denied,
    /// No answer, or one that says: not now.
    Failed,
    /// Not asked, because it did not answer just before.
    HeldOff,
}

impl BucketResult {
    const ALL: [Self; 4] = [Self::Answered, Self::Denied, Self::Failed, Self::HeldOff];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::HeldOff => "held_off",
        }
    }
}

/// Which conditional write, the label `kind` of `headpond_bucket_preconditions`.
const PRECONDITIONS: [&str; 2] = ["create", "update"];

/// The bucket.
#[derive(Clone)]
pub struct BucketMetrics {
    /// `headpond_bucket_uploads_inflight`.
    pub uploads_inflight: IntGauge,
    /// `headpond_bucket_circuit_state`: 1 while the bucket is not asked, because it did not answer.
    pub circuit_state: IntGauge,
    /// `headpond_bucket_skipped_keys_total`: keys in listings that are not of the layout.
    pub skipped_keys: IntCounter,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    preconditions: IntGaugeVec,
}

impl BucketMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        let preconditions = Opts::new("headpond_bucket_preconditions", "1 honoured, 0 ignored, -1 not known yet.");
        let metrics = Self {
            uploads_inflight: d.gauge("headpond_bucket_uploads_inflight", "Blobs on their way to the bucket.")?,
            circuit_state: d.gauge("headpond_bucket_circuit_state", "0 the bucket answers, 1 it does not and is not asked.")?,
            skipped_keys: d.counter("headpond_bucket_skipped_keys_total", "Keys in listings that are not of the layout.")?,
            requests: d.counters(
                "headpond_bucket_requests_total",
                "Requests to the bucket, retries not counted.",
                &["operation", "result"],
            )?,
            request_seconds: d.seconds("headpond_bucket_request_seconds", "To the bucket's answer, retries included.", &["operation"])?,
            preconditions: d.register(IntGaugeVec::new(preconditions, &["kind"]))?,
        };
        for operation in BucketOperation::ALL {
            metrics.request_seconds.with_label_values(&[operation.as_str()]);
            for result in BucketResult::ALL {
                metrics.requests.with_label_values(&[operation.as_str(), result.as_str()]);
            }
        }
        metrics.preconditions_known([-1; 2]);
        Some(metrics)
    }

    /// A request ended, or was not made.
    pub fn requested(&self, operation: BucketOperation, result: BucketResult, took: Option<Duration>) {
        self.requests.with_label_values(&[operation.as_str(), result.as_str()]).inc();
        if let Some(took) = took {
            self.request_seconds.with_label_values(&[operation.as_str()]).observe(took.as_secs_f64());
        }
    }

    /// What conditional creation and update are worth: 1, 0, or -1 for unknown.
    pub fn preconditions_known(&self, gauges: [i64; 2]) {
        for (kind, gauge) in PRECONDITIONS.iter().zip(gauges) {
            self.preconditions.with_label_values(&[kind]).set(gauge);
        }
    }
}

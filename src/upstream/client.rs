//! An endpoint as one rule uses it.

use std::future::Future;
use std::sync::Arc;

use super::admission::Admission;
use super::circuit::{Asking, CircuitState, Purpose};
use super::standing::Intent;
use super::{Endpoint, Quota, SourceId, Unavailability, UpstreamError, address};
use crate::telemetry::metrics::RuleMetrics;

/// The upstream of one rule; cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) metrics: Arc<RuleMetrics>,
    quota_floor: u64,
}

impl Upstream {
    /// An endpoint, counted in the metrics of one rule.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, metrics: RuleMetrics) -> Self {
        let metrics = Arc::new(metrics);
        endpoint.circuit.show_in(&metrics);
        Self { endpoint, metrics, quota_floor: 0 }
    }

    /// The same, that is not asked to revalidate while no more than so many pulls are left of its
    /// quota. 0 is no floor.
    #[must_use]
    pub fn with_quota_floor(self, quota_floor: u64) -> Self {
        Self { quota_floor, ..self }
    }

    /// A mirror of a rule's upstream: its circuit is not the rule's.
    #[must_use]
    pub fn mirror(endpoint: Arc<Endpoint>, metrics: RuleMetrics) -> Self {
        Self { endpoint, metrics: Arc::new(metrics), quota_floor: 0 }
    }

    /// Where it is counted.
    #[must_use]
    pub fn metrics(&self) -> &RuleMetrics {
        &self.metrics
    }

    /// Which upstream, and as whom.
    #[must_use]
    pub fn source(&self) -> &SourceId {
        self.endpoint.source()
    }

    /// Whether it is asked with a user name and password. What it refuses then is refused to them, and
    /// what it gives may not be for everybody.
    #[must_use]
    pub fn has_credential(&self) -> bool {
        self.endpoint.settings.credential.is_some()
    }

    /// How far the upstream is relied upon for manifests at present.
    #[must_use]
    pub fn circuit_state(&self) -> CircuitState {
        self.endpoint.circuit.of_manifests()
    }

    /// What the upstream told of its pull limit, while that counts.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        self.endpoint.circuit.quota()
    }

    /// Whether no more pulls are left than the rule keeps for what clients wait for.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.endpoint.circuit.saves(self.quota_floor)
    }

    /// What a HEAD of a manifest for `purpose` would be refused with now, without asking; `None` if it
    /// would be made.
    #[must_use]
    pub fn held_off(&self, purpose: Purpose) -> Option<UpstreamError> {
        self.endpoint.circuit.refusal(self.intent(Asking::ManifestHead, purpose))
    }

    /// A revalidation takes longer than the cache waits for it: until it is answered, others are
    /// refused at once.
    pub fn mark_slow(&self) {
        self.endpoint.circuit.slowed();
    }

    pub(super) fn admit(&self, asking: Asking, purpose: Purpose) -> Result<Admission, UpstreamError> {
        self.endpoint.circuit.admit(self.intent(asking, purpose))
    }

    const fn intent(&self, asking: Asking, purpose: Purpose) -> Intent {
        Intent { asking, purpose, quota_floor: self.quota_floor }
    }

    /// A whole exchange, with its limit in time: drips, slow realms and slow redirects add up.
    pub(super) async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        let limit = self.endpoint.settings.limits.manifest_timeout;
        let late = || {
            let upstream = address::host_and_port(&self.endpoint.settings.base);
            UpstreamError::unavailable(Unavailability::Timeout, format!("{upstream} did not come to an end within {limit:?}"))
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

//! The other replicas.

use prometheus::{IntCounterVec, IntGauge};

use super::definitions::Definitions;

/// How asking another replica went, the label `result` of `headpond_cluster_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaResult {
    /// It answered with what was asked for.
    Answered,
    /// It told what its upstream refused.
    Refused,
    /// It did not answer, or could not.
    Failed,
    /// Its answer was without the right proof, and was not believed.
    Unproven,
}

impl ReplicaResult {
    const ALL: [Self; 4] = [Self::Answered, Self::Refused, Self::Failed, Self::Unproven];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unproven => "unproven",
        }
    }
}

/// The other replicas.
#[derive(Clone)]
pub struct ClusterMetrics {
    /// `headpond_cluster_members`.
    pub members: IntGauge,
    requests: IntCounterVec,
}

impl ClusterMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        let requests = d.counters("headpond_cluster_requests_total", "Requests made to other replicas.", &["result"])?;
        for result in ReplicaResult::ALL {
            requests.with_label_values(&[result.as_str()]);
        }
        Some(Self { members: d.gauge("headpond_cluster_members", "Replicas that the names of the cluster resolve to.")?, requests })
    }

    /// Counts a request to another replica.
    pub fn asked(&self, result: ReplicaResult) {
        self.requests.with_label_values(&[result.as_str()]).inc();
    }
}

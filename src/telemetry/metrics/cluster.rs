//! The other replicas.

use prometheus::IntGauge;

use super::definitions::Definitions;

/// The other replicas.
#[derive(Clone)]
pub struct ClusterMetrics {
    /// `headpond_cluster_members`.
    pub members: IntGauge,
}

impl ClusterMetrics {
    pub(super) fn define(d: &mut Definitions) -> Option<Self> {
        Some(Self { members: d.gauge("headpond_cluster_members", "Replicas that the names of the cluster resolve to.")? })
    }
}

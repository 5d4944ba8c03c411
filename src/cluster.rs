//! The other replicas over the same bucket: who they are, who of them owns what, and how a request
//! proves that it comes from one.
//!
//! Replicas share the bucket and one key, nothing else. Each resolves the same names by itself and
//! ranks what it finds alike, so that all agree on an owner without asking each other. While they
//! do not agree, something is fetched twice; never is it wrong. This module asks nobody for content:
//! `upstream::Replicas` does.

mod membership;
mod names;
mod refusal;
mod rendezvous;
mod signature;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache as Moka;

use membership::Membership;
pub use names::{Names, SystemNames};
pub use refusal::RefusalKind;
pub use rendezvous::ranked;
pub use signature::{
    Asked, ERROR_HEADER, PROOF_HEADER, ReplicaKey, ReplicaRequest, SCHEME, STALE_HEADER, SignatureError, Signed, UNATTENDED_HEADER,
    VALIDATED_HEADER,
};

use crate::telemetry::metrics::ClusterMetrics;

/// Replicas that are asked for one thing before the upstream is: more would only add up waits.
const MAX_ASKED: usize = 2;
/// How long the first look at the names may hold up the start.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// So many failed replicas are remembered.
const MAX_BARRED: u64 = 1_000;

/// How often the names are resolved, and how long a replica that failed is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterLimits {
    /// `limits.peers_refresh`.
    pub refresh: Duration,
}

/// The replicas as this one sees them; cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    membership: Arc<Membership>,
    /// Replicas that failed a moment ago.
    barred: Moka<SocketAddr, ()>,
    limits: ClusterLimits,
    metrics: ClusterMetrics,
}

impl Cluster {
    /// The replicas behind `peers` (`host:port` each), seen from one that listens at `listens`. It has
    /// no members before the first [`Self::refresh`].
    #[must_use]
    pub fn new(
        peers: Vec<String>,
        listens: Vec<SocketAddr>,
        names: Arc<dyn Names>,
        limits: ClusterLimits,
        metrics: ClusterMetrics,
    ) -> Self {
        let barred = Moka::builder().max_capacity(MAX_BARRED).time_to_live(limits.refresh).build();
        Self { membership: Arc::new(Membership::new(peers, listens, names)), barred, limits, metrics }
    }

    /// Resolves the names once, so that a start knows whom to ask; gives up after a moment.
    pub async fn look_first(&self) {
        if tokio::time::timeout(FIRST_LOOK, self.refresh()).await.is_err() {
            tracing::warn!("the names of cluster.peers are not resolved yet; until they are, upstream is asked for everything");
        }
    }

    /// Resolves the names for ever, every `limits.peers_refresh`.
    pub async fn keep_refreshing(self) {
        loop {
            tokio::time::sleep(self.limits.refresh).await;
            self.refresh().await;
        }
    }

    /// Resolves the names once.
    pub async fn refresh(&self) {
        let Some(members) = self.membership.refresh().await else { return };
        self.metrics.members.set(i64::try_from(members.len()).unwrap_or(i64::MAX));
        let shown: Vec<_> = members.iter().map(ToString::to_string).collect();
        tracing::info!(members = members.len(), "the replicas are now: {}", shown.join(", "));
    }

    /// Whom to ask for what `key` names, in order, before asking upstream. Nobody, if this replica is
    /// the owner, or the next one after owners that failed a moment ago.
    #[must_use]
    pub fn route(&self, key: &str) -> Vec<SocketAddr> {
        let members = self.membership.members();
        let before_oneself = ranked(&members, key).into_iter().take_while(|address| !self.membership.is_own(*address));
        before_oneself.filter(|address| !self.barred.contains_key(address)).take(MAX_ASKED).collect()
    }

    /// A replica failed: it is left out until the names are resolved again.
    pub fn bar(&self, address: SocketAddr) {
        self.barred.insert(address, ());
    }

    /// Whether `address` is one at which this replica is reached.
    #[must_use]
    pub fn is_own(&self, address: SocketAddr) -> bool {
        self.membership.is_own(address)
    }

    /// Where requests between replicas are counted.
    #[must_use]
    pub const fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }
}

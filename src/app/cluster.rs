//! The other replicas, where there are any.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Config, build};
use crate::access::ReplicaCheck;
use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterLimits, Names, ReplicaKey};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Replicas;

/// What it takes to ask the other replicas, and to be asked by them.
#[derive(Clone)]
pub(super) struct ClusterParts {
    pub(super) replicas: Replicas,
    pub(super) check: ReplicaCheck,
}

/// Finds the other replicas, and keeps looking for them. `None` for a server that is alone.
pub(super) async fn join(
    config: &Config,
    listens: Vec<SocketAddr>,
    names: Arc<dyn Names>,
    clock: &Clock,
    metrics: &Metrics,
    tasks: &Tasks,
) -> anyhow::Result<Option<ClusterParts>> {
    let (Some(configured), Some(token_key)) = (&config.cluster, &config.auth.token_key) else { return Ok(None) };
    let limits = ClusterLimits { refresh: config.limits.peers_refresh };
    let cluster = Cluster::new(configured.peers.clone(), listens, names, limits, metrics.cluster.clone());
    cluster.look_first().await;
    tasks.spawn("replicas", cluster.clone().keep_refreshing());
    let key = ReplicaKey::derive(token_key.expose());
    let (limits, upstream_limits) = (&config.limits, build::upstream_limits(&config.limits));
    let replicas =
        Replicas::new(cluster.clone(), key.clone(), clock.clone(), limits.peer_timeout, limits.connection_wait, upstream_limits)?;
    Ok(Some(ClusterParts { replicas, check: ReplicaCheck::new(cluster, key, clock.clone()) }))
}

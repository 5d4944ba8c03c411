//! Requests of other replicas: who may ask for anything that a rule knows, because it has let its own
//! client in before.

use std::net::{IpAddr, SocketAddr};

use crate::clock::Clock;
use crate::cluster::{Asked, Cluster, ReplicaKey, ReplicaRequest, SCHEME, SignatureError};

/// Port of a `Host` that names none.
const HTTP_PORT: u16 = 80;

/// Tells whether a request comes from another replica, and proves the answer to it.
#[derive(Clone)]
pub struct ReplicaCheck {
    cluster: Cluster,
    key: ReplicaKey,
    clock: Clock,
}

/// A request line as it came.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// E.g. `GET`.
    pub method: &'a str,
    /// Path and query.
    pub path_and_query: &'a str,
    /// The value of `Host`.
    pub host: &'a str,
}

impl ReplicaCheck {
    /// A check of requests from the replicas of `cluster`.
    #[must_use]
    pub const fn new(cluster: Cluster, key: ReplicaKey, clock: Clock) -> Self {
        Self { cluster, key, clock }
    }

    /// The key that answers are proven with.
    #[must_use]
    pub const fn key(&self) -> &ReplicaKey {
        &self.key
    }

    /// Checks a signature. One that was made for another replica is wrong here, whatever `Host` says.
    pub(super) fn check(&self, credentials: &str, line: RequestLine<'_>) -> Result<ReplicaRequest, SignatureError> {
        let replica = host_address(line.host).ok_or(SignatureError::Wrong)?;
        let asked = Asked { method: line.method, path_and_query: line.path_and_query, replica };
        let request = self.key.check(credentials, &asked, self.clock.now())?;
        if self.cluster.is_own(replica) { Ok(request) } else { Err(SignatureError::Wrong) }
    }
}

/// The signature in an `Authorization` header, if it holds one of a replica.
pub(super) fn credentials(authorization: &[u8]) -> Option<&str> {
    std::str::from_utf8(authorization).ok()?.strip_prefix(SCHEME)
}

fn host_address(host: &str) -> Option<SocketAddr> {
    let bare = || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    host.parse().ok().or_else(|| Some(SocketAddr::new(bare()?, HTTP_PORT)))
}

//! The other replicas over the same bucket.

use super::problems::Problems;
use super::raw::RawCluster;
use super::{Auth, Listen, Storage};

/// The replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `host:port`, each resolving to one replica or more. Never empty.
    pub peers: Vec<String>,
}

pub(super) fn validate(raw: Option<RawCluster>, storage: &Storage, auth: &Auth, problems: &mut Problems) -> Option<Cluster> {
    let peers = raw?.peers;
    let mut names = Vec::new();
    for (path, peer) in peers.into_iter().flat_map(|peers| peers.entries("cluster.peers")) {
        if is_host_and_port(&peer.0) {
            names.push(peer.0);
        } else {
            problems.add(path, format!("`{}` is not host:port", peer.0), "such as headpond-headless.headpond.svc:5000");
        }
    }
    if names.is_empty() {
        problems.add("cluster.peers", "names no replica", "host:port of a name that resolves to all of them, or leave `cluster` out");
    }
    if storage.s3.is_none() && !problems.has("storage.s3.bucket") {
        problems.add("storage.s3", "is missing: replicas share nothing but a bucket", "name one, or leave `cluster` out");
    }
    if auth.token_key.is_none() {
        let what = "is missing: by a key that all share replicas prove to each other who they are";
        problems.add("auth.token_key", what, "refer to 32 bytes or more, such as `openssl rand -base64 48` makes, or leave `cluster` out");
    }
    Some(Cluster { peers: names })
}

/// Reports that the other replicas could not reach this one: they speak plain HTTP, and prove in each
/// request and answer who they are.
pub(super) fn refuse_unheard(cluster: Option<&Cluster>, listen: &[Listen], problems: &mut Problems) {
    let Some(cluster) = cluster.filter(|cluster| !cluster.peers.is_empty()) else { return };
    let is_heard = |port: u16| listen.iter().any(|one| one.address.port() == port && one.tls.is_none() && !one.proxy_protocol);
    let ports = cluster.peers.iter().filter_map(|peer| peer.rsplit_once(':')?.1.parse().ok());
    if !ports.into_iter().any(is_heard) {
        let what = "no listener here has the port of a peer, without TLS and without PROXY protocol";
        problems.add("cluster.peers", what, "add a plain listener with that port, which only the replicas can reach");
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

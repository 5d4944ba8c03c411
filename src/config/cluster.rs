//! The other replicas over the same bucket.

use super::problems::Problems;
use super::raw::RawCluster;
use super::{Auth, Storage};

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
    if storage.s3.is_none() {
        problems.add("cluster.peers", "replicas share nothing but a bucket, and there is none", "add `storage.s3`, or leave `cluster` out");
    }
    if auth.token_key.is_none() {
        problems.add(
            "cluster.peers",
            "replicas prove to each other who they are by a shared key, and there is none",
            "add `auth.token_key`",
        );
    }
    Some(Cluster { peers: names })
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

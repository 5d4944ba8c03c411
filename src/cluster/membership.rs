//! Who the replicas are: what the names resolve to, and which of these is this one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::Names;

/// Most addresses that one cluster has.
const MAX_MEMBERS: usize = 256;

/// What the names resolved to last.
pub(super) struct Membership {
    peers: Vec<String>,
    listens: Vec<SocketAddr>,
    names: Arc<dyn Names>,
    /// By name: one that cannot be resolved keeps what it had.
    resolved: Mutex<HashMap<String, Vec<SocketAddr>>>,
    /// Sorted, each once.
    members: ArcSwap<Vec<SocketAddr>>,
    /// Addresses of this machine, as far as anybody asked.
    local: Mutex<HashMap<IpAddr, bool>>,
}

impl Membership {
    pub(super) fn new(peers: Vec<String>, listens: Vec<SocketAddr>, names: Arc<dyn Names>) -> Self {
        let members = ArcSwap::from_pointee(Vec::new());
        Self { peers, listens, names, resolved: Mutex::default(), members, local: Mutex::default() }
    }

    pub(super) fn members(&self) -> Arc<Vec<SocketAddr>> {
        self.members.load_full()
    }

    /// Resolves every name. The members, if they are others now.
    pub(super) async fn refresh(&self) -> Option<Arc<Vec<SocketAddr>>> {
        for peer in &self.peers {
            match self.names.resolve(peer).await {
                Ok(addresses) => {
                    self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.clone(), addresses);
                }
                Err(error) => tracing::debug!(name = peer, %error, "a name of cluster.peers is not resolved; what it was is kept"),
            }
        }
        // An address of this machine may have come or gone too.
        self.local.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut members: Vec<_> = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().copied().collect();
        members.sort_unstable();
        members.dedup();
        members.truncate(MAX_MEMBERS);
        if **self.members.load() == members {
            return None;
        }
        let members = Arc::new(members);
        self.members.store(Arc::clone(&members));
        Some(members)
    }

    /// Whether `address` is one that this replica listens at.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.listens.iter().any(|listen| {
            let reaches = listen.ip().is_unspecified() && (listen.is_ipv6() || address.is_ipv4());
            listen.port() == address.port() && (listen.ip() == address.ip() || (reaches && self.is_local(address.ip())))
        })
    }

    /// Whether this machine has the address: only then can a socket be bound to it.
    fn is_local(&self, ip: IpAddr) -> bool {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.len() > MAX_MEMBERS {
            local.clear();
        }
        *local.entry(ip).or_insert_with(|| UdpSocket::bind((ip, 0)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use async_trait::async_trait;

    use super::*;

    /// Names that a test changes.
    #[derive(Default)]
    struct Table(Mutex<HashMap<String, Vec<SocketAddr>>>);

    #[async_trait]
    impl Names for Table {
        async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            self.0.lock().unwrap().get(name).cloned().ok_or_else(|| io::Error::other("no such name"))
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_keeps_its_addresses() {
        let names = Arc::new(Table::default());
        let (one, other) = (address("10.0.0.1:5000"), address("10.0.0.2:5000"));
        names.0.lock().unwrap().extend([("a:5000".to_owned(), vec![other, one, one]), ("b:5000".to_owned(), vec![one])]);
        let membership = Membership::new(vec!["a:5000".to_owned(), "b:5000".to_owned()], Vec::new(), names.clone());
        assert_eq!(membership.refresh().await.as_deref(), Some(&vec![one, other]));
        assert_eq!(membership.refresh().await, None);
        names.0.lock().unwrap().clear();
        assert_eq!(membership.refresh().await, None);
        assert_eq!(*membership.members(), [one, other]);
        names.0.lock().unwrap().insert("a:5000".to_owned(), vec![]);
        assert_eq!(membership.refresh().await.as_deref(), Some(&vec![one]));
    }

    #[test]
    fn own_addresses_are_those_listened_at() {
        let own = |listen: &str, asked: &str| {
            Membership::new(Vec::new(), vec![address(listen)], Arc::new(Table::default())).is_own(address(asked))
        };
        assert!(own("127.0.0.2:5000", "127.0.0.2:5000"));
        assert!(!own("127.0.0.2:5000", "127.0.0.3:5000"));
        assert!(own("0.0.0.0:5000", "127.0.0.1:5000"));
        assert!(own("[::]:5000", "127.0.0.1:5000"));
        assert!(!own("0.0.0.0:5000", "127.0.0.1:5001"));
        assert!(!own("0.0.0.0:5000", "192.0.2.1:5000"), "TEST-NET is nobody's");
    }
}

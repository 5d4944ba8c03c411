//! Networks, with IPv4 addresses that come mapped into IPv6 taken as IPv4.
//!
//! A listener on `[::]` sees IPv4 clients as `::ffff:10.0.0.1`; a rule about `10.0.0.0/8` means them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Bits before the IPv4 address in a mapped one.
const MAPPED_BITS: u8 = 96;

/// A list of networks; empty is everywhere.
#[derive(Clone, Debug)]
pub(super) struct Networks(Vec<IpNet>);

impl Networks {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().map(canonical_network).collect())
    }

    /// Whether `address`, which is canonical, is in one of them. Neither allocates nor locks.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|network| network.contains(&address))
    }
}

fn canonical_network(network: &IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS)),
    };
    mapped.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(*network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>())
    }

    fn address(text: &str) -> IpAddr {
        text.parse::<IpAddr>().unwrap().to_canonical()
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        for list in [networks(&["10.0.0.0/8"]), networks(&["::ffff:10.0.0.0/104", "fd00::/8"])] {
            assert!(list.contain(address("10.1.2.3")));
            assert!(list.contain(address("::ffff:10.1.2.3")));
            assert!(!list.contain(address("::ffff:11.1.2.3")));
            assert!(!list.contain(address("::10.1.2.3")));
        }
    }

    #[test]
    fn no_networks_are_everywhere() {
        assert!(networks(&[]).contain(address("192.0.2.1")) && networks(&[]).contain(address("::1")));
        assert!(networks(&["::/0"]).contain(address("fd00::1")));
    }
}

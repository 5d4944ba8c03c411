//! Which addresses an upstream may lead to.
//!
//! Redirects and token realms are an upstream's words. Whoever has one in hand could have anything asked
//! that this machine can reach: its own ports, the metadata of its cloud, the network around it. So
//! addresses that are not of the Internet are reached only where the rule names the host, or the
//! network, itself. Addresses in URLs are checked as they are read, those of names as they are resolved,
//! by the connection itself: what was checked is what is connected to. Names that a proxy resolves cannot be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use super::UpstreamSettings;

/// IPv4 networks that are not of the Internet. The last two hold the metadata services of Oracle Cloud and
/// of Azure; those of others are link-local.
const PRIVATE_V4: [([u8; 4], u8); 9] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 168, 0, 0], 16),
    ([192, 0, 0, 0], 24),
    ([168, 63, 129, 16], 32),
];
/// Multicast and reserved: the first byte is at least this.
const FIRST_MULTICAST_BYTE: u8 = 224;

/// A host at an address that its rule does not name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}, which the rule does not name; if that is right, add {host} to its `private_hosts`")]
pub(super) struct PrivateAddress {
    what: String,
    host: String,
}

impl PrivateAddress {
    fn literal(address: IpAddr) -> Self {
        Self { what: format!("{address} is a private address"), host: address.to_string() }
    }

    fn proxy(host: &str) -> Self {
        Self { what: format!("{host} is the proxy"), host: host.to_owned() }
    }

    fn of(host: &str, address: IpAddr) -> Self {
        Self { what: format!("{host} is at the private address {address}"), host: host.to_owned() }
    }
}

/// What a rule names: hosts and networks at whatever address.
#[derive(Debug)]
pub(super) struct Reach {
    hosts: Vec<String>,
    networks: Vec<IpNet>,
    /// Hosts that are connected to on the way, and to which no URL may lead.
    proxies: Vec<String>,
}

impl Reach {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        let realms = settings.realms.iter().map(|realm| without_port(realm));
        let named = settings.base.host_str().into_iter().chain(realms).chain(settings.private_hosts.iter().map(String::as_str));
        let proxies = settings.proxies.hosts();
        Self {
            hosts: named.map(normal).collect(),
            networks: settings.private_networks.clone(),
            proxies: proxies.iter().map(String::as_str).map(normal).collect(),
        }
    }

    /// Checks a host that is written as an address, or is the proxy's own: what listens there takes
    /// this machine's word for more than a registry's.
    pub(super) fn check(&self, url: &Url) -> Result<(), PrivateAddress> {
        let host = bare(url.host_str().unwrap_or_default());
        let address = host.parse::<IpAddr>();
        let is_named = self.names(host) || address.as_ref().is_ok_and(|address| self.has_network_of(*address));
        if self.is_proxy(host) && !is_named {
            return Err(PrivateAddress::proxy(host));
        }
        let refused = match address {
            Ok(address) if is_private(address.to_canonical()) && !is_named => PrivateAddress::literal(address.to_canonical()),
            // RFC 6761 §6.3; a proxy may not know.
            Err(_) if is_localhost(host) && !is_named && !self.has_network_of(Ipv4Addr::LOCALHOST.into()) => {
                PrivateAddress::of(host, Ipv4Addr::LOCALHOST.into())
            }
            Ok(_) | Err(_) => return Ok(()),
        };
        Err(refused)
    }

    /// Of the addresses of a name, those that may be connected to.
    fn choose(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, PrivateAddress> {
        let refused = found.iter().find(|address| !self.allows(host, address.ip())).copied();
        let allowed: Vec<_> = found.into_iter().filter(|address| self.allows(host, address.ip())).collect();
        match refused {
            Some(refused) if allowed.is_empty() => Err(PrivateAddress::of(host, refused.ip())),
            Some(_) | None => Ok(allowed),
        }
    }

    /// Whether a host may be connected to at an address. A proxy may: what leads to it is refused before.
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        !is_private(address.to_canonical()) || self.names(host) || self.is_proxy(host) || self.has_network_of(address)
    }

    fn names(&self, host: &str) -> bool {
        self.hosts.contains(&normal(host))
    }

    fn is_proxy(&self, host: &str) -> bool {
        self.proxies.contains(&normal(host))
    }

    fn has_network_of(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

/// Names as they are resolved for one endpoint.
pub(super) struct CheckedNames(pub(super) Arc<Reach>);

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            // Port 0 is replaced by the URL's.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = reach.choose(name.as_str(), found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// `host` of `host` or `host:port`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

/// A host as it is compared.
fn normal(host: &str) -> String {
    bare(host).trim_end_matches('.').to_ascii_lowercase()
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    let is_in = |(network, length): &([u8; 4], u8)| (bits ^ Ipv4Addr::from(*network).to_bits()).leading_zeros() >= u32::from(*length);
    address.octets().first().is_some_and(|first| *first >= FIRST_MULTICAST_BYTE) || PRIVATE_V4.iter().any(is_in)
}

/// Unspecified and loopback, unique local, link-local, site-local (RFC 3879), multicast; and what stands
/// for an IPv4 address that is private.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    let embedded = match (first, second) {
        // IPv4-compatible; `::` and `::1` come out as 0.0.0.0/8.
        (0, 0) if address.to_bits() >> 32 == 0 => address.to_bits(),
        // NAT64 (RFC 6052, RFC 8215).
        (0x64, 0xff9b) => address.to_bits(),
        // 6to4 (RFC 3056).
        (0x2002, _) => (u128::from(second) << 16) | u128::from(third),
        _ => return first & 0xfe00 == 0xfc00 || first & 0xff80 == 0xfe80 || first >= 0xff00,
    };
    #[expect(clippy::cast_possible_truncation, reason = "the IPv4 address is in the last 32 bits")]
    is_private_v4(Ipv4Addr::from_bits(embedded as u32))
}

#[cfg(test)]
mod tests;

//! The addresses that are listened on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::problems::{ConfigProblems, Problems};
use super::raw::{RawAdmin, RawListen, RawTls};
use super::read;
use super::shapes::{List, Text, TextOr};

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// IP address and port; port 0 takes any free one. Default: `127.0.0.1:5000`.
    pub address: SocketAddr,
    /// TLS; plain HTTP without.
    pub tls: Option<Tls>,
    /// Whether every connection starts with a PROXY protocol v2 header. Default: false.
    pub proxy_protocol: bool,
}

/// The files of a TLS listener, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Authorities of client certificates, which are then required.
    pub client_ca: Option<PathBuf>,
}

/// The admin port: health and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// IP address and port. Default: `127.0.0.1:5001`.
    pub address: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: loopback(5000), tls: None, proxy_protocol: false }
    }
}

impl Admin {
    /// Reads the admin port alone, whatever else is wrong with the file: the health check of a
    /// running server must not fail because its file was broken meanwhile.
    ///
    /// # Errors
    /// When the file cannot be read, or its `admin` does not hold.
    pub fn load(file: &Path) -> Result<Self, ConfigProblems> {
        let mut problems = Problems::default();
        let admin = validate_admin(read::read(file, &mut problems).admin, &mut problems);
        problems.retain(|problem| problem.path.is_empty() || problem.path.starts_with("admin"));
        problems.into_result(Some(file), admin)
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: loopback(5001) }
    }
}

/// Where this machine reaches what listens on `address`: wildcard addresses can be bound, but not connected to everywhere.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

pub(super) fn validate(raw: Option<List<TextOr<RawListen>>>, directory: &Path, problems: &mut Problems) -> Vec<Listen> {
    let Some(raw) = raw else { return vec![Listen::default()] };
    let is_empty = raw.is_empty();
    let listen: Vec<_> =
        raw.entries("listen").into_iter().filter_map(|(path, listen)| validate_one(listen, &path, directory, problems)).collect();
    if is_empty {
        problems.add("listen", "names no address", "such as 127.0.0.1:5000; leave the key out for that default");
    }
    listen
}

fn validate_one(raw: TextOr<RawListen>, path: &str, directory: &Path, problems: &mut Problems) -> Option<Listen> {
    match raw {
        TextOr::Text(text) => Some(Listen { address: address(&text, path, problems)?, tls: None, proxy_protocol: false }),
        TextOr::Mapping(raw) => {
            let tls = raw.tls.map(|tls| validate_tls(tls, &format!("{path}.tls"), directory, problems));
            let path = format!("{path}.address");
            let Some(Text(text)) = raw.address else {
                problems.add(path, "is missing", ADDRESS_HINT);
                return None;
            };
            let address = address(&text, &path, problems)?;
            // A `tls` that does not hold must never leave a plain listener behind.
            let tls = match tls {
                None => None,
                Some(tls) => Some(tls?),
            };
            Some(Listen { address, tls, proxy_protocol: raw.proxy_protocol.unwrap_or(false) })
        }
    }
}

fn validate_tls(raw: RawTls, path: &str, directory: &Path, problems: &mut Problems) -> Option<Tls> {
    let mut file = |raw: Option<Text>, key: &str, hint: Option<&str>| {
        let path = format!("{path}.{key}");
        match (raw, hint) {
            (Some(Text(file)), _) => {
                let file = directory.join(file);
                problems.check_readable(&path, &file);
                Some(file)
            }
            (None, Some(hint)) => {
                problems.add(path, "is missing", hint);
                None
            }
            (None, None) => None,
        }
    };
    let certificate = file(raw.certificate, "certificate", Some("the file with the certificate chain, in PEM"));
    let key = file(raw.key, "key", Some("the file with the private key, in PEM"));
    let client_ca = file(raw.client_ca, "client_ca", None);
    Some(Tls { certificate: certificate?, key: key?, client_ca })
}

pub(super) fn validate_admin(raw: Option<RawAdmin>, problems: &mut Problems) -> Admin {
    let parsed = raw.and_then(|raw| raw.address).and_then(|text| address(&text.0, "admin.address", problems));
    parsed.map_or_else(Admin::default, |address| Admin { address })
}

const ADDRESS_HINT: &str = "an IP address and a port, such as 127.0.0.1:5000, 0.0.0.0:5000 or [::]:5000";

fn address(text: &str, path: &str, problems: &mut Problems) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        problems.add(path, format!("`{text}` is no address"), ADDRESS_HINT);
    }
    parsed
}

/// Reports an address that is named twice; the second could not be bound.
pub(super) fn refuse_shared_addresses(listen: &[Listen], admin: &Admin, problems: &mut Problems) {
    const HINT: &str = "give each its own port";
    let is_fixed = |address: &SocketAddr| address.port() != 0;
    for (index, one) in listen.iter().enumerate().filter(|(_, one)| is_fixed(&one.address)) {
        if listen.iter().take(index).any(|earlier| earlier.address == one.address) {
            problems.add(format!("listen[{index}].address"), format!("{} is listened on already", one.address), HINT);
        }
        if one.address == admin.address {
            problems.add("admin.address", format!("{} is listened on for clients already", admin.address), HINT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_is_reached_on_loopback() {
        for (bound, reached) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")] {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}

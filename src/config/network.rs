//! How an upstream is reached: client certificates, and where it may lead.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::problems::Problems;
use super::raw::RawClientCertificate;
use super::shapes::{List, Text};
use super::upstream_address;

/// The files of a client certificate, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, the own one first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Private addresses to which an upstream's redirects and realms may lead. Default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateHosts {
    /// Names, in lower case.
    pub hosts: Vec<String>,
    /// Networks; a single address is one.
    pub networks: Vec<IpNet>,
}

pub(super) fn validate_certificate(
    raw: RawClientCertificate,
    path: &str,
    directory: &Path,
    problems: &mut Problems,
) -> Option<ClientCertificate> {
    let mut file = |key: &str, text: Option<Text>| {
        let path = format!("{path}.{key}");
        let Some(text) = text else {
            problems.add(path, "is missing", "the path of a PEM file");
            return None;
        };
        let file = directory.join(text.0);
        problems.check_readable(&path, &file);
        Some(file)
    };
    let (certificate, key) = (file("certificate", raw.certificate), file("key", raw.key));
    Some(ClientCertificate { certificate: certificate?, key: key? })
}

pub(super) fn validate_private_hosts(raw: Option<List<Text>>, path: &str, problems: &mut Problems) -> PrivateHosts {
    let mut found = PrivateHosts::default();
    for (path, Text(text)) in raw.into_iter().flat_map(|raw| raw.entries(path)) {
        if let Some(network) = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            found.networks.push(network.trunc());
        } else if let Some((host, None)) = upstream_address::parse_authority(&text) {
            found.hosts.push(host);
        } else {
            problems.add(
                path,
                format!("`{text}` is no host and no network"),
                "a host without a port, such as minio.internal, or a network, such as 10.1.0.0/16",
            );
        }
    }
    found
}

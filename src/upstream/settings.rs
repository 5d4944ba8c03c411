//! What an endpoint is built from: plain data.

use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{CredentialSource, Proxies};

/// A user name and password for an upstream.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The name; not secret.
    pub username: String,
    /// The password, access token or key.
    pub password: SecretString,
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl Eq for Credential {}

/// Everything that makes an upstream what it is. Rules whose settings are equal may share one
/// endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Scheme (http or https), host, port and base path; `/v2/` follows the path.
    pub base: Url,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Sent to the upstream's realm, or to the upstream where it asks for Basic. Nowhere else.
    pub credential: Option<CredentialSource>,
    /// Further hosts, as `host` or `host:port`, at which a token realm of this upstream may be.
    pub realms: Vec<String>,
    /// Shown to the upstream itself where it asks for one. To no other host.
    pub client_certificate: Option<ClientCertificate>,
    /// Hosts, without a port, at which redirects and realms may lead to private addresses.
    pub private_hosts: Vec<String>,
    /// Private networks to which they may.
    pub private_networks: Vec<IpNet>,
    /// Through which it is reached.
    pub proxies: Proxies,
    /// Limits in time, number and size.
    pub limits: UpstreamLimits,
}

impl UpstreamSettings {
    /// An upstream that is asked anonymously and directly.
    #[must_use]
    pub fn of(base: Url) -> Self {
        Self {
            base,
            ca_pem: None,
            credential: None,
            realms: Vec::new(),
            client_certificate: None,
            private_hosts: Vec::new(),
            private_networks: Vec::new(),
            proxies: Proxies::default(),
            limits: UpstreamLimits::default(),
        }
    }
}

/// A certificate by which an upstream knows this server.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The chain in PEM, the own one first, and the private key.
    pub pem: SecretString,
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.pem.expose_secret() == other.pem.expose_secret()
    }
}

impl Eq for ClientCertificate {}

/// Every wait, number and size of the client has its limit here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// For a connection, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// From a request to the head of its answer. Default 10 s.
    pub head_timeout: Duration,
    /// For a whole exchange: tokens, redirects, and for manifests and pages of tags the body too;
    /// for blobs up to the head. Default 30 s.
    pub manifest_timeout: Duration,
    /// A body that yields less than [`Self::min_progress_bytes`] in this time is broken. Default 10 s.
    pub stall_timeout: Duration,
    /// See [`Self::stall_timeout`]. Default 4 KiB.
    pub min_progress_bytes: u64,
    /// Redirects followed for one request. Default 5.
    pub max_redirects: usize,
    /// How long requests are held off after a first failure; doubles with each further one. Default 1 s.
    pub circuit_cooldown: Duration,
    /// The longest such time. Default 60 s.
    pub circuit_max_cooldown: Duration,
    /// The longest time a `Retry-After` holds requests off. Default 1 h.
    pub max_retry_after: Duration,
    /// How often, at most, an upstream whose quota is used up, or under a rule's floor, is asked what is
    /// left. Default 60 s.
    pub quota_probe: Duration,
    /// Failures in a row after which fetches are held off too, not only revalidations. Default 3.
    pub circuit_open_failures: u32,
    /// Pages of one list of tags. Default 100.
    pub max_tag_pages: usize,
    /// Tags of one repository. Default 100 000.
    pub max_tags: usize,
    /// One page of tags, in bytes. Default 16 MiB: some registries send all tags on one page.
    pub max_tag_page_bytes: usize,
    /// Pages of one list of referrers. Default 100.
    pub max_referrer_pages: usize,
    /// Referrers of one manifest. Default 10 000.
    pub max_referrers: usize,
    /// What is kept of them, in bytes. Default 16 MiB.
    pub max_referrers_bytes: usize,
    /// One blob, in bytes, where its length is not known otherwise. Default 256 GiB.
    pub max_blob_bytes: u64,
    /// The answer of a token realm, in bytes. Default 64 KiB.
    pub max_token_bytes: usize,
    /// Tokens remembered, one for each repository in use. Default 10 000.
    pub max_tokens: u64,
    /// What is remembered of where blobs were redirected to, in bytes. Default 4 MiB.
    pub max_landings_bytes: u64,
    /// As much of an error's body is read, in bytes, to quote it. Default 16 KiB.
    pub max_error_bytes: usize,
    /// Idle connections kept for each host. Default 32.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept. Default 60 s.
    pub idle_timeout: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            manifest_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            min_progress_bytes: 4 * 1024,
            max_redirects: 5,
            circuit_cooldown: Duration::from_secs(1),
            circuit_max_cooldown: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(60 * 60),
            quota_probe: Duration::from_secs(60),
            circuit_open_failures: 3,
            max_tag_pages: 100,
            max_tags: 100_000,
            max_tag_page_bytes: 16 * 1024 * 1024,
            max_referrer_pages: 100,
            max_referrers: 10_000,
            max_referrers_bytes: 16 * 1024 * 1024,
            max_blob_bytes: 256 * 1024 * 1024 * 1024,
            max_token_bytes: 64 * 1024,
            max_tokens: 10_000,
            max_landings_bytes: 4 * 1024 * 1024,
            max_error_bytes: 16 * 1024,
            max_idle_connections: 32,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

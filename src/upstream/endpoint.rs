//! What all rules with the same upstream and credential share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwapOption;
use reqwest::Url;
use secrecy::ExposeSecret;
use thiserror::Error;

use super::admission::Circuit;
use super::challenge::Challenge;
use super::landings::Landings;
use super::reach::Reach;
use super::source_id::Asker;
use super::token::Tokens;
use super::transport::Transport;
use super::{Allowances, ClientCertificate, CredentialStore, CredentialStores, SourceId, UpstreamSettings, address, certificate_name};
use crate::clock::Clock;

/// Connections, tokens and circuit of one upstream under one credential.
pub struct Endpoint {
    pub(super) settings: UpstreamSettings,
    pub(super) source: SourceId,
    pub(super) transport: Arc<Transport>,
    /// Where redirects and realms may lead.
    pub(super) reach: Arc<Reach>,
    pub(super) tokens: Tokens,
    /// What the upstream asked for last.
    pub(super) challenge: ArcSwapOption<Challenge>,
    /// HEADs of blobs are refused though they may be had: ask for one byte at once.
    pub(super) refuses_blob_heads: AtomicBool,
    /// Who asks; none is anybody.
    pub(super) credentials: Option<Arc<CredentialStore>>,
    /// Where redirects of blobs led.
    pub(super) landings: Landings,
    pub(super) circuit: Arc<Circuit>,
    pub(super) clock: Clock,
}

/// Why an endpoint cannot be built from its settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UpstreamBuildError {
    /// Not http or https, no host, or with a user name, query or fragment.
    #[error("{0} is no base of an upstream: it is written http(s)://host[:port][/path]")]
    Base(String),
    /// The CA certificates cannot be read.
    #[error("the CA certificates of the upstream cannot be read: {0}")]
    Certificate(String),
    /// The user name holds a ':' (RFC 7617 §2).
    #[error("the upstream's user name holds a ':'")]
    Username,
    /// The client certificate or its key cannot be read.
    #[error("the client certificate for the upstream, or its key, cannot be used: {0}")]
    ClientCertificate(String),
    /// The proxy of the upstream is asked over TLS, with the same keys.
    #[error(
        "a client certificate would be shown to the proxy too, which is asked over TLS: name the proxy by http:// or socks5://, or the upstream in NO_PROXY"
    )]
    CertificateForProxy,
    /// This variable names no proxy. Its value may hold a password.
    #[error(
        "{0} (or ALL_PROXY, in its place) names no proxy that can be used: it is written http://host:port, https://host:port, socks5://host:port, or socks5h://host:port where the proxy resolves names"
    )]
    Proxy(&'static str),
    /// The HTTP client cannot be set up, e.g. for want of system certificates.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

impl Endpoint {
    /// Builds an endpoint, with a store of its credentials among `stores`, and what upstream said to its
    /// source among `allowances`; connects to nothing yet.
    ///
    /// # Errors
    /// When base, credential or certificates cannot be used.
    pub fn new(
        settings: UpstreamSettings,
        stores: &CredentialStores,
        allowances: &Allowances,
        clock: Clock,
    ) -> Result<Arc<Self>, UpstreamBuildError> {
        let base = &settings.base;
        let is_plain = base.username().is_empty() && base.password().is_none() && base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_plain {
            return Err(UpstreamBuildError::Base(address::shown(base)));
        }
        let reach = Arc::new(Reach::new(&settings));
        let transport = Arc::new(Transport::new(&settings, &reach)?);
        let credentials = settings.credential.as_ref().map(|source| stores.of(source)).transpose()?;
        let login = credentials.as_ref().map(|credentials| credentials.source().identity());
        let certificate = settings.client_certificate.as_ref().map(named_by).transpose()?;
        let source = SourceId::new(base, Asker { login: login.as_deref(), certificate: certificate.as_deref() });
        Ok(Arc::new(Self {
            circuit: Circuit::new(address::host_and_port(base), &settings.limits, allowances.of(&source, &settings.limits), clock.clone()),
            source,
            transport,
            reach,
            tokens: Tokens::new(settings.limits.max_tokens),
            challenge: ArcSwapOption::empty(),
            refuses_blob_heads: AtomicBool::new(false),
            credentials,
            landings: Landings::new(settings.limits.max_landings_bytes),
            clock,
            settings,
        }))
    }

    /// Which upstream, and as whom.
    #[must_use]
    pub fn source(&self) -> &SourceId {
        &self.source
    }

    /// The settings it was built from.
    #[must_use]
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// `<base>/v2/<path>`. Names, tags and digests need no escaping.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.settings.base.clone();
        let base_path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base_path}/v2/{path}"));
        url
    }
}

/// Whom a certificate names.
fn named_by(certificate: &ClientCertificate) -> Result<String, UpstreamBuildError> {
    let unreadable = || UpstreamBuildError::ClientCertificate("there is no certificate in it that can be read".to_owned());
    certificate_name::of_pem(certificate.pem.expose_secret().as_bytes()).ok_or_else(unreadable)
}

//! What all rules with the same upstream and credential share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use thiserror::Error;

use super::admission::Circuit;
use super::challenge::Challenge;
use super::landings::Landings;
use super::token::Tokens;
use super::transport::Transport;
use super::{Credential, SourceId, UpstreamSettings, address};
use crate::clock::Clock;

/// Connections, tokens and circuit of one upstream under one credential.
pub struct Endpoint {
    pub(super) settings: UpstreamSettings,
    pub(super) source: SourceId,
    pub(super) transport: Arc<Transport>,
    pub(super) tokens: Tokens,
    /// What the upstream asked for last.
    pub(super) challenge: ArcSwapOption<Challenge>,
    /// HEADs of blobs are refused though they may be had: ask for one byte at once.
    pub(super) refuses_blob_heads: AtomicBool,
    /// Where redirects of blobs led.
    pub(super) landings: Landings,
    /// The name and password as a header.
    pub(super) basic: Option<HeaderValue>,
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
    /// The HTTP client cannot be set up, e.g. for want of system certificates.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

impl Endpoint {
    /// Builds an endpoint; connects to nothing yet.
    ///
    /// # Errors
    /// When base, credential or certificates cannot be used.
    pub fn new(settings: UpstreamSettings, clock: Clock) -> Result<Arc<Self>, UpstreamBuildError> {
        let base = &settings.base;
        let is_plain = base.username().is_empty() && base.password().is_none() && base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_plain {
            return Err(UpstreamBuildError::Base(address::shown(base)));
        }
        let transport = Arc::new(Transport::new(&settings)?);
        let basic = settings.credential.as_ref().map(basic_header).transpose()?;
        let username = settings.credential.as_ref().map(|credential| credential.username.as_str());
        Ok(Arc::new(Self {
            source: SourceId::new(base, username),
            transport,
            tokens: Tokens::new(settings.limits.max_tokens),
            challenge: ArcSwapOption::empty(),
            refuses_blob_heads: AtomicBool::new(false),
            landings: Landings::new(),
            basic,
            circuit: Arc::new(Circuit::new(address::host_and_port(base), &settings.limits, clock.clone())),
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

fn basic_header(credential: &Credential) -> Result<HeaderValue, UpstreamBuildError> {
    if credential.username.contains(':') {
        return Err(UpstreamBuildError::Username);
    }
    let pair = format!("{}:{}", credential.username, credential.password.expose_secret());
    let value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)));
    let mut value = value.map_err(|_| UpstreamBuildError::Username)?;
    value.set_sensitive(true);
    Ok(value)
}

//! The connections of an endpoint, and requests as they go over the wire: one request, one head.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method, Request, Response, Url};
use tokio::time::timeout;

use super::{Unavailability, UpstreamBuildError, UpstreamError, UpstreamLimits, UpstreamSettings, address};

/// Which connections a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Manifests, tags and tokens: small answers, HTTP/2 where it is spoken.
    Small,
    /// Blobs: HTTP/1.1, so that each has a connection and a flow window of its own.
    Blobs,
}

/// The HTTP clients. Redirects are not followed here, and no total time limit is set: a blob takes
/// as long as it makes progress.
pub(super) struct Transport {
    small: Client,
    blobs: Client,
    head_timeout: Duration,
}

impl Transport {
    pub(super) fn new(settings: &UpstreamSettings) -> Result<Self, UpstreamBuildError> {
        let build = |builder: ClientBuilder| builder.build().map_err(|error| UpstreamBuildError::Client(reason(&error)));
        Ok(Self {
            small: build(builder(settings)?)?,
            blobs: build(builder(settings)?.http1_only())?,
            head_timeout: settings.limits.head_timeout,
        })
    }

    /// Sends one request and waits for the head of its answer, whatever the status.
    ///
    /// # Errors
    /// [`UpstreamError::Unavailable`] when there is none.
    pub(super) async fn send(&self, lane: Lane, method: Method, url: &Url, headers: HeaderMap) -> Result<Response, UpstreamError> {
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        let client = match lane {
            Lane::Small => &self.small,
            Lane::Blobs => &self.blobs,
        };
        match timeout(self.head_timeout, client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unavailable(&error, url)),
            Err(_) => Err(UpstreamError::unavailable(
                Unavailability::Timeout,
                format!("{} did not answer within {:?}", address::shown(url), self.head_timeout),
            )),
        }
    }
}

/// A client of other replicas: past every proxy, with an answer or a refusal of the connection soon.
pub(super) fn direct(limits: &UpstreamLimits, connect_timeout: Duration) -> Result<Client, UpstreamBuildError> {
    let builder = common(limits).connect_timeout(connect_timeout).no_proxy().http1_only();
    builder.build().map_err(|error| UpstreamBuildError::Client(reason(&error)))
}

fn common(limits: &UpstreamLimits) -> ClientBuilder {
    Client::builder()
        .user_agent(HeaderValue::from_static(concat!("headpond/", env!("CARGO_PKG_VERSION"))))
        .redirect(Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(limits.connect_timeout)
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.max_idle_connections)
}

fn builder(settings: &UpstreamSettings) -> Result<ClientBuilder, UpstreamBuildError> {
    let mut builder = common(&settings.limits);
    if let Some(pem) = &settings.ca_pem {
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| UpstreamBuildError::Certificate(reason(&error)))?;
        if certificates.is_empty() {
            return Err(UpstreamBuildError::Certificate("there is no certificate in it".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    // HTTP_PROXY, HTTPS_PROXY and NO_PROXY are honoured, but no proxy knows this machine's loopback.
    let is_loopback = settings.base.host_str().is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127."));
    Ok(if is_loopback { builder.no_proxy() } else { builder })
}

/// A failure of the HTTP client, before or within an answer.
pub(super) fn unavailable(error: &reqwest::Error, url: &Url) -> UpstreamError {
    let kind = if error.is_connect() {
        Unavailability::Connect
    } else if error.is_timeout() {
        Unavailability::Timeout
    } else {
        Unavailability::Broken
    };
    let what = match kind {
        Unavailability::Connect => "cannot be connected to",
        Unavailability::Timeout => "did not answer in time",
        Unavailability::Broken
        | Unavailability::Status(_)
        | Unavailability::CircuitOpen
        | Unavailability::QuotaFloor
        | Unavailability::Credentials => "broke off",
    };
    UpstreamError::unavailable(kind, format!("{} {what} ({})", address::shown(url), reason(error)))
}

/// The innermost cause: the outer ones repeat the URL, with its query.
fn reason(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut innermost = None;
    while let Some(inner) = cause {
        innermost = Some(inner.to_string());
        cause = inner.source();
    }
    innermost.unwrap_or_else(|| if error.is_builder() { "the client cannot be built".to_owned() } else { "no cause given".to_owned() })
}

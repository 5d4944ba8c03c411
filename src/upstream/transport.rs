//! The connections of an endpoint, and requests as they go over the wire: one request, one head.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, Request, Response, Url};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::proxies::is_loopback;
use super::reach::{CheckedNames, PrivateAddress, Reach};
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
    base: Url,
    /// To the upstream's own origin.
    home: Lanes,
    /// To wherever redirects and realms lead: without the client certificate.
    away: Lanes,
    head_timeout: Duration,
}

/// A client for each lane.
#[derive(Clone)]
struct Lanes {
    small: Client,
    blobs: Client,
}

impl Lanes {
    fn new(settings: &UpstreamSettings, reach: &Arc<Reach>, identity: Option<&Identity>) -> Result<Self, UpstreamBuildError> {
        let builder = || {
            let builder = builder(settings, reach)?;
            Ok(match identity {
                // What NO_PROXY names is not left to be read twice: no proxy may come to ask for the certificate.
                Some(identity) if settings.proxies.of(&settings.base).is_none() => builder.no_proxy().identity(identity.clone()),
                Some(identity) => builder.identity(identity.clone()),
                None => builder,
            })
        };
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|error| match identity {
                Some(_) => UpstreamBuildError::ClientCertificate(reason(&error)),
                None => UpstreamBuildError::Client(reason(&error)),
            })
        };
        Ok(Self { small: build(builder()?)?, blobs: build(builder()?.http1_only())? })
    }
}

impl Transport {
    pub(super) fn new(settings: &UpstreamSettings, reach: &Arc<Reach>) -> Result<Self, UpstreamBuildError> {
        let away = Lanes::new(settings, reach, None)?;
        let home = match &settings.client_certificate {
            None => away.clone(),
            // The HTTP client has one set of keys for a proxy and for what is behind it.
            Some(_) if settings.proxies.of(&settings.base).is_some_and(|proxy| proxy.scheme() == "https") => {
                return Err(UpstreamBuildError::CertificateForProxy);
            }
            Some(certificate) => {
                let identity = Identity::from_pem(certificate.pem.expose_secret().as_bytes());
                let identity = identity.map_err(|error| UpstreamBuildError::ClientCertificate(reason(&error)))?;
                Lanes::new(settings, reach, Some(&identity))?
            }
        };
        Ok(Self { base: settings.base.clone(), home, away, head_timeout: settings.limits.head_timeout })
    }

    /// Sends one request and waits for the head of its answer, whatever the status.
    ///
    /// # Errors
    /// [`UpstreamError::Unavailable`] when there is none.
    pub(super) async fn send(&self, lane: Lane, method: Method, url: &Url, headers: HeaderMap) -> Result<Response, UpstreamError> {
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        let lanes = if address::same_origin(&self.base, url) { &self.home } else { &self.away };
        let client = match lane {
            Lane::Small => &lanes.small,
            Lane::Blobs => &lanes.blobs,
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

fn builder(settings: &UpstreamSettings, reach: &Arc<Reach>) -> Result<ClientBuilder, UpstreamBuildError> {
    let mut builder = common(&settings.limits).dns_resolver(CheckedNames(Arc::clone(reach)));
    if let Some(pem) = &settings.ca_pem {
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| UpstreamBuildError::Certificate(reason(&error)))?;
        if certificates.is_empty() {
            return Err(UpstreamBuildError::Certificate("there is no certificate in it".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder = builder.no_proxy();
    let proxies = if settings.base.host_str().is_some_and(is_loopback) { Vec::new() } else { settings.proxies.build()? };
    Ok(proxies.into_iter().fold(builder, ClientBuilder::proxy))
}

/// A failure of the HTTP client, before or within an answer.
pub(super) fn unavailable(error: &reqwest::Error, url: &Url) -> UpstreamError {
    if let Some(private) = causes(error).find_map(|cause| cause.downcast_ref::<PrivateAddress>()) {
        return UpstreamError::lied(format!("{} cannot be asked: {private}", address::shown(url)));
    }
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

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// The innermost cause: the outer ones repeat the URL, with its query.
fn reason(error: &reqwest::Error) -> String {
    causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_else(|| if error.is_builder() { "the client cannot be built".to_owned() } else { "no cause given".to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A name like any other to the client: only where it is resolved it shows where it leads.
    #[tokio::test]
    async fn a_name_at_a_private_address_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = Url::parse(&format!("http://localhost:{}/x?signature=secret", listener.local_addr().unwrap().port())).unwrap();
        let mut settings = UpstreamSettings::of(Url::parse("https://registry.example").unwrap());
        // A proxy that leaves names to be resolved here changes nothing.
        for proxy in [None, Some(format!("socks5://127.0.0.1:{}", listener.local_addr().unwrap().port()))] {
            settings.proxies.http = proxy;
            let transport = Transport::new(&settings, &Arc::new(Reach::new(&settings))).unwrap();
            for lane in [Lane::Small, Lane::Blobs] {
                let error = transport.send(lane, Method::GET, &url, HeaderMap::new()).await.unwrap_err();
                let UpstreamError::Lied { detail } = error else { panic!("{error}") };
                assert!(detail.contains("localhost is at") && detail.contains("`private_hosts`") && !detail.contains("secret"), "{detail}");
            }
        }
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "something connected");
    }
}

//! A request, from its first line to its answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;

use super::delivery::Deliveries;
use super::error::HttpError;
use super::error_response::error_response;
use super::replica;
use super::request_record::{RecordedBody, RequestRecord};
use super::route::{self, Route};
use super::server::ClientAddress;
use super::v2;
use super::v2::paging::parameter;
use crate::access::{Action, Authenticator, Authorized, Authorizer, Principal, RequestLine, Sight};
use crate::oci::RepositoryName;
use crate::registry::Registry;
use crate::rules::{RuleTable, Target};
use crate::telemetry::metrics::Metrics;

/// On every answer, as Distribution and ECR do.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// The registry a mirror answers for (containerd).
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// The registry and everything that stands before it, replaced as a whole on reload.
pub struct Gate {
    /// Names to targets.
    pub rules: RuleTable,
    /// Who asks.
    pub authenticator: Authenticator,
    /// Whether they may.
    pub authorizer: Authorizer,
    /// What serves them, with the upstreams of those same rules.
    pub registry: Registry,
}

/// The client ports' service; cheap to clone, which every request does.
#[derive(Clone)]
pub struct Edge {
    parts: Arc<EdgeParts>,
}

struct EdgeParts {
    gate: ArcSwap<Gate>,
    deliveries: Deliveries,
    metrics: Metrics,
}

impl Edge {
    /// A service behind `gate`.
    #[must_use]
    pub fn new(gate: Gate, metrics: Metrics) -> Self {
        let gate = ArcSwap::from_pointee(gate);
        Self { parts: Arc::new(EdgeParts { gate, deliveries: Deliveries::default(), metrics }) }
    }

    /// Puts another gate in place; requests under way end with the one they began with.
    pub fn reload(&self, gate: Gate) {
        self.parts.gate.store(Arc::new(gate));
    }
}

impl EdgeParts {
    /// Answers a request.
    async fn serve(&self, request: Request<Incoming>) -> Response<RecordedBody> {
        // No route reads a body; one that is sent is not waited for.
        let (parts, _) = request.into_parts();
        let client = parts.extensions.get::<ClientAddress>().map(|client| client.0.ip());
        let mut record = RequestRecord::begin(self.metrics.clone(), &parts.method, &parts.uri, client);
        let gate = self.gate.load_full();
        let mut response = self.answer(&gate, &parts, &mut record).await.unwrap_or_else(|error| {
            let mut response = error_response(&error);
            replica::tell_refusal(&error, &record, &mut response);
            record.error(error.to_string());
            response
        });
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        if parts.method == Method::HEAD {
            take_body(&mut response);
        }
        replica::prove(gate.authenticator.replica_key(), &parts.method, &record, &mut response);
        record.follow(response)
    }

    async fn answer(&self, gate: &Gate, parts: &Parts, record: &mut RequestRecord) -> Result<Response<Body>, HttpError> {
        let route = route::parse(&parts.method, &parts.uri)?;
        record.route(route.kind());
        let is_head = parts.method == Method::HEAD;
        let headers = &parts.headers;
        let query = parts.uri.query().unwrap_or_default();
        let ns = parameter(query, "ns");
        let (registry, ns) = (&gate.registry, ns.as_deref());
        let mut response = match &route {
            Route::Base => {
                self.authenticate(gate, parts, record).await?;
                v2::base::base()
            }
            Route::Catalog => {
                let principal = self.authenticate(gate, parts, record).await?;
                v2::catalog::get(registry, &Sight::new(&gate.rules, gate.authorizer, &principal), query).await?
            }
            Route::Manifest { name, reference } => {
                let action = v2::action(v2::demand(headers));
                let target = self.admit(gate, parts, name, ns, action, record).await?;
                if is_head {
                    v2::manifest::head(registry, target, reference, headers, record).await?
                } else {
                    v2::manifest::get(registry, target, reference, headers, record).await?
                }
            }
            Route::Blob { name, digest } => {
                let target = self.admit(gate, parts, name, ns, Action::Pull, record).await?;
                if is_head {
                    v2::blob::head(registry, target, digest, headers, record).await?
                } else {
                    v2::blob::get(registry, &self.deliveries, target, digest, headers, record).await?
                }
            }
            Route::Referrers { name, subject } => {
                let target = self.admit(gate, parts, name, ns, Action::Pull, record).await?;
                v2::referrers::get(registry, target, name, subject, query, record).await?
            }
            Route::TagsList { name } => {
                let target = self.admit(gate, parts, name, ns, Action::Pull, record).await?;
                v2::tags_list::get(registry, target, name, query, record).await?
            }
        };
        if let Some(ns) = ns.and_then(|ns| HeaderValue::from_str(ns).ok()) {
            response.headers_mut().insert(OCI_NAMESPACE, ns);
        }
        Ok(response)
    }

    /// Who asks → what for, canonically → may they.
    async fn admit(
        &self,
        gate: &Gate,
        parts: &Parts,
        name: &RepositoryName,
        ns: Option<&str>,
        action: Action,
        record: &mut RequestRecord,
    ) -> Result<Authorized<Target>, HttpError> {
        let principal = self.authenticate(gate, parts, record).await?;
        let target = gate.rules.resolve(name, ns)?;
        record.target(&target);
        Ok(gate.authorizer.authorize(&principal, action, target)?.unattended(replica::is_unattended(&parts.headers)))
    }

    async fn authenticate(&self, gate: &Gate, parts: &Parts, record: &mut RequestRecord) -> Result<Principal, HttpError> {
        let authorization = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let client = parts.extensions.get::<ClientAddress>().map_or(UNKNOWN_CLIENT, |client| client.0.ip());
        let authenticated = gate.authenticator.authenticate(authorization, client, line(parts)).await;
        let principal = authenticated.inspect_err(|_| self.metrics.authenticated("refused"))?;
        self.metrics.authenticated(match &principal {
            Principal::Anonymous { .. } => "anonymous",
            Principal::User { .. } => "accepted",
            Principal::Replica(_) => "replica",
        });
        record.principal(&principal);
        Ok(principal)
    }
}

/// What is asked, as another replica would have signed it.
fn line(parts: &Parts) -> RequestLine<'_> {
    RequestLine {
        method: parts.method.as_str(),
        path_and_query: parts.uri.path_and_query().map_or("", PathAndQuery::as_str),
        host: parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Takes the body off the answer to a HEAD, and leaves its length: over HTTP/2 hyper would send it.
fn take_body(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// For requests that came through no listener of ours.
const UNKNOWN_CLIENT: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

impl tower::Service<Request<Incoming>> for Edge {
    type Response = Response<RecordedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { Ok(parts.serve(request).await) })
    }
}

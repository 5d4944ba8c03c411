//! One log line and one observation per request, when its last byte is out or its client gone.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, Response, Uri};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::access::Principal;
use crate::cache::StaleReason;
use crate::cluster::ReplicaRequest;
use crate::registry::{Outcome, Pulled};
use crate::rules::Target;
use crate::telemetry::metrics::Metrics;

/// What is known of a request, gathered while it is answered.
pub(super) struct RequestRecord {
    metrics: Metrics,
    started: Instant,
    method: &'static str,
    route: &'static str,
    uri: Uri,
    client: Option<IpAddr>,
    principal: Option<Principal>,
    target: Option<Target>,
    outcome: Option<Outcome>,
    stale: Option<StaleReason>,
    validated_at: Option<u64>,
    error: Option<String>,
    /// What the client gets elsewhere.
    redirected_bytes: u64,
}

impl RequestRecord {
    /// Begins with what the request line says.
    pub(super) fn begin(metrics: Metrics, method: &Method, uri: &Uri, client: Option<IpAddr>) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            method: method_name(method),
            route: "unknown",
            uri: uri.clone(),
            client,
            principal: None,
            target: None,
            outcome: None,
            stale: None,
            validated_at: None,
            error: None,
            redirected_bytes: 0,
        }
    }

    pub(super) const fn route(&mut self, route: &'static str) {
        self.route = route;
    }

    pub(super) fn principal(&mut self, principal: &Principal) {
        self.principal = Some(principal.clone());
    }

    pub(super) fn target(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// Takes the outcome out of an answer.
    pub(super) fn outcome<T>(&mut self, pulled: Pulled<T>) -> T {
        self.stale = pulled.stale;
        self.validated_at = pulled.validated_at;
        self.outcome = Some(pulled.outcome);
        pulled.value
    }

    pub(super) const fn stale(&self) -> Option<StaleReason> {
        self.stale
    }

    /// When upstream last confirmed what is answered, in unix seconds; only for other replicas.
    pub(super) const fn validated_at(&self) -> Option<u64> {
        self.validated_at
    }

    /// The request, if it is one of another replica.
    pub(super) const fn replica(&self) -> Option<&ReplicaRequest> {
        match &self.principal {
            Some(Principal::Replica(request)) => Some(request),
            Some(Principal::Anonymous { .. } | Principal::User { .. }) | None => None,
        }
    }

    pub(super) fn error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// The client is sent to the bucket for so many bytes.
    pub(super) const fn redirected(&mut self, bytes: u64) {
        self.redirected_bytes = bytes;
    }

    /// Goes with the answer, to its end.
    pub(super) fn follow(self, response: Response<Body>) -> Response<RecordedBody> {
        let status = response.status().as_u16();
        let ttfb = self.started.elapsed();
        self.metrics.http_ttfb.observe(ttfb.as_secs_f64());
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| RecordedBody {
            body,
            length,
            bytes: 0,
            status,
            ttfb_ms: ttfb.as_secs_f64() * 1000.0,
            broken: None,
            complete: false,
            record: self,
        })
    }

    fn end(&self, body: &Ended<'_>) {
        let duration = self.started.elapsed();
        self.metrics.request_answered(self.route, self.method, body.status, duration.as_secs_f64());
        if let Some(outcome) = &self.outcome {
            outcome.metrics.requested(outcome.kind, outcome.result());
            outcome.metrics.sent(outcome.kind, body.bytes);
            outcome.metrics.redirected(outcome.kind, self.redirected_bytes);
        }
        let user = self.principal.as_ref().filter(|principal| !principal.is_anonymous());
        let result = self.outcome.as_ref().map_or("", |outcome| outcome.result().as_str());
        tracing::info!(
            method = self.method,
            path = self.uri.path(),
            route = self.route,
            repository = self.target.as_ref().map_or("", |target| target.repository().as_str()),
            rule = self.target.as_ref().map_or("", Target::rule_label),
            result,
            stale = self.stale.map_or("", StaleReason::as_str),
            status = body.status,
            sent_bytes = body.bytes,
            redirected_bytes = self.redirected_bytes,
            ttfb_ms = body.ttfb_ms,
            duration_ms = duration.as_secs_f64() * 1000.0,
            client = self.client.map(tracing::field::display),
            user = user.map(tracing::field::display),
            error = body.error.or(self.error.as_deref()).unwrap_or_default(),
            "request"
        );
    }
}

/// How a body ended.
struct Ended<'a> {
    status: u16,
    bytes: u64,
    ttfb_ms: f64,
    error: Option<&'a str>,
}

/// Methods as labels: a closed set.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// An answer's body, counted.
pub struct RecordedBody {
    body: Body,
    /// Length by `Content-Length`, where there is one: hyper does not poll for the end then.
    length: Option<u64>,
    bytes: u64,
    status: u16,
    ttfb_ms: f64,
    broken: Option<String>,
    complete: bool,
    record: RequestRecord,
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => this.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(error)) => this.broken = Some(error.to_string()),
            None => this.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RecordedBody {
    fn drop(&mut self) {
        let is_complete = self.complete || self.length == Some(self.bytes) || self.body.is_end_stream();
        let left_early = || (!is_complete && self.record.method == "GET").then_some("the client left");
        let error = self.broken.as_deref().or_else(left_early);
        self.record.end(&Ended { status: self.status, bytes: self.bytes, ttfb_ms: self.ttfb_ms, error });
    }
}

//! The admin port: health and metrics, for probes and Prometheus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::telemetry::metrics::Metrics;

/// Whether this server wants new clients; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Says whether this server wants new clients.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Metrics,
}

/// `/healthz`, `/readyz`, `/metrics`. Ready does not depend on any upstream.
pub fn admin_router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { readiness, metrics })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.readiness.get() { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response() }
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    match admin.metrics.expose() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be encoded: {error}\n")).into_response(),
    }
}

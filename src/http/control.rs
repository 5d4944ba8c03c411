//! The control socket: commands to the process that holds a store.
//!
//! `POST /scrub` and `POST /gc`, with their options as JSON. The answer streams one JSON object a
//! line, the run's events, and ends with the run. A client that goes away ends it. Who may open the
//! socket may do this; it is not reachable from another machine.

mod client;

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::upkeep::{Busy, GcOptions, Run, ScrubOptions, Upkeep};

pub use client::{ControlError, ControlEvents, ask_control};

/// Connections at one time; commands are typed by hand.
const MAX_CONNECTIONS: usize = 16;
/// For the head of a request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Options are a few numbers.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Pause after an accept that failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Takes commands until it is dropped, which ends the connections and with them their runs.
///
/// # Errors
/// When the socket cannot be handed to the runtime.
pub async fn serve_control(listener: StdListener, upkeep: Upkeep) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let router = router(upkeep);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(serve_connection(stream, router.clone()))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket, will try again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        // What has ended frees its memory.
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: UnixStream, router: Router) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| router.clone().oneshot(request));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a control connection ended");
    }
}

fn router(upkeep: Upkeep) -> Router {
    Router::new().route("/scrub", post(scrub)).route("/gc", post(gc)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(upkeep)
}

async fn scrub(State(upkeep): State<Upkeep>, Json(options): Json<ScrubOptions>) -> Response {
    answer(upkeep.scrub(options).await)
}

async fn gc(State(upkeep): State<Upkeep>, Json(options): Json<GcOptions>) -> Response {
    answer(upkeep.gc(options).await)
}

/// A refusal, for the terminal of whoever asked.
#[derive(Serialize)]
struct Refusal {
    error: String,
    hint: &'static str,
}

fn answer<R: Serialize + Send + 'static>(begun: Result<Run<R>, Busy>) -> Response {
    match begun {
        Ok(run) => ([(CONTENT_TYPE, "application/x-ndjson")], body(run)).into_response(),
        Err(busy) => {
            let refusal = Refusal { error: busy.to_string(), hint: "wait for it to end, or end the command that began it" };
            (StatusCode::CONFLICT, Json(refusal)).into_response()
        }
    }
}

/// The events of a run, a line each.
fn body<R: Serialize + Send + 'static>(run: Run<R>) -> Body {
    let lines = stream::unfold(run, |mut run| async move {
        let event = run.next().await?;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), run))
    });
    Body::from_stream(lines)
}

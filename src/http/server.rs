//! The accept loops, the limit on connections, and their end.
//!
//! `axum::serve` is not used: it does TLS handshakes on the accept loop, and has neither a deadline
//! for draining nor limits per connection.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http_body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::connection::{self, ConnectionSettings};
pub use super::connection::{ClientAddress, Scheme};
use super::listener::BoundListener;
use crate::config::Limits;

/// Pause after an accept that failed for want of a resource (file descriptors, memory): trying
/// again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they had not ended by the drain deadline.
    pub cut_connections: usize,
}

/// Serves `service` on all `listeners` until `shutdown`; then stops accepting, lets the requests
/// under way end, and cuts what is left after `limits.drain_deadline`.
///
/// Every request carries [`ClientAddress`] and [`Scheme`] as extensions.
pub async fn serve<S, B>(listeners: Vec<BoundListener>, service: S, limits: &Limits, shutdown: CancellationToken) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let loops = listeners.into_iter().map(|listener| {
        let settings = ConnectionSettings::new(limits, listener.tls, listener.proxy_protocol);
        accept(
            listener.socket,
            Accepting { settings, service: service.clone(), connections: &connections, places: &places, cut: &cut },
            &shutdown,
        )
    });
    join_all(loops).await;
    connections.close();
    let in_time = tokio::time::timeout(limits.drain_deadline, connections.wait()).await.is_ok();
    let cut_connections = if in_time { 0 } else { connections.len() };
    cut.cancel();
    connections.wait().await;
    Drained { cut_connections }
}

/// What an accept loop needs for each connection.
struct Accepting<'a, S> {
    settings: ConnectionSettings,
    service: S,
    connections: &'a TaskTracker,
    places: &'a Arc<Semaphore>,
    cut: &'a CancellationToken,
}

/// Accepts until `shutdown`; the socket is closed on return, so that new connections are refused at once.
async fn accept<S, B>(socket: TcpListener, accepting: Accepting<'_, S>, shutdown: &CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let next = async || {
        // The place first: what cannot be served waits in the kernel's queue, not in memory.
        let place = Arc::clone(accepting.places).acquire_owned().await.map_err(io::Error::other)?;
        socket.accept().await.map(|(stream, peer)| (stream, peer, place))
    };
    while let Some(accepted) = shutdown.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, peer, place)) => {
                // Only fails on a socket that is closed already, which the first read will say.
                let _ = stream.set_nodelay(true);
                let serve = connection::serve(stream, peer, accepting.settings.clone(), accepting.service.clone(), shutdown.clone());
                let cut = accepting.cut.clone();
                accepting.connections.spawn(async move {
                    let _place = place;
                    cut.run_until_cancelled_owned(serve).await;
                });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections, will try again");
                shutdown.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Whether the error is about the one connection, which was gone before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

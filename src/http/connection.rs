//! One connection, from its first byte to its last: PROXY header, TLS, HTTP.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use thiserror::Error as ThisError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::activity::{ActiveStream, Activity, GuardedBody, Waits};
use super::proxy_protocol::{self, ProxyProtocolError};
use super::tls::TlsContext;
use crate::config::Limits;

/// Requests of one HTTP/2 connection at one time.
const MAX_STREAMS: u32 = 250;
/// What a client may send unread on one stream; requests of a pull have no body to speak of.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// What it may send unread on all streams together.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What is queued for a slow reader of one stream.
const STREAM_SEND_BYTES: usize = 64 * 1024;
/// HTTP/2 pings after this long without a frame, so that dead peers are found.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// For the answer to a ping; and for a connection to end once it was told to.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The client's address, as an extension of every request: from the PROXY header where the listener
/// has one, else the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// How the client speaks to the listener, as an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS, ended here.
    Https,
}

/// What the connections of one listener have in common.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSettings {
    builder: Builder<TokioExecutor>,
    waits: Waits,
    handshake_timeout: Duration,
    tls: Option<Arc<TlsContext>>,
    proxy_protocol: bool,
}

impl ConnectionSettings {
    pub(super) fn new(limits: &Limits, tls: Option<Arc<TlsContext>>, proxy_protocol: bool) -> Self {
        let waits = Waits { header_read: limits.header_read_timeout, idle: limits.idle_timeout, client_stall: limits.client_stall_timeout };
        Self { builder: builder(limits), waits, handshake_timeout: limits.tls_handshake_timeout, tls, proxy_protocol }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let max_header_bytes = usize::try_from(limits.max_header_bytes).unwrap_or(usize::MAX).max(8 * 1024);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `Activity` keeps this wait, and tells it from the pause between requests.
        .header_read_timeout(None)
        // The read buffer is what limits a head (431). For writing it means: take a chunk of the body
        // when less than this is unsent, so that a slow reader costs one chunk.
        .max_buf_size(max_header_bytes)
        .half_close(false)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(CLOSE_WAIT);
    builder
}

/// Serves one accepted connection until it ends, or until it has nothing under way after `shutdown`.
pub(super) async fn serve<S, B>(stream: TcpStream, peer: SocketAddr, settings: ConnectionSettings, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Nothing was asked yet, so shutdown may end this part at once.
    match shutdown.run_until_cancelled(open(stream, peer, &settings)).await {
        None => {}
        Some(Ok((client, Opened::Plain(stream)))) => exchange(stream, client, Scheme::Http, &settings, service, shutdown).await,
        Some(Ok((client, Opened::Tls(stream)))) => exchange(stream, client, Scheme::Https, &settings, service, shutdown).await,
        Some(Err(error)) => tracing::debug!(%peer, %error, "connection closed before its first request"),
    }
}

/// A connection on which HTTP starts.
enum Opened {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why HTTP never started.
#[derive(Debug, ThisError)]
enum OpenError {
    #[error(transparent)]
    ProxyProtocol(#[from] ProxyProtocolError),
    #[error("no PROXY header in time")]
    ProxyProtocolTimeout,
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("TLS handshake not completed in time")]
    TlsTimeout,
}

async fn open(mut stream: TcpStream, peer: SocketAddr, settings: &ConnectionSettings) -> Result<(ClientAddress, Opened), OpenError> {
    let wait = settings.handshake_timeout;
    let mut client = peer;
    if settings.proxy_protocol {
        let named = timeout(wait, proxy_protocol::read_client(&mut stream)).await.map_err(|_| OpenError::ProxyProtocolTimeout)?;
        client = named?.unwrap_or(peer);
    }
    let opened = match &settings.tls {
        None => Opened::Plain(stream),
        Some(tls) => {
            let handshake = timeout(wait, tls.acceptor().accept(stream)).await.map_err(|_| OpenError::TlsTimeout)?;
            Opened::Tls(Box::new(handshake.map_err(OpenError::Tls)?))
        }
    };
    Ok((ClientAddress(client), opened))
}

async fn exchange<I, S, B>(
    stream: I,
    client: ClientAddress,
    scheme: Scheme,
    settings: &ConnectionSettings,
    service: S,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let activity = Activity::new(settings.waits);
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |mut request: Request<Incoming>| {
            let guard = activity.request(request.version());
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(scheme);
            let answer = service.clone().oneshot(request);
            async move { answer.await.map(|response| response.map(|body| GuardedBody::new(body, guard))) }
        })
    };
    let io = TokioIo::new(ActiveStream { stream, activity: Arc::clone(&activity) });
    let mut connection = pin!(settings.builder.serve_connection(io, service));
    let mut deadline = pin!(sleep_until(Instant::now()));
    let mut shut_down = pin!(shutdown.cancelled());
    let mut closing = false;
    let ended = poll_fn(|context| {
        if let Poll::Ready(outcome) = connection.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        if !closing && shut_down.as_mut().poll(context).is_ready() {
            closing = true;
            connection.as_mut().graceful_shutdown();
            context.waker().wake_by_ref();
        }
        // All that moves the deadline of an HTTP/1 connection happens in the poll above.
        match activity.deadline() {
            Some(at) if at <= Instant::now() => return Poll::Ready(None),
            Some(at) if at != deadline.deadline() => deadline.as_mut().reset(at),
            None if deadline.is_elapsed() => deadline.as_mut().reset(activity.next_look()),
            Some(_) | None => {}
        }
        if deadline.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    });
    match ended.await {
        None => tracing::debug!(client = %client.0, "connection closed: nothing came, or nothing was taken, in time"),
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(client = %client.0, %error, "connection ended"),
    }
}

//! What a connection is doing, and until when it may go on doing it.
//!
//! hyper's own header timer counts the pause between two requests as part of the next head, and its
//! version sniffing has none; neither sees a client that stops reading. So the one deadline of a
//! connection is kept here, from what goes through its socket and its service.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The waits of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// For the head of a request, once its first byte is there; and for the first one of all.
    pub(super) header_read: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// For a client to take a byte that is ready for it.
    pub(super) client_stall: Duration,
}

/// Shared by a connection's socket, its requests and its task.
#[derive(Debug)]
pub(super) struct Activity {
    waits: Waits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// HTTP/2 sends frames between requests, so a byte does not begin a head there.
    http2: bool,
    write_blocked_since: Option<Instant>,
    /// Since when each HTTP/2 stream has had something that its client has not taken: with no window
    /// left, nothing of it comes near the socket.
    handed: BTreeMap<u64, Instant>,
    last_request: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The head of a request is awaited, and has begun (or is the first one).
    Head { since: Instant },
    /// Requests are being answered.
    Busy { requests: usize },
    /// Nothing is asked.
    Idle { since: Instant },
}

impl Activity {
    pub(super) fn new(waits: Waits) -> Arc<Self> {
        let state = State {
            phase: Phase::Head { since: Instant::now() },
            http2: false,
            write_blocked_since: None,
            handed: BTreeMap::new(),
            last_request: 0,
        };
        Arc::new(Self { waits, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection has to be closed, as things are; `None` while only the server is awaited.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match (state.write_blocked_since, state.phase) {
            (Some(since), _) => Some(since + self.waits.client_stall),
            (None, Phase::Head { since }) => Some(since + self.waits.header_read),
            (None, Phase::Idle { since }) => Some(since + self.waits.idle),
            (None, Phase::Busy { .. }) => state.handed.values().min().map(|since| *since + self.waits.client_stall),
        }
    }

    /// How long to sleep where there is no deadline: HTTP/2 streams end in tasks of their own, which
    /// do not wake the connection's.
    pub(super) fn next_look(&self) -> Instant {
        Instant::now() + self.waits.idle
    }

    /// A request has begun; it ends when the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, version: http::Version) -> RequestGuard {
        let mut state = self.state();
        state.http2 = version == http::Version::HTTP_2;
        let before = if let Phase::Busy { requests } = state.phase { requests } else { 0 };
        state.phase = Phase::Busy { requests: before + 1 };
        state.last_request += 1;
        RequestGuard { activity: Arc::clone(self), id: state.last_request }
    }

    fn request_ended(&self, id: u64) {
        let mut state = self.state();
        state.handed.remove(&id);
        if let Phase::Busy { requests } = state.phase {
            state.phase = if requests > 1 { Phase::Busy { requests: requests - 1 } } else { Phase::Idle { since: Instant::now() } };
        }
    }

    fn bytes_read(&self) {
        let mut state = self.state();
        if let (Phase::Idle { .. }, false) = (state.phase, state.http2) {
            state.phase = Phase::Head { since: Instant::now() };
        }
    }

    fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let mut state = self.state();
        if outcome.is_ready() {
            state.write_blocked_since = None;
        } else {
            state.write_blocked_since.get_or_insert_with(Instant::now);
        }
        drop(state);
        outcome
    }
}

/// Ends its request when dropped: with the body, or when the client is gone.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    id: u64,
}

impl RequestGuard {
    /// The client has something to take. HTTP/1 needs no word of it: what is not taken blocks the socket.
    fn handed(&self) {
        let mut state = self.activity.state();
        if state.http2 {
            state.handed.insert(self.id, Instant::now());
        }
    }

    /// The client has taken it, and the server's next piece is awaited.
    fn taken(&self) {
        let mut state = self.activity.state();
        if state.http2 {
            state.handed.remove(&self.id);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.request_ended(self.id);
    }
}

/// The body of an answer, which holds its request open until it is sent.
#[derive(Debug)]
pub(super) struct GuardedBody<B> {
    body: B,
    guard: RequestGuard,
}

impl<B> GuardedBody<B> {
    /// The body of an answer whose head is about to go out.
    pub(super) fn new(body: B, guard: RequestGuard) -> Self {
        guard.handed();
        Self { body, guard }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.guard.taken();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.guard.handed();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells its connection what goes through it.
#[derive(Debug)]
pub(super) struct ActiveStream<S> {
    pub(super) stream: S,
    pub(super) activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for ActiveStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled_before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > filled_before {
            self.activity.bytes_read();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActiveStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.activity.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.activity.wrote(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.activity.wrote(outcome)
    }
}

//! One port of the fake: it can be closed with all its connections, and opened again. Nobody else is given it meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::State;
use super::journal::HasCertificate;
use super::serve::{self, Role};

/// Small, so that what was handed to a connection was nearly received.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// Opens a free loopback port.
pub(super) fn bind() -> TcpListener {
    listen(reserve(SocketAddr::from(([127, 0, 0, 1], 0))))
}

/// Takes a port, which refuses connections until [`listen`], and which nobody else is given.
fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_send_buffer_size(SEND_BUFFER_BYTES).unwrap(); // inherited by accepted connections
    socket.bind(address).unwrap();
    socket
}

/// Opens a port that was taken.
fn listen(socket: TcpSocket) -> TcpListener {
    socket.listen(1024).unwrap()
}

/// A port and, while it is open, the task that accepts on it.
pub(super) struct Listener {
    role: Role,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// The port while it is closed.
    closed: Mutex<Option<TcpSocket>>,
}

impl Listener {
    pub(super) fn new(role: Role) -> Self {
        Self { role, accepting: Mutex::default(), closed: Mutex::default() }
    }

    pub(super) fn run(&self, listener: TcpListener, state: &Arc<State>) {
        let task = tokio::spawn(accept(listener, self.role, Arc::clone(state)));
        *self.accepting.lock().unwrap() = Some(task);
    }

    pub(super) async fn stop(&self, address: SocketAddr) {
        let task = self.accepting.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await; // the port and the connections are closed when this returns
            *self.closed.lock().unwrap() = Some(reserve(address));
        }
    }

    /// Opens the port again.
    pub(super) fn restart(&self, state: &Arc<State>) {
        let socket = self.closed.lock().unwrap().take().unwrap();
        self.run(listen(socket), state);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.lock().unwrap().take() {
            task.abort();
        }
    }
}

/// Accepts until aborted; connections end with it.
async fn accept(listener: TcpListener, role: Role, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(serve(stream, role, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection to its end. That it breaks is what the faults are for.
async fn serve(stream: TcpStream, role: Role, state: Arc<State>) {
    let acceptor = state.tls.as_ref().map(|tls| match role {
        Role::Registry => tls.acceptor.clone(),
        Role::Cdn => tls.cdn_acceptor.clone(),
    });
    let service = |has_certificate: bool| {
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(HasCertificate(has_certificate));
            serve::answer(Arc::clone(&state), role, request)
        })
    };
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(SEND_BUFFER_BYTES as usize);
    server.http2().max_send_buf_size(SEND_BUFFER_BYTES as usize);
    match acceptor {
        None => drop(server.serve_connection(TokioIo::new(stream), service(false)).await),
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                let has_certificate = stream.get_ref().1.peer_certificates().is_some();
                drop(server.serve_connection(TokioIo::new(stream), service(has_certificate)).await);
            }
        }
    }
}

//! The listening side over real sockets: limits, waits, PROXY protocol, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::get;
use headpond::config::{Limits, Listen, Tls};
use headpond::http::listener::{BindError, BoundListener};
use headpond::http::server::{ClientAddress, Drained, Scheme, serve};
use headpond::http::tls::TlsContext;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

const SHORT: Duration = Duration::from_millis(100);

/// A server on a free port, which ends when this is dropped.
pub(crate) struct Server {
    pub address: SocketAddr,
    pub tls: Option<Arc<TlsContext>>,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<Drained>,
    _guard: DropGuard,
}

#[derive(Default)]
pub(crate) struct Start {
    pub tls: Option<Tls>,
    pub proxy_protocol: bool,
    pub limits: Limits,
}

impl Start {
    pub(crate) async fn with(self, service: Router) -> Server {
        let listen = Listen { address: "127.0.0.1:0".parse().unwrap(), tls: self.tls, proxy_protocol: self.proxy_protocol };
        let listener = BoundListener::bind(&listen).await.unwrap();
        let (address, tls) = (listener.local_address(), listener.tls().cloned());
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let limits = self.limits;
        let ended = tokio::spawn(async move { serve(vec![listener], service, &limits, token).await });
        Server { address, tls, shutdown: shutdown.clone(), ended, _guard: shutdown.drop_guard() }
    }

    pub(crate) async fn with_echo(self) -> Server {
        self.with(echo()).await
    }
}

/// Answers who asked, and how.
pub(crate) fn echo() -> Router {
    let who = |client: Extension<ClientAddress>, scheme: Extension<Scheme>| async move { format!("{} {:?}", client.0.0, scheme.0) };
    Router::new().route("/", get(who))
}

pub(crate) async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Sends one request and reads one answer with a `Content-Length`.
pub(crate) async fn request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    read_answer(stream).await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

/// Reads until the other side closes, orderly or not.
pub(crate) async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn request_carries_address_and_scheme_of_its_client() {
    let server = Start::default().with_echo().await;
    let mut stream = connect(&server).await;
    let answer = request(&mut stream, "/").await;
    assert!(answer.ends_with(&format!("{} Http", stream.local_addr().unwrap())), "{answer}");
}

#[tokio::test]
async fn http2_without_tls_is_served() {
    let server = Start::default().with_echo().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("http://{}/", server.address)).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.text().await.unwrap().ends_with(" Http"));
}

#[tokio::test]
async fn head_that_does_not_come_in_time_is_cut_off() {
    let limits = Limits { header_read_timeout: SHORT, ..Limits::default() };
    let server = Start { limits, ..Start::default() }.with_echo().await;
    for begun in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut stream = connect(&server).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_to_close(&mut stream).await, "", "{begun}");
    }
    let mut stream = connect(&server).await;
    request(&mut stream, "/").await;
    stream.write_all(b"GET / HT").await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "", "the second head of a connection");
}

#[tokio::test]
async fn head_that_drips_is_cut_off() {
    let limits = Limits { header_read_timeout: SHORT, ..Limits::default() };
    let server = Start { limits, ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    let mut tick = tokio::time::interval(SHORT / 10);
    // Ends only when the server has closed: each byte alone would be in time.
    while stream.write_all(b"G").await.is_ok() {
        tick.tick().await;
    }
}

#[tokio::test]
async fn pause_between_requests_is_not_a_slow_head() {
    let limits = Limits { header_read_timeout: SHORT, ..Limits::default() };
    let server = Start { limits, ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    request(&mut stream, "/").await;
    // A silent connection, opened later, is cut off: so longer than that wait has passed.
    read_to_close(&mut connect(&server).await).await;
    request(&mut stream, "/").await;
}

#[tokio::test]
async fn connection_without_a_request_is_closed() {
    let limits = Limits { idle_timeout: SHORT, ..Limits::default() };
    let server = Start { limits, ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    request(&mut stream, "/").await;
    assert_eq!(read_to_close(&mut stream).await, "");
}

/// A body without end, which says when it is dropped.
fn endless(dropped: Arc<Notify>) -> Router {
    struct Says(Arc<Notify>);
    impl Drop for Says {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let answer = move || async move {
        let says = Says(dropped);
        Body::from_stream(futures::stream::repeat_with(move || {
            let _ = &says;
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 64 * 1024]))
        }))
    };
    Router::new().route("/", get(answer))
}

#[tokio::test]
async fn client_that_takes_nothing_is_cut_off() {
    let limits = Limits { client_stall_timeout: SHORT, ..Limits::default() };
    let dropped = Arc::new(Notify::new());
    let server = Start { limits, ..Start::default() }.with(endless(Arc::clone(&dropped))).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    dropped.notified().await;
    drop(stream);
}

#[tokio::test]
async fn http2_client_that_takes_nothing_is_cut_off_though_its_connection_lives() {
    let limits = Limits { client_stall_timeout: SHORT, idle_timeout: SHORT, ..Limits::default() };
    let dropped = Arc::new(Notify::new());
    let server = Start { limits, ..Start::default() }.with(endless(Arc::clone(&dropped))).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().http2_initial_stream_window_size(1024).build().unwrap();
    let answer = client.get(format!("http://{}/", server.address)).send().await.unwrap();
    dropped.notified().await;
    drop(answer);
}

#[tokio::test]
async fn answer_that_takes_longer_than_every_wait_is_not_cut_off() {
    let waits = Limits { header_read_timeout: SHORT, idle_timeout: SHORT, client_stall_timeout: SHORT, ..Limits::default() };
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let slow = Router::new().route("/", get(async move || released.notified().await));
    let server = Start { limits: waits, ..Start::default() }.with(slow).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        read_to_close(&mut connect(&server).await).await;
    }
    release.notify_one();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn oversized_head_is_answered_431() {
    let limits = Limits { max_header_bytes: 16 * 1024, ..Limits::default() };
    let server = Start { limits, ..Start::default() }.with_echo().await;
    let ask = async |padding: usize| {
        let mut stream = connect(&server).await;
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(padding));
        stream.write_all(head.as_bytes()).await.unwrap();
        read_to_close(&mut stream).await
    };
    assert!(ask(15 * 1024).await.starts_with("HTTP/1.1 200"));
    assert!(ask(16 * 1024).await.starts_with("HTTP/1.1 431"));
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("http://{}/", server.address)).header("x", "x".repeat(17 * 1024)).send().await;
    assert!(answer.map_or(true, |answer| answer.status() == 431));
}

#[tokio::test]
async fn connections_past_the_limit_wait_for_a_place() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let second = move || async move { count.fetch_add(1, Ordering::SeqCst).to_string() };
    let server = Start { limits, ..Start::default() }.with(echo().route("/second", get(second))).await;
    let mut holder = connect(&server).await;
    request(&mut holder, "/").await;
    let mut waiting = connect(&server).await;
    waiting.write_all(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    request(&mut holder, "/").await;
    assert_eq!(served.load(Ordering::SeqCst), 0);
    drop(holder);
    assert!(read_answer(&mut waiting).await.ends_with("\r\n\r\n0"));
}

/// Bytes of a PROXY protocol v2 header: 192.0.2.1:12345 to 10.0.0.1:5000 over TCP.
const PROXY_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x13\x88";

#[tokio::test]
async fn proxy_header_names_the_client() {
    let server = Start { proxy_protocol: true, ..Start::default() }.with_echo().await;
    let mut stream = connect(&server).await;
    stream.write_all(PROXY_HEADER).await.unwrap();
    assert!(request(&mut stream, "/").await.ends_with("192.0.2.1:12345 Http"));
    let mut health_check = connect(&server).await;
    health_check.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await.unwrap();
    let answer = request(&mut health_check, "/").await;
    assert!(answer.ends_with(&format!("{} Http", health_check.local_addr().unwrap())), "{answer}");
}

#[tokio::test]
async fn connection_without_its_proxy_header_is_closed() {
    let limits = Limits { tls_handshake_timeout: SHORT, ..Limits::default() };
    let server = Start { proxy_protocol: true, limits, ..Start::default() }.with_echo().await;
    for begun in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n", &PROXY_HEADER[..20], b""] {
        let mut stream = connect(&server).await;
        stream.write_all(begun).await.unwrap();
        assert_eq!(read_to_close(&mut stream).await, "");
    }
}

#[tokio::test]
async fn proxy_header_is_not_believed_unless_asked_for() {
    let server = Start::default().with_echo().await;
    let mut stream = connect(&server).await;
    stream.write_all(&[PROXY_HEADER, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).await.unwrap();
    assert!(!read_to_close(&mut stream).await.contains("192.0.2.1"));
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_refuses_new_connections() {
    let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&release));
    let slow = async move || {
        tell.notify_one();
        wait.notified().await;
        "done"
    };
    let server = Start::default().with(echo().route("/slow", get(slow))).await;
    let mut idle = connect(&server).await;
    request(&mut idle, "/").await;
    let mut silent = connect(&server).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    asked.notified().await;
    server.shutdown.cancel();
    assert_eq!(read_to_close(&mut idle).await, "");
    assert_eq!(read_to_close(&mut silent).await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
    release.notify_one();
    assert!(read_to_close(&mut stream).await.ends_with("done"));
    assert_eq!(server.ended.await.unwrap(), Drained { cut_connections: 0 });
}

#[tokio::test]
async fn what_does_not_end_by_the_drain_deadline_is_cut() {
    let limits = Limits { drain_deadline: SHORT, ..Limits::default() };
    let dropped = Arc::new(Notify::new());
    let server = Start { limits, ..Start::default() }.with(endless(Arc::clone(&dropped))).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.read_u8().await.unwrap();
    server.shutdown.cancel();
    assert_eq!(server.ended.await.unwrap(), Drained { cut_connections: 1 });
    dropped.notified().await;
}

#[tokio::test]
async fn address_in_use_is_named_with_a_hint() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let free = Listen { address: "127.0.0.1:0".parse().unwrap(), tls: None, proxy_protocol: false };
    let refused = BoundListener::bind_all(&[free.clone(), Listen { address, ..free }]).await.unwrap_err();
    assert!(matches!(refused, BindError::Address { .. }));
    let text = refused.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("another process listens there"), "{text}");
}

//! S3 over real HTTP in the test process, with faults and a journal.
//!
//! ```ignore
//! let bucket = FakeBucket::start().await;
//! let server = Headpond::with(&fake, "", &bucket.configuration()).await;
//! bucket.break_with(Fault::Hang);          // every request from now on
//! bucket.break_nth(3, Fault::SlowDown);    // the third request from now on, and no other
//! bucket.break_path("/_tags/1", Fault::SlowDown);  // every request whose path has this in it
//! bucket.hold_parts();                     // no part of an upload gets on until `release_parts`
//! ```

#![allow(dead_code)] // each test uses some of it

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use headpond::storage::{BucketClient, BucketEncryption, BucketLimits, BucketSettings};
use headpond::telemetry::metrics::Metrics;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::PutObjectInput;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Request, S3Result};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{RwLock, watch};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) const BUCKET: &str = "cache";
pub(crate) const ACCESS_KEY: &str = "AKIAEXAMPLE";
pub(crate) const SECRET_KEY: &str = "a-secret-key";

/// What a request meets instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 503 with S3's own words.
    SlowDown,
    /// 403.
    AccessDenied,
    /// Nothing, for as long as the connection is open.
    Hang,
    /// The connection ends before the request is carried out.
    Reset,
    /// The request is carried out, and the connection ends in place of the answer's head.
    LostAnswer,
    /// The answer breaks off in the middle of its body, if it has one.
    Truncate,
    /// The same, and whoever asks for it again is told that it is not there.
    Vanish,
    /// 404.
    NoSuchKey,
    /// The answer is right, and so much late.
    Late(Duration),
    /// The answer is right, and its body comes slowly: with such a pause before every eighth of its pieces.
    Drip(Duration),
}

impl Fault {
    pub(crate) const ALL: [Self; 6] = [Self::SlowDown, Self::AccessDenied, Self::Hang, Self::Reset, Self::LostAnswer, Self::Truncate];
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: hyper::HeaderMap,
}

#[derive(Default)]
struct Plan {
    always: Option<Fault>,
    nth: Option<(usize, Fault)>,
    of_path: Option<(String, Fault)>,
    /// Since the plan was made.
    calls: usize,
    has_broken: bool,
    journal: Vec<Call>,
}

/// What answers. Of itself it looks at an object's name and its bytes one after the other, and at a
/// precondition before it writes: who changes a whole object has it for himself, as in S3.
struct Objects {
    service: S3Service,
    turn: RwLock<()>,
    holds_parts: watch::Sender<bool>,
}

impl Objects {
    async fn call(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, String> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_part = request.uri().query().is_some_and(|query| query.contains("partNumber="));
        if is_part {
            let _ = self.holds_parts.subscribe().wait_for(|holds| !holds).await;
        }
        let (_read, _write) = match (is_read, is_part) {
            (true, _) => (Some(self.turn.read().await), None),
            (false, true) => (None, None),
            (false, false) => (None, Some(self.turn.write().await)),
        };
        Service::call(&self.service, request).await.map_err(|error| format!("{error:?}"))
    }
}

/// Whoever is let in writes whatever the object is: what makes a write conditional is taken off behind the signature.
struct Unconditionally;

#[async_trait::async_trait]
impl S3Access for Unconditionally {
    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        (request.input.if_match, request.input.if_none_match) = (None, None);
        Ok(())
    }
}

/// A running S3 with one bucket.
pub(crate) struct FakeBucket {
    address: SocketAddr,
    root: TempDir,
    objects: Arc<Objects>,
    plan: Arc<Mutex<Plan>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// The port while it is closed: nobody else is given it.
    closed: Mutex<Option<TcpSocket>>,
}

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl FakeBucket {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        Self::start_on(root).await
    }

    /// One that takes the headers of conditional writes and ignores them, as Garage does.
    pub(crate) async fn without_conditions() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        Self::start_with(root, |builder| builder.set_access(Unconditionally)).await
    }

    /// One that holds what this one does.
    pub(crate) async fn copy(&self) -> Self {
        Self::start_on(crate::scrub::copy_of(self.root.path())).await
    }

    async fn start_on(root: TempDir) -> Self {
        Self::start_with(root, |_| {}).await
    }

    async fn start_with(root: TempDir, with: impl FnOnce(&mut S3ServiceBuilder)) -> Self {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        with(&mut builder);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            root,
            objects: Arc::new(Objects { service: builder.build(), turn: RwLock::default(), holds_parts: watch::Sender::default() }),
            plan: Arc::default(),
            accepting: Mutex::default(),
            closed: Mutex::default(),
        };
        fake.accept(listener);
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The value of `storage.s3` for it.
    pub(crate) fn s3(&self) -> String {
        let keys = self.root.path().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::write(keys.join("access"), ACCESS_KEY).unwrap();
        std::fs::write(keys.join("secret"), SECRET_KEY).unwrap();
        let (url, keys) = (self.url(), keys.display());
        format!(
            "{{bucket: {BUCKET}, prefix: prod, endpoint: \"{url}\", access_key: \"file:{keys}/access\", secret_key: \"file:{keys}/secret\"}}"
        )
    }

    /// What a client of it is made from.
    pub(crate) fn settings(&self) -> BucketSettings {
        BucketSettings {
            bucket: BUCKET.to_owned(),
            prefix: "prod".to_owned(),
            endpoint: Some(self.url()),
            public_endpoint: None,
            region: Some("us-east-1".to_owned()),
            path_style: true,
            encryption: BucketEncryption::None,
            keys: Some((SecretString::from(ACCESS_KEY), SecretString::from(SECRET_KEY))),
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            limits: BucketLimits { timeout: Duration::from_secs(10), attempts: 3 },
        }
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> BucketClient {
        BucketClient::s3(&self.settings(), Metrics::new().unwrap().bucket.clone()).await.unwrap()
    }

    /// From now on every request meets this.
    pub(crate) fn break_with(&self, fault: Fault) {
        self.replan(Some(fault), None);
    }

    /// The nth request from now on meets this.
    pub(crate) fn break_nth(&self, nth: usize, fault: Fault) {
        self.replan(None, Some((nth, fault)));
    }

    /// From now on every request whose path has `part` in it meets this.
    pub(crate) fn break_path(&self, part: &str, fault: Fault) {
        self.mend();
        self.plan.lock().unwrap().of_path = Some((part.to_owned(), fault));
    }

    /// All is well again.
    pub(crate) fn mend(&self) {
        self.replan(None, None);
    }

    /// From now on no part of an upload is answered.
    pub(crate) fn hold_parts(&self) {
        self.objects.holds_parts.send_replace(true);
    }

    /// Those that were held go on.
    pub(crate) fn release_parts(&self) {
        self.objects.holds_parts.send_replace(false);
    }

    fn replan(&self, always: Option<Fault>, nth: Option<(usize, Fault)>) {
        let mut plan = self.plan.lock().unwrap();
        (plan.always, plan.nth, plan.of_path, plan.calls, plan.has_broken) = (always, nth, None, 0, false);
    }

    /// Whether a request has met what was planned.
    pub(crate) fn has_broken(&self) -> bool {
        self.plan.lock().unwrap().has_broken
    }

    /// Takes the requests so far.
    pub(crate) fn take_journal(&self) -> Vec<Call> {
        std::mem::take(&mut self.plan.lock().unwrap().journal)
    }

    /// Ends the port and every connection.
    pub(crate) async fn stop(&self) {
        let task = self.accepting.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address).unwrap();
            *self.closed.lock().unwrap() = Some(socket);
        }
    }

    /// Opens the same port again.
    pub(crate) async fn resume(&self) {
        let socket = self.closed.lock().unwrap().take().unwrap();
        self.accept(socket.listen(1024).unwrap());
    }

    /// The keys below the prefix, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let root = self.root.path().join(BUCKET).join("prod");
        let mut keys = Vec::new();
        walk(&root, &mut keys);
        let mut keys: Vec<_> = keys.iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect();
        keys.sort();
        keys
    }

    /// Where an object's bytes are.
    pub(crate) fn file(&self, key: &str) -> std::path::PathBuf {
        self.root.path().join(BUCKET).join("prod").join(key)
    }

    /// Puts other bytes in an object's place, all at once: whoever has just uploaded it looks how long it is.
    pub(crate) fn replace(&self, key: &str, bytes: &[u8]) {
        let aside = self.root.path().join(".replacement");
        std::fs::write(&aside, bytes).unwrap();
        std::fs::rename(aside, self.file(key)).unwrap();
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        let entries = std::fs::read_dir(self.root.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload-")).count()
    }

    fn accept(&self, listener: TcpListener) {
        let (objects, plan) = (Arc::clone(&self.objects), Arc::clone(&self.plan));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        connections.spawn(serve(stream, Arc::clone(&objects), Arc::clone(&plan)));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        *self.accepting.lock().unwrap() = Some(task);
    }
}

impl Drop for FakeBucket {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.lock().unwrap().take() {
            task.abort();
        }
    }
}

fn walk(directory: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

async fn serve(stream: TcpStream, objects: Arc<Objects>, plan: Arc<Mutex<Plan>>) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request| answer(Arc::clone(&objects), next_fault(&plan, &request), request));
    drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

fn next_fault(plan: &Mutex<Plan>, request: &Request<Incoming>) -> Option<Fault> {
    let mut plan = plan.lock().unwrap();
    let call = Call {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    };
    plan.journal.push(call);
    // A copy has minutes, which no test has: where something is to hang it is passed over.
    let is_copy = request.headers().contains_key("x-amz-copy-source");
    let counts = !(is_copy && matches!(plan.nth, Some((_, Fault::Hang))));
    plan.calls += usize::from(counts);
    let of_path = plan.of_path.as_ref().filter(|(part, _)| request.uri().path().contains(part)).map(|(_, fault)| *fault);
    let of_number = plan.nth.filter(|(nth, _)| counts && *nth == plan.calls).map(|(_, fault)| fault);
    let fault = plan.always.or(of_path).or(of_number);
    plan.has_broken |= fault.is_some();
    if fault == Some(Fault::Vanish) {
        plan.of_path = Some((request.uri().path().to_owned(), Fault::NoSuchKey));
    }
    fault
}

/// An `Err` ends the connection.
async fn answer(objects: Arc<Objects>, fault: Option<Fault>, request: Request<Incoming>) -> Result<Response<Body>, String> {
    match fault {
        Some(Fault::SlowDown) => return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(Fault::AccessDenied) => return Ok(error(StatusCode::FORBIDDEN, "AccessDenied")),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => return Err("planned by the test".to_owned()),
        Some(Fault::Late(by)) => tokio::time::sleep(by).await,
        Some(Fault::NoSuchKey) => return Ok(error(StatusCode::NOT_FOUND, "NoSuchKey")),
        Some(Fault::LostAnswer | Fault::Truncate | Fault::Vanish | Fault::Drip(_)) | None => {}
    }
    let answer = objects.call(request).await?;
    match fault {
        Some(Fault::LostAnswer) => Err("planned by the test".to_owned()),
        Some(Fault::Truncate | Fault::Vanish) => Ok(answer.map(|body| truncated(body).boxed_unsync())),
        Some(Fault::Drip(pause)) => Ok(answer.map(|body| dripping(body, pause).boxed_unsync())),
        _ => Ok(answer.map(|body| body.map_err(|error| error.to_string().into()).boxed_unsync())),
    }
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>Planned.</Message></Error>");
    let body = Full::new(Bytes::from(xml)).map_err(|never: Infallible| match never {});
    Response::builder().status(status).header("content-type", "application/xml").body(body.boxed_unsync()).unwrap()
}

fn dripping(
    body: s3s::Body,
    pause: Duration,
) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send {
    let frames = BodyStream::new(body).enumerate().then(move |(number, frame)| async move {
        if number % 8 == 0 {
            tokio::time::sleep(pause).await;
        }
        frame.map_err(|error| error.to_string().into())
    });
    StreamBody::new(frames)
}

/// The first half of the first piece, and no end.
fn truncated(body: s3s::Body) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send {
    let first = BodyStream::new(body).take(1).filter_map(|frame| async {
        let bytes = frame.ok()?.into_data().ok()?;
        Some(Ok(Frame::data(bytes.slice(..bytes.len() / 2))))
    });
    let broken = futures::stream::once(async {
        // Else the connection ends before even the head of a small answer is on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err("planned by the test".into())
    });
    StreamBody::new(first.chain(broken))
}

//! Secrets Manager, ECR and STS over real HTTP in the test process, as far as credentials go.
//!
//! ```ignore
//! let aws = FakeAws::start(fake.clock()).await;
//! aws.put_secret(ARN, r#"{"username":"u","accessToken":"t"}"#);
//! let world = World { aws: aws.client(), ..World::default() };
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headpond::clock::Clock;
use headpond::upstream::Aws;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The key that clients sign with, as long as they assume no role.
pub(crate) const ACCESS_KEY: &str = "AKIAEXAMPLE";
/// A wait that takes longer has failed.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A request: what was asked for, where, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    /// The scope that it is signed for.
    pub(crate) region: String,
    pub(crate) access_key: String,
    pub(crate) body: String,
}

struct Inner {
    clock: Clock,
    secrets: Mutex<HashMap<String, String>>,
    /// The next token's number, and how long it lives.
    tokens: Mutex<(usize, Duration)>,
    /// An error in place of every answer: status, code, message.
    failure: Mutex<Option<(u16, String, String)>>,
    asked: Mutex<Vec<Asked>>,
    changed: watch::Sender<()>,
    held: watch::Sender<bool>,
}

/// The fake. Dropping it closes its port.
pub(crate) struct FakeAws {
    inner: Arc<Inner>,
    url: String,
    server: AbortHandle,
}

impl Drop for FakeAws {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeAws {
    pub(crate) async fn start(clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            clock,
            secrets: Mutex::default(),
            tokens: Mutex::new((1, Duration::from_secs(12 * 60 * 60))),
            failure: Mutex::default(),
            asked: Mutex::default(),
            changed: watch::Sender::new(()),
            held: watch::Sender::new(false),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, url, server: server.abort_handle() }
    }

    /// The way to it.
    pub(crate) fn client(&self) -> Aws {
        Aws::at(self.url.clone(), ACCESS_KEY.to_owned(), "a-secret-key".into())
    }

    /// The current version of a secret.
    pub(crate) fn put_secret(&self, arn: &str, text: &str) {
        self.inner.secrets.lock().unwrap().insert(arn.to_owned(), text.to_owned());
    }

    /// How long the tokens live that are issued from now on.
    pub(crate) fn token_lifetime(&self, lifetime: Duration) {
        self.inner.tokens.lock().unwrap().1 = lifetime;
    }

    /// Answers with this error from now on; none ends it.
    pub(crate) fn fail(&self, failure: Option<(u16, &str, &str)>) {
        *self.inner.failure.lock().unwrap() = failure.map(|(status, code, message)| (status, code.to_owned(), message.to_owned()));
    }

    /// Answers nothing until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.inner.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.inner.held.send_replace(false);
    }

    /// Every request of an operation so far.
    pub(crate) fn asked(&self, operation: &str) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().iter().filter(|asked| asked.operation == operation).cloned().collect()
    }

    /// Waits until an operation was asked for so often.
    pub(crate) async fn wait_until_asked(&self, operation: &str, count: usize) {
        let mut changed = self.inner.changed.subscribe();
        let wait = async {
            while self.asked(operation).len() < count {
                changed.changed().await.unwrap();
            }
        };
        let outcome = tokio::time::timeout(WAIT_LIMIT, wait).await;
        assert!(outcome.is_ok(), "waited in vain for {count} {operation}: {:?}", self.asked(operation));
    }
}

async fn answer(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let asked = asked(&headers, &body);
    let operation = asked.operation.clone();
    inner.asked.lock().unwrap().push(asked);
    inner.changed.send_replace(());
    inner.held.subscribe().wait_for(|held| !held).await.unwrap();
    if let Some((status, code, message)) = inner.failure.lock().unwrap().clone() {
        let body = json!({"__type": code, "message": message, "Message": message});
        return (StatusCode::from_u16(status).unwrap(), [("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response();
    }
    match operation.as_str() {
        "GetSecretValue" => secret(&inner, &body),
        "GetAuthorizationToken" => token(&inner),
        "AssumeRole" => role(&body),
        other => panic!("not planned: {other}"),
    }
}

fn asked(headers: &HeaderMap, body: &str) -> Asked {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let operation = header("x-amz-target").rsplit('.').next().unwrap_or_default().to_owned();
    let is_form = operation.is_empty();
    let authorization = header("authorization");
    let scope = authorization.split("Credential=").nth(1).unwrap_or_default().split(',').next().unwrap_or_default();
    let mut parts = scope.split('/').map(str::to_owned);
    Asked {
        operation: if is_form { form(body).remove("Action").unwrap_or_default() } else { operation },
        access_key: parts.next().unwrap_or_default(),
        region: parts.nth(1).unwrap_or_default(),
        body: body.to_owned(),
    }
}

fn form(body: &str) -> HashMap<String, String> {
    form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn secret(inner: &Inner, body: &str) -> Response {
    let request: Value = serde_json::from_str(body).unwrap();
    let arn = request["SecretId"].as_str().unwrap();
    match inner.secrets.lock().unwrap().get(arn) {
        Some(text) => axum::Json(json!({"ARN": arn, "Name": "x", "VersionId": "v", "SecretString": text})).into_response(),
        None => {
            let body = json!({"__type": "ResourceNotFoundException", "Message": "Secrets Manager can't find the specified secret."});
            (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
        }
    }
}

fn token(inner: &Inner) -> Response {
    let mut tokens = inner.tokens.lock().unwrap();
    let ends_at = unix_seconds(inner.clock.now() + tokens.1);
    let token = BASE64_STANDARD.encode(format!("AWS:token-{}", tokens.0));
    tokens.0 += 1;
    let data = json!({"authorizationToken": token, "expiresAt": ends_at, "proxyEndpoint": "https://registry.example"});
    axum::Json(json!({"authorizationData": [data]})).into_response()
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Keys for the role: their id is its name.
fn role(body: &str) -> Response {
    let role = form(body).remove("RoleArn").unwrap();
    let name = role.rsplit('/').next().unwrap();
    let answer = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{name}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    );
    ([("content-type", "text/xml")], answer).into_response()
}

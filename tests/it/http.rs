//! What every answer has, over HTTP/1.1 and HTTP/2, and what is logged of it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use headpond::app::World;
use reqwest::{Client, Method, StatusCode};
use tracing_subscriber::fmt::MakeWriter;

use crate::auth::{CREDENTIALS, basic, write_secrets};
use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond};

const TAG: &str = "/v2/up/library/x/manifests/1";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_over_both_versions_and_heads_have_no_body() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let mut server = Headpond::before(&fake).await;
    // A refusal that is remembered says so; from now on it is.
    server.get("/v2/up/library/x/manifests/no").await;
    let mut seen: Vec<Vec<(u16, String, String)>> = Vec::new();
    for client in [Client::builder().http1_only(), Client::builder().http2_prior_knowledge()] {
        server.client = client.no_proxy().build().unwrap();
        let mut answers = Vec::new();
        for path in [
            "/v2",
            "/v2/",
            TAG,
            &Headpond::blob(&image.layers[0]),
            "/v2/up/library/x/tags/list",
            "/v2/up/library/x/manifests/no",
            "/v2/UP/manifests/1",
            "/v2/none/x/manifests/1",
            "/x",
        ] {
            let (got, head) = (server.get(path).await, server.head(path).await);
            assert_eq!((head.status, head.bytes().len()), (got.status, 0), "{path}");
            assert_eq!(got.header("docker-distribution-api-version"), "registry/2.0");
            for name in ["content-type", "content-length", "docker-content-digest", "docker-distribution-api-version", "etag"] {
                assert_eq!(head.header(name), got.header(name), "{name} of {path}");
            }
            assert_eq!(got.header("content-length"), got.bytes().len().to_string(), "{path}");
            answers.push((got.status.as_u16(), got.header("content-type").to_owned(), String::from_utf8_lossy(got.bytes()).into_owned()));
            server.wait_for_fills().await;
        }
        seen.push(answers);
    }
    assert_eq!(seen[0], seen[1]);
}

/// Where log lines go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines about requests, once there are `count`: each is written when its body has ended.
    async fn requests(&self, count: usize) -> Vec<serde_json::Value> {
        loop {
            let lines: Vec<serde_json::Value> = self.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let requests: Vec<_> = lines.into_iter().filter(|line| line["message"] == "request").collect();
            if requests.len() >= count {
                assert_eq!(requests.len(), count, "one line for each request");
                return requests;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Everything that any crate in the process traces on this thread: the tests below have only one.
fn capture() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_max_level(tracing::Level::TRACE).with_writer(lines.clone()).finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

async fn with_secrets(top: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    fake.require_bearer_of("robot", "upstream-secret");
    let directory = tempfile::tempdir().unwrap();
    write_secrets(directory.path());
    let server = Headpond::in_directory(&fake, CREDENTIALS, top, directory, World::default()).await;
    (fake, server, image)
}

#[tokio::test]
async fn each_request_is_one_line_with_everything_there_is_to_know() {
    let (lines, _guard) = capture();
    let (fake, server, image) = with_secrets("auth: {users: users}").await;
    let alice = basic("alice", "client-secret");
    let ask = async |method: Method, path: &str| server.ask(method, path, &[("authorization", &alice)]).await;
    ask(Method::GET, TAG).await;
    ask(Method::GET, TAG).await;
    ask(Method::HEAD, &Headpond::blob(&image.layers[0])).await;
    ask(Method::GET, "/v2/up/library/x/manifests/no").await;
    server.clock.advance(std::time::Duration::from_secs(24 * 60 * 60));
    fake.on(On::ManifestHead).once(Fault::Status(503));
    ask(Method::GET, &format!("{TAG}?ns=docker.io&secret=in-the-query")).await;
    server.get("/v2/").await;
    ask(Method::PUT, "/x").await;
    let requests = lines.requests(7).await;
    let told = |n: usize, fields: &[&str]| -> Vec<serde_json::Value> { fields.iter().map(|field| requests[n][*field].clone()).collect() };
    let fields = ["method", "path", "route", "repository", "rule", "result", "stale", "status", "sent_bytes", "user", "error"];
    let length = image.manifest.len();
    let expected = |values: serde_json::Value| values.as_array().unwrap().clone();
    assert_eq!(
        told(0, &fields),
        expected(serde_json::json!(["GET", TAG, "manifest", "up/library/x", "up", "miss", "", 200, length, "alice", ""]))
    );
    assert_eq!(
        told(1, &fields),
        expected(serde_json::json!(["GET", TAG, "manifest", "up/library/x", "up", "hit", "", 200, length, "alice", ""]))
    );
    let blob = Headpond::blob(&image.layers[0]);
    assert_eq!(
        told(2, &fields),
        expected(serde_json::json!(["HEAD", blob, "blob", "up/library/x", "up", "miss", "", 200, 0, "alice", ""]))
    );
    assert_eq!(
        told(3, &fields[..8]),
        expected(serde_json::json!(["GET", "/v2/up/library/x/manifests/no", "manifest", "up/library/x", "up", "", "", 404]))
    );
    assert!(requests[3]["error"].as_str().unwrap().contains("manifest unknown"));
    assert_eq!(
        told(4, &fields),
        expected(serde_json::json!(["GET", TAG, "manifest", "up/library/x", "up", "stale", "unavailable", 200, length, "alice", ""]))
    );
    assert_eq!(told(5, &fields[..9]), expected(serde_json::json!(["GET", "/v2/", "base", "", "", "", "", 401, requests[5]["sent_bytes"]])));
    assert_eq!(told(6, &fields[..8]), expected(serde_json::json!(["PUT", "/x", "unknown", "", "", "", "", 404])));
    for request in &requests {
        assert_eq!((&request["client"], &request["level"]), (&"127.0.0.1".into(), &"INFO".into()));
        let milliseconds = |field: &str| request[field].as_f64().unwrap();
        assert!(milliseconds("ttfb_ms") > 0.0 && milliseconds("ttfb_ms") <= milliseconds("duration_ms"), "{request}");
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let (lines, _guard) = capture();
    let (fake, mut server, image) = with_secrets("auth: {users: users}").await;
    fake.redirect_blobs_to_cdn();
    for (round, client) in [Client::builder().http1_only(), Client::builder().http2_prior_knowledge()].into_iter().enumerate() {
        server.client = client.no_proxy().build().unwrap();
        for (user, password) in [("alice", "client-secret"), ("alice", "client-wrong")] {
            for path in [
                "/v2/",
                TAG,
                &Headpond::blob(&image.layers[0]),
                "/v2/up/library/x/tags/list",
                &format!("/v2/up/library/x/manifests/no{round}"),
            ] {
                let answer = Answer::read(server.send(Method::GET, path, &[("authorization", &basic(user, password))]).await).await;
                assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
            }
        }
        server.wait_for_fills().await;
    }
    let text = lines.text();
    for level in ["TRACE", "DEBUG", "INFO"] {
        assert!(text.contains(&format!(r#""level":"{level}""#)), "{level} is captured");
    }
    assert!(fake.journal().iter().any(|exchange| exchange.authorization.is_some()), "secrets were used");
    let encoded = [basic("alice", "client-secret"), basic("alice", "client-wrong"), basic("robot", "upstream-secret")];
    let mut secrets = vec!["client-secret", "client-wrong", "upstream-secret", "token-1", "signature=secret", "$2b$"];
    secrets.extend(encoded.iter().map(|header| &header[6..]));
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in {line:?}");
    }
}

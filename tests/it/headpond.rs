//! A whole server in the test process, on loopback ports, in front of a fake upstream.
//!
//! ```ignore
//! let fake = FakeUpstream::start().await;
//! let server = Headpond::before(&fake).await;            // the rule `up`, and Docker Hub's host as its alias
//! let got = server.get("/v2/up/library/x/manifests/1").await;
//! ```

#![allow(dead_code)] // each test uses some of it

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use headpond::app::{Running, World, start};
use headpond::clock::Clock;
use headpond::config::Config;
use headpond::oci::Digest;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake_upstream::FakeUpstream;

/// A running server and its store.
pub(crate) struct Headpond {
    pub(crate) running: Running,
    pub(crate) clock: Clock,
    pub(crate) directory: TempDir,
    pub(crate) client: Client,
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `Err` holds what had come when the body broke off.
    pub(crate) body: Result<Bytes, Bytes>,
}

impl Headpond {
    /// A server whose rule `up` is `fake`, with the fake's clock.
    pub(crate) async fn before(fake: &FakeUpstream) -> Self {
        Self::with(fake, "", "").await
    }

    /// Like [`Headpond::before`], with further lines in the rule and at the top of the file.
    pub(crate) async fn with(fake: &FakeUpstream, rule: &str, top: &str) -> Self {
        Self::in_directory(fake, rule, top, tempfile::tempdir().unwrap(), World::default()).await
    }

    /// Like [`Headpond::with`], on a store that may hold something, in a world with faults.
    pub(crate) async fn in_directory(fake: &FakeUpstream, rule: &str, top: &str, directory: TempDir, world: World) -> Self {
        Self::configured(&configuration(&fake.url(), rule, top), fake.clock(), directory, world).await
    }

    /// A server of this configuration, with the clock of `fake`.
    pub(crate) async fn of(fake: &FakeUpstream, text: &str, directory: TempDir, world: World) -> Self {
        Self::configured(text, fake.clock(), directory, world).await
    }

    /// A server with this configuration file.
    pub(crate) async fn configured(text: &str, clock: Clock, directory: TempDir, world: World) -> Self {
        let config = Config::parse(text, directory.path()).unwrap();
        let running = start(config, World { clock: clock.clone(), ..world }).await.unwrap();
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { running, clock, directory, client }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.addresses[0]
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.ask(Method::HEAD, path, &[]).await
    }

    pub(crate) async fn get_range(&self, path: &str, range: &str) -> Answer {
        self.ask(Method::GET, path, &[("range", range)]).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::read(self.send(method, path, headers).await).await
    }

    /// The head of an answer; its body is the caller's to read.
    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.request(method, self.url(path));
        for (name, value) in headers {
            request = request.header(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        request.send().await.unwrap()
    }

    /// Takes over another configuration, as SIGHUP does.
    pub(crate) fn reload(&mut self, text: &str) -> anyhow::Result<Vec<&'static str>> {
        let config = Config::parse(text, self.directory.path())?;
        self.running.reload(config)
    }

    /// Sends these bytes on a connection of their own, and reads until the server closes it.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // The server may answer, and close, before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Path of a blob of `library/x` under the rule `up`.
    pub(crate) fn blob(digest: &Digest) -> String {
        format!("/v2/up/library/x/blobs/{digest}")
    }

    /// The value of a metric, with its labels as they are exposed; 0 if it is not there.
    pub(crate) fn metric(&self, name_and_labels: &str) -> u64 {
        let text = String::from_utf8(self.running.metrics.expose().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Waits until a metric has a value: counters of a request move when its body has ended.
    pub(crate) async fn wait_for_metric(&self, name_and_labels: &str, value: u64) {
        for _ in 0..1000 {
            if self.metric(name_and_labels) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name_and_labels} is {} and never became {value}", self.metric(name_and_labels));
    }

    /// Waits until fills have got so many bytes. What a registry has sent may still be on its way.
    pub(crate) async fn wait_until_filled(&self, bytes: u64) {
        let filled = || {
            ["bucket", "replica", "upstream", "mirror"]
                .map(|source| self.metric(&format!("headpond_fill_bytes_total{{source=\"{source}\"}}")))
        };
        for _ in 0..1000 {
            if filled().iter().sum::<u64>() >= bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("fills have got {:?} bytes, and never {bytes}", filled());
    }

    /// Waits until no fill is under way: everything fetched is committed, or given up.
    pub(crate) async fn wait_for_fills(&self) {
        self.wait_for_metric("headpond_fills_inflight", 0).await;
    }

    /// Waits until it is recorded what a repository is: that is written behind the first answer.
    pub(crate) async fn wait_for_repository(&self, name: &str) {
        let record = self.directory.path().join("headpond-data/repositories").join(name.replace('/', "!"));
        while !record.exists() {
            tokio::task::yield_now().await;
        }
    }

    /// The digests of all committed blobs.
    pub(crate) fn stored_blobs(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.directory.path().join("headpond-data/blobs"), &mut names);
        names
    }

    /// What is staged.
    pub(crate) fn staged(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("headpond-data/staging")).unwrap().count()
    }

    /// Stops the server, and keeps its store.
    pub(crate) async fn stop(self) -> TempDir {
        drop(self.client);
        self.running.shut_down().await.unwrap();
        self.directory
    }
}

/// The names of all files below a directory.
pub(crate) fn walk(directory: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), names);
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
}

/// A configuration with one rule, `up`, for an upstream at `base`.
pub(crate) fn configuration(base: &str, rule: &str, top: &str) -> String {
    let indented: String = rule.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "listen: 127.0.0.1:0\nadmin: {{address: 127.0.0.1:0}}\nstorage: {{path: headpond-data}}\nlog: {{level: off}}\n{top}\n\
         rules:\n  - prefix: up\n    upstream: {base}\n    hosts: [docker.io]\n{indented}"
    )
}

impl Answer {
    pub(crate) async fn read(mut response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return Self { status, headers, body: Ok(body.into()) },
                Err(_) => return Self { status, headers, body: Err(body.into()) },
            }
        }
    }

    /// The complete body.
    pub(crate) fn bytes(&self) -> &Bytes {
        self.body.as_ref().expect("the body broke off")
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.bytes())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error's envelope.
    pub(crate) fn code(&self) -> String {
        let envelope: serde_json::Value = serde_json::from_slice(self.bytes()).unwrap();
        envelope["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    /// The message of an error's envelope.
    pub(crate) fn message(&self) -> String {
        let envelope: serde_json::Value = serde_json::from_slice(self.bytes()).unwrap();
        envelope["errors"][0]["message"].as_str().unwrap().to_owned()
    }
}

//! Several replicas over one bucket, in one process, each at a loopback address of its own.

mod blobs;
mod failing;
mod freshness;
mod prefetch;
mod sharing;
mod signature;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use headpond::app::World;
use headpond::cluster::{Names, ranked};

use crate::fake_bucket::FakeBucket;
use crate::fake_upstream::FakeUpstream;
use crate::headpond::Headpond;

/// What all replicas of a test share.
pub(crate) const TOKEN_KEY: &str = "thirty-two bytes and some more of them";
/// What the one name in `cluster.peers` resolves to; a test changes it.
#[derive(Clone)]
pub(crate) struct NameTable(Arc<Mutex<Vec<SocketAddr>>>);

impl NameTable {
    pub(crate) fn of(addresses: &[SocketAddr]) -> Self {
        Self(Arc::new(Mutex::new(addresses.to_vec())))
    }

    pub(crate) fn set(&self, addresses: &[SocketAddr]) {
        *self.0.lock().unwrap() = addresses.to_vec();
    }
}

#[async_trait]
impl Names for NameTable {
    async fn resolve(&self, _: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// Addresses 127.0.0.1 and on, with one port that is free at all of them. Below the range that
/// connections take theirs from.
pub(crate) fn addresses(count: u8) -> Vec<SocketAddr> {
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    let at = |port: u16| (1..=count).map(move |host| SocketAddr::from(([127, 0, 0, host], port)));
    let is_free = |port: &u16| at(*port).all(|address| TcpListener::bind(address).is_ok());
    let port = (start..start + 2_000).find(is_free).expect("a free port");
    at(port).collect()
}

/// Replicas over one bucket before one upstream.
pub(crate) struct Replicas {
    pub(crate) fake: FakeUpstream,
    pub(crate) bucket: FakeBucket,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) names: NameTable,
    /// Further lines at the top of each configuration, and in the rule.
    top: String,
    rule: String,
}

impl Replicas {
    /// None is started yet.
    pub(crate) async fn new(count: u8) -> Self {
        Self::with(count, "", "").await
    }

    pub(crate) async fn with(count: u8, top: &str, rule: &str) -> Self {
        let addresses = addresses(count);
        let (fake, bucket) = (FakeUpstream::start().await, FakeBucket::start().await);
        Self { fake, bucket, names: NameTable::of(&addresses), addresses, top: top.to_owned(), rule: rule.to_owned() }
    }

    /// Starts all of them.
    pub(crate) async fn start_all(&self) -> Vec<Headpond> {
        futures::future::join_all((0..self.addresses.len()).map(|number| self.start(number))).await
    }

    pub(crate) async fn start(&self, number: usize) -> Headpond {
        self.start_seeing(number, self.names.clone()).await
    }

    /// One that finds other replicas than the others do.
    pub(crate) async fn start_seeing(&self, number: usize, names: NameTable) -> Headpond {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token.key"), TOKEN_KEY).unwrap();
        std::fs::write(directory.path().join("users"), format!("someone:{}\n", bcrypt::hash("password", 4).unwrap())).unwrap();
        let world = World { names: Arc::new(names), ..World::default() };
        Headpond::of(&self.fake, &self.configuration(number), directory, world).await
    }

    fn configuration(&self, number: usize) -> String {
        let limits = if self.top.contains("limits:") { "" } else { "limits: {peers_refresh: 10ms, peer_timeout: 1s}\n" };
        let auth = if self.top.contains("auth:") { "" } else { "auth: {token_key: \"file:token.key\"}\n" };
        let rule: String = self.rule.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "listen: {}\nadmin: {{address: 127.0.0.1:0}}\nlog: {{level: off}}\n\
             storage: {{path: headpond-data, s3: {}}}\ncluster: {{peers: \"replicas.test:{}\"}}\n{limits}{auth}{}\n\
             rules:\n  - prefix: up\n    upstream: {}\n{rule}",
            self.addresses[number],
            self.bucket.s3(),
            self.addresses[number].port(),
            self.top,
            self.fake.url(),
        )
    }

    /// A repository that `owner` owns, without its rule's prefix.
    pub(crate) fn repository_of(&self, owner: usize) -> String {
        let is_owned = |name: &String| ranked(&self.addresses, &format!("up/{name}"))[0] == self.addresses[owner];
        (0..).map(|number| format!("library/x{number}")).find(is_owned).unwrap()
    }
}

/// Path of a manifest behind the rule `up`.
pub(crate) fn manifest(repository: &str, reference: &impl ToString) -> String {
    format!("/v2/up/{repository}/manifests/{}", reference.to_string())
}

/// How requests to other replicas went.
pub(crate) fn asked(server: &Headpond, result: &str) -> u64 {
    server.metric(&format!("headpond_cluster_requests_total{{result=\"{result}\"}}"))
}

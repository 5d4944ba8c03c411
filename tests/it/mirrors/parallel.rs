//! Large blobs over several connections, from a mirror whose connections are slow each.

use std::time::Duration;

use bytes::Bytes;
use headpond::app::World;
use headpond::oci::Digest;

use super::{TAG, key};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::fill::{Reader, assert_at_most};
use crate::headpond::Headpond;

const MIB: usize = 1 << 20;
const LENGTH: usize = 32 * MIB;

/// An upstream and its mirrors, whose connections bring some 6 MiB a second each, and a server with the manifest.
struct Slow {
    primary: FakeUpstream,
    mirrors: Vec<FakeUpstream>,
    server: Headpond,
    digest: Digest,
    content: Bytes,
}

impl Slow {
    async fn with_mirrors(seed: u64, count: usize) -> Self {
        let content = pseudo_random(seed, LENGTH);
        let mut registries = Vec::new();
        let mut image = None;
        for _ in 0..=count {
            let registry = FakeUpstream::start().await;
            image = Some(registry.put_image("library/x", "1", std::slice::from_ref(&content)));
            registry.on(On::BlobGet).always(Fault::Drip(64 * 1024, Duration::from_millis(10)));
            registries.push(registry);
        }
        let mirrors = registries.split_off(1);
        let primary = registries.remove(0);
        let top = "limits: {parallel_above: 8MiB}";
        let server = Headpond::in_directory(&primary, &key(&mirrors), top, tempfile::tempdir().unwrap(), World::default()).await;
        server.get(TAG).await;
        Self { primary, mirrors, server, digest: image.unwrap().layers[0], content }
    }

    /// A client that has the first bytes.
    async fn reader(&self) -> Reader {
        let mut reader = Reader::open(&self.server, &self.digest, "", &self.content).await;
        reader.read_to(64 * 1024).await;
        reader
    }

    /// The registry dies with what it has open.
    async fn dies(&self, registry: &FakeUpstream, after_requests: usize) {
        registry.wait_until_requests("GET", "/blobs/", after_requests).await;
        let sent = registry.blob_bytes_sent(&self.digest);
        registry.wait_until_blob_bytes_sent(&self.digest, sent + 2 * MIB as u64).await;
        registry.stop().await;
    }

    fn sent(&self) -> u64 {
        self.mirrors.iter().chain([&self.primary]).map(|registry| registry.blob_bytes_sent(&self.digest)).sum()
    }
}

fn asked(registry: &FakeUpstream) -> usize {
    registry.requests_matching("GET", "/blobs/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_from_a_mirror_over_several_connections_and_once() {
    let slow = Slow::with_mirrors(1, 1).await;
    slow.primary.stop().await;
    assert_eq!(slow.reader().await.rest().await, Ok(LENGTH));
    assert!(asked(&slow.mirrors[0]) >= 3, "{} requests", asked(&slow.mirrors[0]));
    assert_at_most(slow.sent(), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_dies_with_several_connections_is_taken_up_by_the_next() {
    let slow = Slow::with_mirrors(2, 2).await;
    slow.primary.stop().await;
    let mut reader = slow.reader().await;
    let (rest, ()) = tokio::join!(reader.rest(), slow.dies(&slow.mirrors[0], 3));
    assert_eq!(rest, Ok(LENGTH));
    assert!(slow.mirrors[1].blob_bytes_sent(&slow.digest) >= 4 * MIB as u64);
    assert_at_most(slow.sent(), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_dies_with_several_connections_is_taken_up_by_a_mirror() {
    let slow = Slow::with_mirrors(3, 1).await;
    let mut reader = slow.reader().await;
    let (rest, ()) = tokio::join!(reader.rest(), slow.dies(&slow.primary, 3));
    assert_eq!(rest, Ok(LENGTH));
    assert!(asked(&slow.mirrors[0]) >= 2, "its blobs may come over several connections too");
    assert_at_most(slow.sent(), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_without_ranges_does_not_cost_the_upstream_its_own() {
    let slow = Slow::with_mirrors(4, 1).await;
    slow.primary.on(On::BlobGet).once(Fault::Status(503));
    slow.mirrors[0].on(On::BlobGet).always(Fault::IgnoreRange);
    let mut reader = slow.reader().await;
    // The second request finds out that there are no ranges.
    let (rest, ()) = tokio::join!(reader.rest(), slow.dies(&slow.mirrors[0], 2));
    assert_eq!(rest, Ok(LENGTH));
    let ranges: Vec<_> = slow.primary.journal().into_iter().filter(|it| it.path.contains("/blobs/")).skip(1).map(|it| it.range).collect();
    assert!(ranges.iter().all(Option::is_some), "{ranges:?}");
    assert_at_most(slow.sent(), 105, LENGTH);
}

//! Large blobs over several connections, from upstreams whose connections are slow each.

use std::time::Duration;

use bytes::Bytes;
use headpond::oci::Digest;
use reqwest::StatusCode;
use tokio::time::Instant;

use super::{MIB, Reader, assert_at_most, server_with_manifest};
use crate::fake_upstream::{Exchange, FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::Headpond;

pub(super) const LENGTH: usize = 40 * MIB;

/// An upstream whose connections bring some 6 MiB a second each, so that several are worth it.
pub(super) async fn slow_upstream(seed: u64, rule: &str) -> (FakeUpstream, Headpond, Digest, Bytes) {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(seed, LENGTH);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    fake.on(On::BlobGet).always(Fault::Drip(64 * 1024, Duration::from_millis(10)));
    let server = Headpond::with(&fake, rule, "").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    server.wait_for_repository("up/library/x").await;
    (fake, server, image.layers[0], content)
}

async fn pull(server: &Headpond, digest: &Digest, content: &Bytes) {
    let mut reader = Reader::open(server, digest, "", content).await;
    assert_eq!(reader.rest().await, Ok(content.len()));
    server.wait_for_fills().await;
}

/// The requests for blobs, in order of arrival.
fn blob_requests(fake: &FakeUpstream) -> Vec<Exchange> {
    let mut journal = fake.journal();
    journal.retain(|exchange| exchange.path.contains("/blobs/") || exchange.path.contains("/cdn/"));
    journal
}

/// The bytes that were asked for, `0..` being a plain request.
fn asked(exchange: &Exchange) -> (usize, usize) {
    let Some(range) = &exchange.range else { return (0, LENGTH) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().map_or(LENGTH, |last: usize| last + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_over_slow_connections_comes_over_several_and_once() {
    let (fake, server, digest, content) = slow_upstream(1, "").await;
    pull(&server, &digest, &content).await;
    let requests: Vec<_> = blob_requests(&fake).iter().map(asked).collect();
    assert_eq!(requests[0], (0, LENGTH), "the first request is a plain one");
    assert!(requests.len() >= 3, "{requests:?}");
    // Each begins behind the one before: the front is asked for first, and nothing twice.
    assert!(requests[1..].windows(2).all(|pair| pair[0].1 <= pair[1].0), "{requests:?}");
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_below_the_threshold_comes_over_one_connection() {
    const SMALL: usize = 12 * MIB;
    let (fake, server, digest, content) = server_with_manifest(2, SMALL, "limits: {parallel_above: 12MiB}").await;
    fake.on(On::BlobGet).always(Fault::Drip(64 * 1024, Duration::from_millis(10)));
    pull(&server, &digest, &content).await;
    assert_eq!(blob_requests(&fake).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_keep_to_one_connection() {
    let (fake, server, digest, content) = slow_upstream(3, "connections: 1").await;
    pull(&server, &digest, &content).await;
    assert_eq!(blob_requests(&fake).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn further_connections_ask_where_the_first_was_redirected_to() {
    let (fake, server, digest, content) = slow_upstream(4, "").await;
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    pull(&server, &digest, &content).await;
    let (at_cdn, at_registry): (Vec<_>, Vec<_>) = blob_requests(&fake).into_iter().partition(|exchange| exchange.at_cdn);
    let served = at_registry.iter().filter(|exchange| exchange.status == 307).count();
    assert!(served == 1 && at_cdn.len() >= 3, "{} at the registry, {} at the content network", served, at_cdn.len());
    assert!(at_cdn.iter().all(|exchange| exchange.authorization.is_none()));
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_has_expired_is_asked_for_again() {
    for status in [403, 410] {
        let (fake, server, digest, content) = slow_upstream(5, "").await;
        fake.redirect_blobs_to_cdn();
        let mut reader = Reader::open(&server, &digest, "", &content).await;
        reader.read_to(MIB / 2).await;
        fake.on(On::BlobGet).once(Fault::Status(status));
        assert_eq!(reader.rest().await, Ok(LENGTH), "{status}");
        let requests = blob_requests(&fake);
        let at_registry = requests.iter().filter(|exchange| !exchange.at_cdn).count();
        assert_eq!(at_registry, 2, "{status}");
        assert!(requests.iter().any(|exchange| exchange.at_cdn && exchange.status == status));
        assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_ranges_brings_a_large_blob_over_one_connection() {
    let (fake, server, digest, content) = slow_upstream(6, "").await;
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    pull(&server, &digest, &content).await;
    assert_eq!(blob_requests(&fake).len(), 2, "it is tried once");
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_connection_that_is_refused_does_not_cost_the_blob() {
    for status in [403, 429] {
        let (fake, server, digest, content) = slow_upstream(7, "").await;
        let mut reader = Reader::open(&server, &digest, "", &content).await;
        reader.read_to(MIB / 2).await;
        fake.on(On::BlobGet).once(Fault::Status(status));
        assert_eq!(reader.rest().await, Ok(LENGTH), "{status}");
        assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_off_is_taken_up_at_its_missing_bytes() {
    let (fake, server, digest, content) = slow_upstream(8, "").await;
    // Reached by the first connection, or by the one that took over from it.
    fake.on(On::BlobGet).once(Fault::CutBodyAt(5 * MIB as u64));
    fake.on(On::BlobGet).once(Fault::CutBodyAt(38 * MIB as u64));
    pull(&server, &digest, &content).await;
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

/// A restart of upstream cuts all connections of a blob: that is one failure, and leaves the others to try again.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_restarts_costs_a_blob_one_attempt_whatever_its_connections() {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(11, LENGTH);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    fake.on(On::BlobGet).always(Fault::Drip(64 * 1024, Duration::from_millis(10)));
    // Two failures in a row end a fill.
    let server = Headpond::with(&fake, "connections: 8", "limits: {fill_attempts: 2}").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    let mut client = Reader::open(&server, &image.layers[0], "", &content).await;
    let restart = async {
        fake.wait_until_requests("GET", "/blobs/", 4).await;
        // What was sent so far is read: no byte comes between the failures.
        fake.hold_blobs_at(0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.stop().await;
        fake.release();
        fake.restart();
    };
    let (rest, ()) = tokio::join!(client.rest(), restart);
    assert_eq!(rest, Ok(LENGTH));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_with_one_connection_for_all_brings_its_blobs_one_after_the_other() {
    let fake = FakeUpstream::start().await;
    let contents = [9, 10].map(|seed| pseudo_random(seed, 2 * MIB));
    let image = fake.put_image("library/x", "1", &contents);
    fake.hold_blobs_at(MIB as u64);
    let server = Headpond::with(&fake, "max_connections: 1", "").await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    let mut first = Reader::open(&server, &image.layers[0], "", &contents[0]).await;
    first.read_to(MIB / 2).await;
    let second = async {
        let mut second = Reader::open(&server, &image.layers[1], "", &contents[1]).await;
        assert_eq!(second.rest().await, Ok(2 * MIB));
    };
    let release = async {
        server.wait_for_metric("headpond_fills_inflight", 2).await;
        assert_eq!(blob_requests(&fake).len(), 1, "the second waits for its place");
        fake.release();
        assert_eq!(first.rest().await, Ok(2 * MIB));
    };
    tokio::join!(second, release);
    assert_eq!(blob_requests(&fake).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_limit_the_bytes_a_second() {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(11, MIB);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    let server = Headpond::with(&fake, "max_bandwidth: 512KiB", "").await;
    let began = Instant::now();
    pull(&server, &image.layers[0], &content).await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "two seconds' worth came in {:?}", began.elapsed());
}

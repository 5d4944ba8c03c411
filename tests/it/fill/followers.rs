//! Many clients of one blob.

use std::sync::Arc;

use bytes::Bytes;
use headpond::oci::Digest;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{MIB, Reader, assert_at_most, fake_with_blob};
use crate::headpond::Headpond;

/// On a slow machine a second connection may seem worth it, which then loses what is held before it.
const ONE_CONNECTION: &str = "connections: 1";

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_held_upstream_have_what_upstream_has_sent() {
    const LENGTH: usize = 64 * MIB;
    let (fake, digest, content) = fake_with_blob(1, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 2);
    let server = Arc::new(Headpond::with(&fake, ONE_CONNECTION, "").await);
    let barrier = Arc::new(Barrier::new(21));
    let mut followers = JoinSet::new();
    for _ in 0..20 {
        let (server, content, barrier) = (Arc::clone(&server), content.clone(), Arc::clone(&barrier));
        followers.spawn(async move {
            let mut reader = Reader::open(&server, &digest, "", &content).await;
            reader.read_to(LENGTH * 45 / 100).await;
            barrier.wait().await;
            assert_eq!(reader.rest().await, Ok(LENGTH));
        });
    }
    barrier.wait().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 50, LENGTH);
    fake.release();
    while let Some(follower) = followers.join_next().await {
        follower.unwrap();
    }
    assert_eq!(fake.blob_bytes_sent(&digest), LENGTH as u64);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
}

/// A client that reads the whole blob.
fn spawn_client(clients: &mut JoinSet<Result<usize, usize>>, server: &Arc<Headpond>, digest: Digest, content: &Bytes) {
    let (server, content) = (Arc::clone(server), content.clone());
    clients.spawn(async move { Reader::open(&server, &digest, "", &content).await.rest().await });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_of_a_cold_blob_cost_one_transfer() {
    // Twenty gigabytes take half a minute without optimisation: then it is six.
    const LENGTH: usize = if cfg!(debug_assertions) { 60 * MIB } else { 200 * MIB };
    let (fake, digest, content) = fake_with_blob(2, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 2);
    let server = Arc::new(Headpond::with(&fake, ONE_CONNECTION, "").await);
    let mut clients = JoinSet::new();
    // The slow one has taken nothing but the head, and holds on to that until the others are done.
    let mut slow = Reader::open(&server, &digest, "", &content).await;
    for _ in 0..98 {
        spawn_client(&mut clients, &server, digest, &content);
    }
    server.wait_for_metric("headpond_followers_inflight", 99).await;
    let mut early = Reader::open(&server, &digest, "", &content).await;
    early.read_to(LENGTH * 45 / 100).await;
    // One comes when half of it is there.
    spawn_client(&mut clients, &server, digest, &content);
    server.wait_for_metric("headpond_followers_inflight", 101).await;
    fake.release();
    assert_eq!(early.rest().await, Ok(LENGTH));
    while let Some(read) = clients.join_next().await {
        assert_eq!(read.unwrap(), Ok(LENGTH));
    }
    assert_eq!(slow.rest().await, Ok(LENGTH));
    assert_eq!(fake.blob_bytes_sent(&digest), LENGTH as u64);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_no_bytes_is_a_blob() {
    let (fake, server, digest, _) = super::server_with_manifest(3, 0, "").await;
    for _ in 0..2 {
        let answer = tokio::time::timeout(super::LIMIT, server.get(&Headpond::blob(&digest))).await.expect("no answer in time");
        assert_eq!((answer.status.as_u16(), answer.header("content-length")), (200, "0"));
        server.wait_for_fills().await;
    }
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
}

//! Clients that leave.

use super::{MIB, Reader, fake_with_blob};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::Headpond;

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_when_its_only_client_leaves() {
    const LENGTH: usize = 20 * MIB;
    let (fake, digest, content) = fake_with_blob(1, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 5);
    let server = Headpond::before(&fake).await;
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(LENGTH / 10).await;
    drop(client);
    server.wait_for_metric("headpond_followers_inflight", 0).await;
    fake.release();
    server.wait_for_metric(r#"headpond_fills_total{result="committed"}"#, 1).await;
    server.wait_for_fills().await;
    fake.stop().await;
    assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
    assert_eq!(fake.blob_bytes_sent(&digest), LENGTH as u64);
}

/// Begins a fill of each blob that upstream holds at its middle, and leaves it.
async fn leave_behind(server: &Headpond, fake: &FakeUpstream, count: u64) -> Vec<headpond::oci::Digest> {
    let mut digests = Vec::new();
    for seed in 0..count {
        let content = pseudo_random(100 + seed, MIB);
        let digest = fake.put_blob(content.clone());
        let mut client = Reader::open(server, &digest, "", &content).await;
        client.read_to(MIB / 4).await;
        drop(client);
        server.wait_for_metric("headpond_followers_inflight", 0).await;
        digests.push(digest);
    }
    digests
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_unfollowed_fills_the_oldest_is_dropped() {
    let fake = FakeUpstream::start().await;
    fake.hold_blobs_at(MIB as u64 / 2);
    let server = Headpond::with(&fake, "", "limits: {max_unfollowed_fills: 2}").await;
    let digests = leave_behind(&server, &fake, 4).await;
    server.wait_for_metric(r#"headpond_fills_total{result="dropped"}"#, 2).await;
    server.wait_for_metric("headpond_fills_inflight", 2).await;
    assert_eq!(server.staged(), 2);
    fake.release();
    server.wait_for_metric(r#"headpond_fills_total{result="committed"}"#, 2).await;
    server.wait_for_fills().await;
    let mut stored = server.stored_blobs();
    stored.sort();
    let mut youngest: Vec<String> = digests[2..].iter().map(headpond::oci::Digest::hex).collect();
    youngest.sort();
    assert_eq!(stored, youngest);
    assert_eq!(server.staged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_blob_is_fetched_anew() {
    let fake = FakeUpstream::start().await;
    fake.hold_blobs_at(MIB as u64 / 2);
    let server = Headpond::with(&fake, "", "limits: {max_unfollowed_fills: 0}").await;
    let digests = leave_behind(&server, &fake, 1).await;
    // Asked for at once, while the dropped one may still be on its way out.
    fake.release();
    assert_eq!(server.get(&Headpond::blob(&digests[0])).await.digest(), digests[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_nobody_follows_makes_room_for_one_that_is_wanted() {
    let fake = FakeUpstream::start().await;
    fake.hold_blobs_at(MIB as u64 / 2);
    let server = Headpond::with(&fake, "", "limits: {max_fills: 1}").await;
    leave_behind(&server, &fake, 2).await;
    server.wait_for_metric(r#"headpond_fills_total{result="dropped"}"#, 1).await;
    fake.release();
    server.wait_for_metric(r#"headpond_fills_total{result="committed"}"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_beyond_the_limit_of_fills_are_streamed_past_the_store() {
    let (fake, first, content) = fake_with_blob(1, MIB).await;
    let other_content = pseudo_random(2, MIB);
    let other = fake.put_blob(other_content.clone());
    fake.on(On::BlobGet).of(&first).always(Fault::HoldBodyAt(MIB as u64 / 2));
    let server = Headpond::with(&fake, "", "limits: {max_fills: 1}").await;
    let mut client = Reader::open(&server, &first, "", &content).await;
    client.read_to(MIB / 4).await;
    assert_eq!(server.get(&Headpond::blob(&other)).await.digest(), other);
    server.wait_for_metric(r#"headpond_cache_requests_total{kind="blob",result="bypass",rule="up"}"#, 1).await;
    let mut range = Reader::open(&server, &other, "bytes=1000-9999", &other_content).await;
    assert_eq!(range.rest().await, Ok(10_000));
    assert!(server.stored_blobs().is_empty());
    fake.release();
    assert_eq!(client.rest().await, Ok(MIB));
    server.wait_for_fills().await;
    assert_eq!(server.stored_blobs(), [first.hex()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_in_mid_blob_breaks_bodies_off_and_leaves_nothing() {
    let (fake, digest, content) = fake_with_blob(3, MIB).await;
    fake.hold_blobs_at(MIB as u64 / 2);
    let server = Headpond::with(&fake, "", "limits: {drain_deadline: 100ms}").await;
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(MIB / 4).await;
    let directory = server.stop().await;
    let stood_at = client.rest().await.expect_err("a body that cannot be complete");
    assert!(stood_at <= MIB / 2);
    assert_eq!(std::fs::read_dir(directory.path().join("headpond-data/staging")).unwrap().count(), 0);
}

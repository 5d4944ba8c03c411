//! Upstreams that break off, and stall.

use bytes::Bytes;
use headpond::oci::Digest;

use super::{MIB, Reader, assert_at_most, fake_with_blob};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

const LENGTH: usize = 20 * MIB;
const CUT: u64 = LENGTH as u64 * 7 / 10;

/// One client reads the whole blob and sees nothing of what upstream does.
async fn assert_read(server: &Headpond, digest: &Digest, content: &Bytes) {
    assert_eq!(Reader::open(server, digest, "", content).await.rest().await, Ok(content.len()));
    server.wait_for_fills().await;
    assert_eq!(server.stored_blobs(), [digest.hex()]);
    assert_eq!(server.staged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_cut_once_goes_on_where_it_was() {
    let (fake, digest, content) = fake_with_blob(1, LENGTH).await;
    fake.on(On::BlobGet).once(Fault::CutBodyAt(CUT));
    let server = Headpond::before(&fake).await;
    assert_read(&server, &digest, &content).await;
    assert_at_most(fake.blob_bytes_sent(&digest), 101, LENGTH);
    assert_eq!(server.metric("headpond_fill_resumes_total"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_cut_often_goes_on_as_long_as_it_gets_further() {
    let (fake, digest, content) = fake_with_blob(2, LENGTH).await;
    for cut in 1..10 {
        fake.on(On::BlobGet).once(Fault::CutBodyAt(cut * LENGTH as u64 / 10));
    }
    let server = Headpond::before(&fake).await;
    assert_read(&server, &digest, &content).await;
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    assert_eq!(server.metric("headpond_fill_resumes_total"), 9);
}

/// Clients of a transfer that does not get past `CUT`: they are broken off, and nothing is kept.
async fn assert_broken_off(fake: &FakeUpstream, digest: Digest, content: &Bytes) {
    let server = Headpond::with(fake, "", "limits: {fill_attempts: 3}").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Reader::open(&server, &digest, "", content).await);
    }
    for client in &mut clients {
        let stood_at = client.rest().await.expect_err("a body that cannot be complete");
        assert!(stood_at as u64 <= CUT);
    }
    server.wait_for_metric(r#"headpond_fills_total{result="failed"}"#, 1).await;
    server.wait_for_fills().await;
    assert!(server.stored_blobs().is_empty());
    assert_eq!(server.staged(), 0);
    fake.clear_faults();
    assert_read(&server, &digest, content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_cut_for_ever_breaks_bodies_off_and_keeps_nothing() {
    let (fake, digest, content) = fake_with_blob(3, LENGTH).await;
    fake.on(On::BlobGet).always(Fault::CutBodyAt(CUT));
    assert_broken_off(&fake, digest, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_of_unknown_length_that_never_ends_well_is_given_up() {
    let (fake, digest, content) = fake_with_blob(4, LENGTH).await;
    fake.on(On::BlobGet).always(Fault::CutBodyAt(CUT));
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    fake.on(On::BlobGet).always(Fault::Chunked);
    assert_broken_off(&fake, digest, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_stalls_goes_on_where_it_was() {
    let (fake, digest, content) = fake_with_blob(5, LENGTH).await;
    fake.on(On::BlobGet).once(Fault::HoldBodyAt(CUT));
    let server = Headpond::with(&fake, "", "limits: {stall_timeout: 1s}").await;
    assert_read(&server, &digest, &content).await;
    assert_at_most(fake.blob_bytes_sent(&digest), 101, LENGTH);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_ranges_is_cut_and_no_client_gets_a_byte_twice() {
    let (fake, digest, content) = fake_with_blob(6, LENGTH).await;
    fake.on(On::BlobGet).once(Fault::CutBodyAt(CUT));
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    let server = Headpond::before(&fake).await;
    assert_read(&server, &digest, &content).await;
    assert_at_most(fake.blob_bytes_sent(&digest), 171, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_taken_up_again_too() {
    let (fake, digest, content) = fake_with_blob(7, LENGTH).await;
    let server = Headpond::before(&fake).await;
    fake.on(On::BlobGet).times(3, Fault::CutBodyAt(CUT));
    let range = format!("bytes={}-{}", LENGTH / 2, LENGTH - MIB - 1);
    assert_eq!(Reader::open(&server, &digest, &range, &content).await.rest().await, Ok(LENGTH - MIB));
    server.wait_for_fills().await;
    assert_eq!(server.stored_blobs(), [digest.hex()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_down_before_the_first_byte_is_an_error_at_once() {
    let (fake, digest, content) = fake_with_blob(8, LENGTH).await;
    let server = Headpond::before(&fake).await;
    fake.on(On::BlobGet).always(Fault::Status(503));
    let answer = server.get(&Headpond::blob(&digest)).await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    assert!(fake.requests_matching("GET", "/blobs/") <= 2);
    fake.clear_faults();
    server.clock.advance(std::time::Duration::from_secs(120));
    assert_read(&server, &digest, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_restarts_in_mid_blob_is_taken_up_again() {
    let (fake, digest, content) = fake_with_blob(9, LENGTH).await;
    fake.hold_blobs_at(CUT);
    let server = Headpond::before(&fake).await;
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(LENGTH / 2).await;
    fake.stop().await;
    server.wait_for_metric(r#"headpond_upstream_requests_total{code="0",method="GET",rule="up"}"#, 2).await;
    fake.release();
    fake.restart();
    assert_eq!(client.rest().await, Ok(LENGTH));
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

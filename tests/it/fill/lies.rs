//! Upstreams that send something else than what they were asked for.

use reqwest::StatusCode;

use super::{LIMIT, MIB, Reader, fake_with_blob, server_with_manifest};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::{Answer, Headpond};

/// What followers do not get before the digest holds.
const HELD_BACK: usize = 64 * 1024;

async fn get(server: &Headpond, digest: &headpond::oci::Digest) -> Answer {
    tokio::time::timeout(LIMIT, server.get(&Headpond::blob(digest))).await.expect("no answer in time")
}

/// Nothing was kept, and a pull works once upstream sends the right bytes.
async fn assert_nothing_kept(fake: &FakeUpstream, server: &Headpond, digest: headpond::oci::Digest) {
    server.wait_for_fills().await;
    assert!(!server.stored_blobs().contains(&digest.hex()));
    assert_eq!(server.staged(), 0);
    fake.clear_faults();
    assert_eq!(get(server, &digest).await.digest(), digest);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().contains(&digest.hex()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_with_a_wrong_digest_is_502_with_the_reason() {
    let (fake, digest, _) = fake_with_blob(1, HELD_BACK).await;
    fake.on(On::BlobGet).always(Fault::FlipByte);
    let server = Headpond::before(&fake).await;
    for range in ["", "bytes=0-", "bytes=5-9"] {
        let headers = if range.is_empty() { vec![] } else { vec![("range", range)] };
        let answer = server.ask(reqwest::Method::GET, &Headpond::blob(&digest), &headers).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{range}");
        assert!(answer.message().contains("digest"), "{}", answer.message());
    }
    assert_eq!(server.metric("headpond_digest_mismatch_total"), 3);
    assert_eq!(server.metric(r#"headpond_fills_total{result="digest_mismatch"}"#), 3);
    assert_nothing_kept(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_gets_all_of_a_large_blob_with_a_wrong_digest() {
    const LENGTH: usize = 4 * MIB;
    let (fake, digest, content) = fake_with_blob(2, LENGTH).await;
    let mut wrong = content.to_vec();
    wrong[LENGTH / 2] ^= 1;
    let wrong = bytes::Bytes::from(wrong);
    fake.on(On::BlobGet).always(Fault::FlipByte);
    fake.hold_blobs_at(MIB as u64);
    let server = Headpond::before(&fake).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Reader::open(&server, &digest, "", &wrong).await);
    }
    let tail = format!("bytes={}-", LENGTH - HELD_BACK);
    let blob = Headpond::blob(&digest);
    let tail = server.get_range(&blob, &tail);
    let others = async {
        server.wait_for_metric("headpond_followers_inflight", 4).await;
        fake.release();
        for client in &mut clients {
            let stood_at = client.rest().await.expect_err("a body that must not be complete");
            assert!(stood_at <= LENGTH - HELD_BACK, "{stood_at}");
        }
    };
    let (tail, ()) = tokio::join!(tail, others);
    assert_eq!(tail.status, StatusCode::BAD_GATEWAY);
    assert_eq!(server.metric("headpond_digest_mismatch_total"), 1);
    assert_nothing_kept(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_length_that_is_wrong_ends_in_an_error() {
    for (seed, off) in [(3, 1000), (4, -1000)] {
        let (fake, digest, _) = fake_with_blob(seed, MIB).await;
        fake.on(On::BlobGet).always(Fault::LengthOff(off));
        let server = Headpond::with(&fake, "", "limits: {fill_attempts: 3}").await;
        let answer = get(&server, &digest).await;
        assert!(answer.status != StatusCode::OK || answer.body.is_err(), "off by {off}: {}", answer.status);
        assert_nothing_kept(&fake, &server, digest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_longer_than_its_manifest_says_is_refused() {
    let (fake, server, digest, _) = server_with_manifest(5, MIB, "").await;
    fake.on(On::BlobGet).once(Fault::LengthOff(1000));
    let answer = get(&server, &digest).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.message().contains("1048576"), "{}", answer.message());
    assert_nothing_kept(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_ends_where_the_manifest_says() {
    let (fake, server, digest, _) = server_with_manifest(6, MIB, "").await;
    fake.on(On::BlobGet).always(Fault::Endless);
    assert_eq!(get(&server, &digest).await.digest(), digest);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().contains(&digest.hex()));
    assert!(fake.blob_bytes_sent(&digest) < 12 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_without_a_manifest_ends_at_the_limit() {
    let (fake, digest, _) = fake_with_blob(7, MIB).await;
    fake.on(On::BlobGet).always(Fault::Endless);
    let server = Headpond::with(&fake, "", "limits: {max_blob_size: 8MiB}").await;
    let answer = get(&server, &digest).await;
    let got = answer.body.expect_err("a body that must not be complete");
    assert!(got.len() <= 8 * MIB);
    assert_nothing_kept(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_larger_than_the_limit_is_refused_before_its_first_byte() {
    let (fake, digest, _) = fake_with_blob(8, 2 * MIB).await;
    let server = Headpond::with(&fake, "", "limits: {max_blob_size: 1MiB}").await;
    let answer = get(&server, &digest).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(server.stored_blobs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_a_blob_too() {
    for (seed, length) in [(9, 3 * MIB), (10, 100), (11, 0)] {
        let (fake, digest, content) = fake_with_blob(seed, length).await;
        fake.on(On::BlobGet).always(Fault::Chunked);
        let server = Headpond::before(&fake).await;
        let answer = get(&server, &digest).await;
        assert_eq!((answer.status, answer.bytes() == &content), (StatusCode::OK, true), "{length} bytes");
        server.wait_for_fills().await;
        assert_eq!(server.stored_blobs(), [digest.hex()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_but_with_a_manifest_is_a_blob_too() {
    let (fake, server, digest, content) = server_with_manifest(12, 3 * MIB, "").await;
    fake.on(On::BlobGet).always(Fault::Chunked);
    fake.on(On::BlobGet).once(Fault::CutBodyAt(2 * MIB as u64));
    assert!(get(&server, &digest).await.bytes() == &content);
    let (fake, server, digest, content) = server_with_manifest(13, 3 * MIB, "").await;
    fake.on(On::BlobGet).always(Fault::Chunked);
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    let range = server.get_range(&Headpond::blob(&digest), "bytes=2000000-2999999").await;
    assert_eq!(range.status, StatusCode::PARTIAL_CONTENT);
    assert!(*range.bytes() == content[2_000_000..3_000_000]);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().contains(&digest.hex()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_was_asked_for_is_502() {
    let (fake, server, digest, _) = server_with_manifest(14, 20 * MIB, "").await;
    fake.on(On::BlobGet).always(Fault::WrongContentRange);
    let answer = server.get_range(&Headpond::blob(&digest), "bytes=8000000-8000999").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_nothing_kept(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_blobs_do_not_suffer() {
    let (fake, bad, _) = fake_with_blob(15, MIB).await;
    let good = fake.put_blob(pseudo_random(16, MIB));
    fake.on(On::BlobGet).of(&bad).always(Fault::FlipByte);
    let server = Headpond::before(&fake).await;
    let (bad, good_answer) = tokio::join!(get(&server, &bad), get(&server, &good));
    assert!(bad.body.is_err());
    assert_eq!(good_answer.digest(), good);
}

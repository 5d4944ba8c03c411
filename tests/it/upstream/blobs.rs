//! Lengths and bytes of blobs.

use std::time::Duration;

use futures::FutureExt;
use headpond::oci::Digest;
use headpond::upstream::{Unavailability, UpstreamError};

use super::{client, client_with, drain, lie, name};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_blob_comes_whole() {
    let fake = FakeUpstream::start().await;
    let bytes = pseudo_random(1, 3 * MIB);
    let digest = fake.put_blob(bytes.clone());
    let mut stream = client(&fake).get_blob(&name("x"), &digest, None).await.unwrap();
    assert_eq!((stream.start, stream.end, stream.total_bytes), (0, Some(3 << 20), Some(3 << 20)));
    assert!(drain(&mut stream).await == (bytes.to_vec(), None));
    assert_eq!(fake.blob_bytes_sent(&digest), 3 << 20);
    assert_eq!(fake.journal()[0].range, None);
}

#[tokio::test]
async fn ranges_come_from_where_they_were_asked() {
    let fake = FakeUpstream::start().await;
    let bytes = pseudo_random(1, MIB);
    let digest = fake.put_blob(bytes.clone());
    let client = client(&fake);
    for (range, header) in [(1000..2000, "bytes=1000-1999"), (1000..u64::MAX, "bytes=1000-"), (0..1, "bytes=0-0")] {
        fake.clear_journal();
        let mut stream = client.get_blob(&name("x"), &digest, Some(range.clone())).await.unwrap();
        let end = range.end.min(MIB as u64);
        assert_eq!((stream.start, stream.end, stream.total_bytes), (range.start, Some(end), Some(MIB as u64)));
        let expected = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(end).unwrap()];
        assert!(drain(&mut stream).await == (expected.to_vec(), None));
        assert_eq!(fake.journal()[0].range.as_deref(), Some(header));
    }
}

#[tokio::test]
async fn an_ignored_range_is_told_by_its_start() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    let mut stream = client(&fake).get_blob(&name("x"), &digest, Some(500..600)).await.unwrap();
    assert_eq!((stream.start, stream.total_bytes), (0, Some(1000)));
    assert_eq!(drain(&mut stream).await.0.len(), 1000);
}

#[tokio::test]
async fn other_bytes_than_asked_are_a_lie() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.on(On::BlobGet).once(Fault::WrongContentRange);
    let message = lie(client(&fake).get_blob(&name("x"), &digest, Some(500..600)).await.map(drop));
    assert!(message.contains("bytes 501-600"), "{message}");
    fake.on(On::BlobGet).once(Fault::WithoutHeader("content-range"));
    lie(client(&fake).get_blob(&name("x"), &digest, Some(500..600)).await.map(drop));
    fake.on(On::BlobGet).once(Fault::LengthOff(-1));
    lie(client(&fake).get_blob(&name("x"), &digest, Some(500..600)).await.map(drop));
}

#[tokio::test]
async fn a_range_past_the_end_says_how_long_the_blob_is() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    let message = lie(client(&fake).get_blob(&name("x"), &digest, Some(1000..2000)).await.map(drop));
    assert!(message.contains("no bytes from 1000 on") && message.contains("has 1000 bytes"), "{message}");
}

#[tokio::test]
async fn a_cut_body_ends_in_an_error_after_what_came() {
    let fake = FakeUpstream::start().await;
    let bytes = pseudo_random(1, MIB);
    let digest = fake.put_blob(bytes.clone());
    fake.on(On::BlobGet).once(Fault::CutBodyAt(700_000));
    let client = client(&fake);
    let mut stream = client.get_blob(&name("x"), &digest, None).await.unwrap();
    let (mut received, error) = drain(&mut stream).await;
    assert!(matches!(error, Some(UpstreamError::Unavailable { kind: Unavailability::Broken, .. })), "{error:?}");
    assert!(stream.next().await.is_none());
    let mut rest = client.get_blob(&name("x"), &digest, Some(received.len() as u64..u64::MAX)).await.unwrap();
    received.extend(drain(&mut rest).await.0);
    assert!(received == bytes);
    assert!(fake.blob_bytes_sent(&digest) < (MIB + MIB / 10) as u64);
}

#[tokio::test]
async fn fewer_bytes_than_announced_are_an_error() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.on(On::BlobGet).always(Fault::LengthOff(10));
    let mut stream = client(&fake).get_blob(&name("x"), &digest, None).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    assert!(matches!(error, Some(UpstreamError::Unavailable { kind: Unavailability::Broken, .. })), "{error:?}");
}

#[tokio::test]
async fn more_bytes_than_a_range_has_are_a_lie() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.on(On::BlobGet).always(Fault::Endless);
    let mut stream = client(&fake).get_blob(&name("x"), &digest, Some(0..500)).await.unwrap();
    let (received, error) = drain(&mut stream).await;
    assert!(matches!(error, Some(UpstreamError::Lied { .. })), "{error:?}");
    assert!(received.len() <= 500);
}

#[tokio::test]
async fn a_blob_of_unknown_length_ends_where_it_ends_or_at_the_limit() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    fake.on(On::BlobGet).once(Fault::Chunked);
    fake.on(On::BlobGet).once(Fault::Endless);
    let client = client_with(&fake, |settings| settings.limits.max_blob_bytes = 1 << 20);
    let mut stream = client.get_blob(&name("x"), &digest, None).await.unwrap();
    assert_eq!((stream.end, stream.total_bytes), (None, None));
    assert_eq!(drain(&mut stream).await.0.len(), 1000);
    let mut stream = client.get_blob(&name("x"), &digest, None).await.unwrap();
    assert!(matches!(drain(&mut stream).await.1, Some(UpstreamError::Lied { .. })));
}

#[tokio::test]
async fn a_stalled_body_is_broken_and_a_drip_too() {
    for fault in [Fault::HoldBodyAt(40_000), Fault::Drip(1, Duration::from_millis(20))] {
        let fake = FakeUpstream::start().await;
        let digest = fake.put_blob(pseudo_random(1, MIB));
        fake.on(On::BlobGet).always(fault);
        let client = client_with(&fake, |settings| settings.limits.stall_timeout = Duration::from_millis(300));
        let mut stream = client.get_blob(&name("x"), &digest, None).await.unwrap();
        let (received, error) = drain(&mut stream).await;
        assert!(matches!(error, Some(UpstreamError::Unavailable { kind: Unavailability::Timeout, .. })), "{error:?}");
        assert!(received.len() <= 40_000);
    }
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let fake = FakeUpstream::start().await;
    let bytes = pseudo_random(1, MIB);
    let digest = fake.put_blob(bytes.clone());
    fake.hold_blobs_at(500_000);
    let mut stream = client(&fake).get_blob(&name("x"), &digest, None).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 500_000 {
        received.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    for _ in 0..10 {
        assert!(stream.next().now_or_never().is_none());
    }
    fake.release();
    received.extend(drain(&mut stream).await.0);
    assert!(received == bytes);
}

#[tokio::test]
async fn lengths_come_by_head() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 1000));
    let client = client(&fake);
    assert_eq!(client.head_blob(&name("x"), &digest).await, Ok(Some(1000)));
    assert_eq!((fake.requests_matching("HEAD", "/blobs/"), fake.requests_matching("GET", "/blobs/")), (1, 0));
    let missing = client.head_blob(&name("x"), &Digest::of(b"missing")).await;
    assert!(matches!(missing, Err(UpstreamError::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn lengths_come_by_one_byte_where_head_is_refused() {
    for status in [401, 403, 405] {
        let fake = FakeUpstream::start().await;
        let (digest, empty) = (fake.put_blob(pseudo_random(1, MIB)), fake.put_blob(""));
        fake.require_bearer();
        fake.on(On::BlobHead).always(Fault::Status(status));
        let client = client(&fake);
        assert_eq!(client.head_blob(&name("x"), &digest).await, Ok(Some(MIB as u64)));
        assert_eq!(client.head_blob(&name("x"), &empty).await, Ok(Some(0)));
        assert_eq!(fake.blob_bytes_sent(&digest), 1);
        let heads = fake.requests_matching("HEAD", "/blobs/");
        client.head_blob(&name("x"), &digest).await.unwrap();
        assert_eq!(fake.requests_matching("HEAD", "/blobs/"), heads);
    }
}

#[tokio::test]
async fn lengths_come_by_one_byte_of_an_upstream_that_ignores_ranges() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(pseudo_random(1, 64 * MIB));
    fake.on(On::BlobHead).always(Fault::Status(405));
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    assert_eq!(client(&fake).head_blob(&name("x"), &digest).await, Ok(Some(64 << 20)));
    assert!(fake.blob_bytes_sent(&digest) < 32 << 20);
}

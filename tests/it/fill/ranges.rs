//! Parts of blobs that are not here yet.

use std::sync::Arc;

use bytes::Bytes;
use headpond::oci::Digest;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use super::{MIB, Reader, assert_at_most, fake_with_blob, server_with_manifest};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

/// Reads four ranges of a blob at the same time; `open_ended` ones are left where the next begins.
async fn read_four_ranges(server: &Arc<Headpond>, digest: Digest, content: &Bytes, open_ended: bool) {
    let quarter = content.len() / 4;
    let mut clients = JoinSet::new();
    for first in (0..4).map(|part| part * quarter) {
        let (server, content) = (Arc::clone(server), content.clone());
        clients.spawn(async move {
            let last = if open_ended { String::new() } else { (first + quarter - 1).to_string() };
            let mut reader = Reader::open(&server, &digest, &format!("bytes={first}-{last}"), &content).await;
            assert_eq!(reader.response.status(), StatusCode::PARTIAL_CONTENT);
            let last = if open_ended { content.len() - 1 } else { first + quarter - 1 };
            let content_range = format!("bytes {first}-{last}/{}", content.len());
            assert_eq!(reader.response.headers()["content-range"], content_range.as_str());
            assert_eq!(reader.response.content_length(), Some((last + 1 - first) as u64));
            if open_ended {
                reader.read_to(first + quarter).await;
            } else {
                assert_eq!(reader.rest().await, Ok(first + quarter));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// Where one connection takes over from another, what was on its way to the latter is lost: its
/// socket's buffers, of at most some 8 MiB.
const LOST_AT_A_CUT: usize = 8 * MIB;

async fn assert_cached(fake: &FakeUpstream, server: &Headpond, digest: Digest) {
    server.wait_for_fills().await;
    let requests = fake.requests_matching("GET", "/blobs/");
    assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_parallel_ranges_of_a_cold_blob_cost_one_transfer() {
    const LENGTH: usize = 100 * MIB;
    let (fake, server, digest, content) = server_with_manifest(1, LENGTH, "").await;
    let server = Arc::new(server);
    read_four_ranges(&server, digest, &content, false).await;
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 102, LENGTH);
    assert_eq!(fake.requests_matching("HEAD", "/blobs/"), 0, "the manifest tells the length");
    assert_cached(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_parallel_ranges_of_a_blob_of_unknown_length_cost_one_transfer_and_a_head() {
    const LENGTH: usize = 32 * MIB;
    let (fake, digest, content) = fake_with_blob(2, LENGTH).await;
    let server = Arc::new(Headpond::before(&fake).await);
    read_four_ranges(&server, digest, &content, false).await;
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    assert_eq!(fake.requests_matching("HEAD", "/blobs/"), 1);
    assert_cached(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_ended_ranges_whose_clients_take_a_part_cost_one_transfer() {
    const LENGTH: usize = 100 * MIB;
    let (fake, server, digest, content) = server_with_manifest(3, LENGTH, "").await;
    let server = Arc::new(server);
    read_four_ranges(&server, digest, &content, true).await;
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    assert_cached(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_ranges_is_asked_for_the_blob_once() {
    const LENGTH: usize = 32 * MIB;
    let (fake, server, digest, content) = server_with_manifest(4, LENGTH, "").await;
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    let server = Arc::new(server);
    read_four_ranges(&server, digest, &content, false).await;
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 100, LENGTH + 3 * LOST_AT_A_CUT);
    assert_cached(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_ahead_of_a_whole_transfer_does_not_restart_an_upstream_without_ranges() {
    const LENGTH: usize = 32 * MIB;
    let (fake, digest, content) = fake_with_blob(5, LENGTH).await;
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    fake.hold_blobs_at(LENGTH as u64 / 2);
    let server = Headpond::before(&fake).await;
    let mut whole = Reader::open(&server, &digest, "", &content).await;
    whole.read_to(LENGTH / 2 - MIB).await;
    let range = format!("bytes={}-{}", 30 * MIB, 31 * MIB - 1);
    let ahead = Reader::open(&server, &digest, &range, &content);
    let release = async {
        fake.wait_until_requests("GET", "/blobs/", 2).await;
        server.wait_for_metric(r#"headpond_upstream_requests_total{code="200",method="GET",rule="up"}"#, 2).await;
        fake.release();
    };
    let (mut ahead, ()) = tokio::join!(ahead, release);
    assert_eq!(ahead.rest().await, Ok(31 * MIB));
    assert_eq!(whole.rest().await, Ok(LENGTH));
    assert_at_most(fake.blob_bytes_sent(&digest), 100, LENGTH + LOST_AT_A_CUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_answered_while_the_rest_is_held() {
    const LENGTH: usize = 32 * MIB;
    let (fake, server, digest, content) = server_with_manifest(6, LENGTH, "").await;
    fake.on(On::BlobGet).once(Fault::HoldBodyAt(MIB as u64));
    let mut whole = Reader::open(&server, &digest, "", &content).await;
    whole.read_to(MIB / 2).await;
    let range = format!("bytes={}-{}", 20 * MIB, 21 * MIB - 1);
    let mut range = Reader::open(&server, &digest, &range, &content).await;
    assert_eq!(range.rest().await, Ok(21 * MIB));
    fake.release();
    assert_eq!(whole.rest().await, Ok(LENGTH));
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 100, LENGTH + LOST_AT_A_CUT);
    assert_cached(&fake, &server, digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suffixes_and_single_bytes_are_ranges_too() {
    const LENGTH: usize = 2 * MIB;
    let (fake, server, digest, content) = server_with_manifest(7, LENGTH, "").await;
    for round in ["cold", "warm"] {
        for (range, from, to) in [
            ("bytes=-1000".to_owned(), LENGTH - 1000, LENGTH),
            (format!("bytes={}-", LENGTH - 1), LENGTH - 1, LENGTH),
            ("bytes=0-0".to_owned(), 0, 1),
            ("bytes=0-".to_owned(), 0, LENGTH),
            ("bytes=100-99999999999".to_owned(), 100, LENGTH),
        ] {
            let answer = server.get_range(&Headpond::blob(&digest), &range).await;
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{round} {range}");
            assert_eq!(answer.header("content-range"), format!("bytes {from}-{}/{LENGTH}", to - 1), "{round} {range}");
            assert!(*answer.bytes() == content[from..to], "{round} {range}");
        }
        server.wait_for_fills().await;
    }
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_outside_the_blob_is_416_with_its_length() {
    const LENGTH: usize = MIB;
    let (fake, server, digest, _) = server_with_manifest(8, LENGTH, "").await;
    for round in ["cold", "warm"] {
        for range in [format!("bytes={LENGTH}-"), "bytes=-0".to_owned(), format!("bytes={}-{}", LENGTH + 5, LENGTH + 9)] {
            let answer = server.get_range(&Headpond::blob(&digest), &range).await;
            assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{round} {range}");
            assert_eq!(answer.header("content-range"), format!("bytes */{LENGTH}"), "{round} {range}");
        }
        if round == "cold" {
            assert_eq!(fake.requests_matching("GET", "/blobs/"), 0);
            assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
            server.wait_for_fills().await;
        }
    }
}

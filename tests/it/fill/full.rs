//! A store that is full: clients are served all the same, and nothing is kept.

use std::sync::{Arc, Mutex};

use reqwest::StatusCode;

use super::{MIB, Reader, fake_with_blob};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::faulty_disk::{FaultyDisk, Operation};
use crate::headpond::Headpond;

const LENGTH: usize = 8 * MIB;
const BYPASSES: &str = r#"headpond_cache_requests_total{kind="blob",result="bypass",rule="up"}"#;
const NOT_KEPT: &str = r#"headpond_fills_total{result="not_kept"}"#;

async fn server_on(fake: &FakeUpstream, disk: &Arc<FaultyDisk>, top: &str) -> Headpond {
    Headpond::in_directory(fake, "", top, tempfile::tempdir().unwrap(), disk.world()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_before_the_first_byte_is_bypassed() {
    for (operation, label) in [(Operation::Create, "create"), (Operation::Reserve, "reserve")] {
        let (fake, digest, content) = fake_with_blob(1, LENGTH).await;
        let server = server_on(&fake, &FaultyDisk::full_from(operation, 1), "").await;
        let mut whole = Reader::open(&server, &digest, "", &content).await;
        let mut range = Reader::open(&server, &digest, "bytes=1000000-1999999", &content).await;
        let mut from_start = Reader::open(&server, &digest, "bytes=0-", &content).await;
        assert_eq!(whole.rest().await, Ok(LENGTH), "{operation:?}");
        assert_eq!(range.rest().await, Ok(2_000_000), "{operation:?}");
        assert_eq!(from_start.rest().await, Ok(LENGTH), "{operation:?}");
        server.wait_for_metric(BYPASSES, 3).await;
        server.wait_for_metric("headpond_bypasses_inflight", 0).await;
        let errors = server.metric(&format!(r#"headpond_storage_errors_total{{operation="{label}"}}"#));
        assert_eq!(errors, server.metric(NOT_KEPT), "one count, and one line in the log, for a blob that was not kept");
        assert!(server.stored_blobs().is_empty());
        assert_eq!(server.staged(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fills_up_during_a_fill_is_left_by_every_client_where_it_stands() {
    let (fake, digest, content) = fake_with_blob(2, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 4);
    let disk = FaultyDisk::full_after(LENGTH * 6 / 10);
    let server = server_on(&fake, &disk, "").await;
    let mut clients = Vec::new();
    for part in 0..4 {
        let mut client = Reader::open(&server, &digest, "", &content).await;
        client.read_to(part * MIB / 2).await;
        clients.push((client, LENGTH));
    }
    clients.push((Reader::open(&server, &digest, "bytes=100000-6999999", &content).await, 7_000_000));
    clients.push((Reader::open(&server, &digest, "bytes=0-", &content).await, LENGTH));
    fake.release();
    for (client, end) in &mut clients {
        assert_eq!(client.rest().await, Ok(*end));
    }
    assert!(disk.has_failed(), "the disk was to fail in mid-blob");
    server.wait_for_metric(BYPASSES, 6).await;
    assert_eq!(server.metric(NOT_KEPT), 1);
    assert_eq!(server.metric(r#"headpond_storage_errors_total{operation="write"}"#), 1);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().is_empty());
    assert_eq!(server.staged(), 0);
}

/// The first byte, the edges of pieces, of what is held back, and of the blob, and some between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_at_whatever_byte_costs_no_client_anything_and_leaves_nothing() {
    const LENGTH: usize = MIB + 12_345;
    const PIECE: usize = 64 * 1024;
    let (fake, digest, content) = fake_with_blob(10, LENGTH).await;
    let around = |byte: usize| [byte - 1, byte, byte + 1];
    let edges = [PIECE / 4, PIECE, 2 * PIECE, LENGTH - PIECE].into_iter().flat_map(around);
    for room_bytes in [0, 1, 300_000, 500_001, 700_000, 1_000_000, LENGTH - 1, LENGTH].into_iter().chain(edges) {
        let disk = FaultyDisk::full_after(room_bytes);
        let server = server_on(&fake, &disk, "").await;
        let read = async |range: &str| Reader::open(&server, &digest, range, &content).await.rest().await;
        let middle = "bytes=400000-599999";
        let last = format!("bytes={}-", LENGTH - 1000);
        let got = tokio::join!(read(""), read("bytes=0-"), read(middle), read(&last));
        assert_eq!(got, (Ok(LENGTH), Ok(LENGTH), Ok(600_000), Ok(LENGTH)), "room for {room_bytes}");
        server.wait_for_fills().await;
        server.wait_for_metric("headpond_bypasses_inflight", 0).await;
        assert_eq!(server.staged(), 0, "room for {room_bytes}");
        let is_kept = room_bytes >= LENGTH;
        assert_eq!((server.stored_blobs().len(), disk.has_failed()), (usize::from(is_kept), true), "room for {room_bytes}");
        super::assert_store_is_right(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_past_the_store_is_broken_off_too() {
    let (fake, digest, _) = fake_with_blob(3, LENGTH).await;
    fake.on(On::BlobGet).always(Fault::FlipByte);
    let server = server_on(&fake, &FaultyDisk::full_from(Operation::Create, 1), "").await;
    for range in ["", "bytes=0-"] {
        let headers = if range.is_empty() { vec![] } else { vec![("range", range)] };
        let answer = server.ask(reqwest::Method::GET, &Headpond::blob(&digest), &headers).await;
        let got = answer.body.expect_err("a body that must not be complete");
        assert!(got.len() <= LENGTH - 64 * 1024, "{range} {}", got.len());
    }
    assert_eq!(server.metric("headpond_digest_mismatch_total"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_past_the_store_is_taken_up_where_it_broke() {
    for (seed, other) in [(4, None), (5, Some(Fault::IgnoreRange))] {
        let (fake, digest, content) = fake_with_blob(seed, LENGTH).await;
        fake.on(On::BlobGet).times(2, Fault::CutBodyAt(5 * MIB as u64));
        let ranges_ignored = other.is_some();
        other.into_iter().for_each(|fault| fake.on(On::BlobGet).always(fault));
        let server = server_on(&fake, &FaultyDisk::full_from(Operation::Create, 1), "").await;
        assert_eq!(Reader::open(&server, &digest, "", &content).await.rest().await, Ok(LENGTH));
        if !ranges_ignored {
            // What was on its way when a connection was cut is lost, which is up to 200 KiB for each of the two; from its first
            // byte again it would be 225 %.
            super::assert_at_most(fake.blob_bytes_sent(&digest), 110, LENGTH);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_past_the_store_are_bounded_in_number() {
    let (fake, digest, content) = fake_with_blob(6, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 2);
    let server = server_on(&fake, &FaultyDisk::full_from(Operation::Create, 1), "limits: {max_bypasses: 1}").await;
    let mut first = Reader::open(&server, &digest, "", &content).await;
    first.read_to(LENGTH / 4).await;
    let second = Reader::open(&server, &digest, "", &content);
    let release = async {
        server.wait_for_metric("headpond_followers_inflight", 2).await;
        server.wait_for_fills().await;
        assert_eq!(server.metric("headpond_bypasses_inflight"), 1);
        fake.release();
        assert_eq!(first.rest().await, Ok(LENGTH));
        drop(first);
    };
    let (mut second, ()) = tokio::join!(second, release);
    assert_eq!(second.rest().await, Ok(LENGTH));
    // One for each client. What the fill asks before it knows that the store is full may get there, or not.
    let requests = fake.requests_matching("GET", "/blobs/");
    assert!((2..=3).contains(&requests), "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transfers_past_the_store_a_full_one_is_503_at_once() {
    let (fake, digest, _) = fake_with_blob(7, LENGTH).await;
    let server = server_on(&fake, &FaultyDisk::full_from(Operation::Create, 1), "limits: {max_bypasses: 0}").await;
    let answer = server.get(&Headpond::blob(&digest)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_a_body_without_a_length_is_streamed_past_the_store_too() {
    let fake = FakeUpstream::start().await;
    let content = crate::fake_upstream::pseudo_random(8, LENGTH);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    let server = server_on(&fake, &FaultyDisk::full_from(Operation::Create, 1), "").await;
    server.get("/v2/up/library/x/manifests/1").await;
    fake.on(On::BlobGet).always(Fault::Chunked);
    fake.on(On::BlobGet).always(Fault::Endless);
    fake.on(On::BlobGet).always(Fault::IgnoreRange);
    let mut range = Reader::open(&server, &image.layers[0], "bytes=4000000-4999999", &content).await;
    assert_eq!(range.rest().await, Ok(5_000_000));
    let mut whole = Reader::open(&server, &image.layers[0], "", &content).await;
    assert_eq!(whole.rest().await, Ok(LENGTH));
}

/// What is logged while a test runs on one thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn one_line_of_the_log_says_that_a_blob_was_not_kept_and_why() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let (fake, digest, content) = fake_with_blob(9, LENGTH).await;
    fake.hold_blobs_at(LENGTH as u64 / 4);
    let server = server_on(&fake, &FaultyDisk::full_after(LENGTH / 2), "").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Reader::open(&server, &digest, "", &content).await);
    }
    fake.release();
    for client in &mut clients {
        assert_eq!(client.rest().await, Ok(LENGTH));
    }
    server.wait_for_fills().await;
    let lines = log.lines_with("");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["was not kept", "the store is full", "storage.path", &digest.to_string()] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

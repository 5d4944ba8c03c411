//! Ranges that are wanted while all connections of a blob are taken.

use super::parallel::{LENGTH, slow_upstream};
use super::{MIB, Reader, assert_at_most};

/// One client reads the blob, and once so many connections bring it another one wants its last but one MiB.
/// How much had been sent when it had that.
async fn sent_before_the_range(seed: u64, rule: &str, connections: usize) -> u64 {
    let (fake, server, digest, content) = slow_upstream(seed, rule).await;
    let mut whole = Reader::open(&server, &digest, "", &content).await;
    let range = async {
        fake.wait_until_requests("GET", "/blobs/", connections).await;
        fake.wait_until_blob_bytes_sent(&digest, 4 * MIB as u64).await;
        let text = format!("bytes={}-{}", LENGTH - 2 * MIB, LENGTH - MIB - 1);
        let mut part = Reader::open(&server, &digest, &text, &content).await;
        assert_eq!(part.rest().await, Ok(LENGTH - MIB));
        fake.blob_bytes_sent(&digest)
    };
    let (rest, sent) = tokio::join!(whole.rest(), range);
    assert_eq!(rest, Ok(LENGTH));
    server.wait_for_fills().await;
    assert_at_most(fake.blob_bytes_sent(&digest), 105, LENGTH);
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_takes_the_place_of_a_connection_that_is_ahead_of_all_clients() {
    let sent = sent_before_the_range(1, "connections: 2", 2).await;
    assert!(sent < 12 * MIB as u64, "it waited until {} MiB were there", sent / MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_has_its_turn_where_the_front_has_the_only_connection() {
    for rule in ["connections: 1", "max_connections: 1"] {
        let sent = sent_before_the_range(2, rule, 1).await;
        assert!(sent < 18 * MIB as u64, "{rule}: it waited until {} MiB were there", sent / MIB as u64);
    }
}

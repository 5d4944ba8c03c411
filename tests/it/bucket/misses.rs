//! What a replica does not have on its disk, and the bucket has.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use headpond::oci::Digest;

use super::{MIB, fake_with_image, key, pull, replica, stored};
use crate::fake_bucket::{FakeBucket, Fault};
use crate::fake_upstream::FakeUpstream;
use crate::fill::{Reader, assert_at_most};
use crate::headpond::Headpond;

/// Some 6 MiB a second over one connection, so that readers meet and several connections are worth it.
const DRIPPING: Fault = Fault::Drip(Duration::from_millis(5));
const READERS: usize = 20;

/// A replica with an empty disk over a bucket that has a blob, knows who may serve it, and drips.
async fn beside_full_bucket(seed: u64, length: usize) -> (FakeUpstream, FakeBucket, Headpond, Digest, Bytes) {
    let (fake, image, content) = fake_with_image(seed, length).await;
    let bucket = FakeBucket::start().await;
    let first = replica(&fake, &bucket, "", "").await;
    pull(&first, &image).await;
    stored(&bucket, &image).await;
    first.stop().await;
    let second = replica(&fake, &bucket, "", "").await;
    assert_eq!(second.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
    fake.clear_journal();
    bucket.break_path(&key(&image.layers[0]), DRIPPING);
    bucket.take_journal();
    (fake, bucket, second, image.layers[0], content)
}

/// The ranges that were asked for of a blob, in order of arrival; `None` is all of it.
fn asked(bucket: &FakeBucket, digest: &Digest) -> Vec<Option<String>> {
    let key = key(digest);
    let calls = bucket.take_journal().into_iter().filter(|call| call.method == "GET" && call.path.ends_with(&key));
    calls.map(|call| call.headers.get("range").map(|range| range.to_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_blob_cost_the_bucket_one_request_and_upstream_none() {
    const LENGTH: usize = 8 * MIB;
    let (fake, bucket, server, digest, content) = Box::pin(beside_full_bucket(61, LENGTH)).await;
    let read = async || Reader::open(&server, &digest, "", &content).await.rest().await;
    assert_eq!(join_all((0..READERS).map(|_| read())).await, vec![Ok(LENGTH); READERS]);
    assert_eq!(asked(&bucket, &digest), [None]);
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_ranges_cost_the_bucket_each_range_once_and_upstream_none() {
    const LENGTH: usize = 40 * MIB;
    let (fake, bucket, server, digest, content) = Box::pin(beside_full_bucket(62, LENGTH)).await;
    let read = async |number: usize| {
        let start = (1 + number % 4) * 9 * MIB;
        let range = format!("bytes={start}-{}", start + MIB - 1);
        let end = Reader::open(&server, &digest, &range, &content).await.rest().await;
        assert_eq!(end, Ok(start + MIB));
    };
    join_all((0..READERS).map(read)).await;
    server.wait_for_fills().await;
    let asked = asked(&bucket, &digest);
    let distinct: HashSet<_> = asked.iter().collect();
    assert!(asked.len() > 4 && distinct.len() == asked.len(), "{asked:#?}");
    assert_at_most(server.metric(r#"headpond_fill_bytes_total{source="bucket"}"#), 105, LENGTH);
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_of_a_slow_bucket_comes_over_several_connections_and_once() {
    const LENGTH: usize = 40 * MIB;
    let (fake, bucket, server, digest, content) = Box::pin(beside_full_bucket(63, LENGTH)).await;
    assert_eq!(Reader::open(&server, &digest, "", &content).await.rest().await, Ok(LENGTH));
    server.wait_for_fills().await;
    let asked = asked(&bucket, &digest);
    assert!(asked[0].is_none() && asked.iter().flatten().count() >= 2, "{asked:#?}");
    assert_at_most(server.metric(r#"headpond_fill_bytes_total{source="bucket"}"#), 105, LENGTH);
    assert_eq!(fake.journal(), []);
}

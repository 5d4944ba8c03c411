//! `delivery: redirect`.

use std::time::Duration;

use super::{MIB, eventually, fake_with_image, key, pull, replica, stored};
use crate::fake_bucket::FakeBucket;
use crate::headpond::Headpond;

const NOT_ASKED: &str = "headpond_bucket_circuit_state";

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_that_the_bucket_has_are_answered_with_a_signed_url() {
    let (fake, image, content) = fake_with_image(21, 3 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, ", delivery: redirect", "").await;
    pull(&server, &image).await;
    stored(&bucket, &image).await;
    let layer = Headpond::blob(&image.layers[0]);
    let answer = server.get(&layer).await;
    assert_eq!(answer.status, 307);
    assert_eq!(answer.header("cache-control"), "no-store");
    let url = answer.header("location").to_owned();
    assert!(url.starts_with(&bucket.url()) && url.contains("X-Amz-Signature="), "{url}");
    let blob = server.client.get(&url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(blob, content);
    let part = server.client.get(&url).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap()), (206, content.slice(10..20)));
    let tampered = server.client.get(url.replace(&image.layers[0].hex(), &image.config.hex())).send().await.unwrap();
    assert_eq!(tampered.status(), 403);
    // HEAD and small blobs are answered here, and so is a range that is none.
    let head = server.head(&layer).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, content.len().to_string().as_str()));
    assert_eq!(server.get(&Headpond::blob(&image.config)).await.digest(), image.config);
    assert_eq!(server.get_range(&layer, "bytes=99999999-").await.status, 416);
    let counted = server.metric("headpond_cache_bytes_total{direction=\"redirected\",rule=\"up\"}");
    assert_eq!(counted, 3 << 20, "counted by length");
}

/// What it has is remembered for longer than it takes a bucket to go away.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_a_bucket_that_does_not_answer() {
    let (fake, image, _) = fake_with_image(23, 3 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, ", delivery: redirect", "limits: {bucket_timeout: 1s, bucket_attempts: 1}").await;
    pull(&server, &image).await;
    stored(&bucket, &image).await;
    server.wait_for_fills().await;
    let layer = Headpond::blob(&image.layers[0]);
    assert_eq!(server.get(&layer).await.status, 307);
    bucket.stop().await;
    // Something asks it, and finds that it is gone.
    assert_eq!(server.get("/v2/up/library/y/manifests/1").await.status, 404);
    server.wait_for_metric(NOT_ASKED, 1).await;
    let answer = server.get(&layer).await;
    assert_eq!((answer.status.as_u16(), answer.digest()), (200, image.layers[0]));
    assert_eq!(fake.blob_bytes_sent(&image.layers[0]), 3 << 20, "it came from the disk");
    bucket.resume().await;
    // The client that asks is what finds it back.
    let found_back = async { while server.get(&layer).await.status != 307 {} };
    tokio::time::timeout(Duration::from_secs(60), found_back).await.expect("clients are sent there again");
    assert_eq!(server.metric(NOT_ASKED), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_an_object_that_is_known_to_be_rotten() {
    let (fake, image, content) = fake_with_image(22, 3 * MIB).await;
    let bucket = FakeBucket::start().await;
    let server = replica(&fake, &bucket, ", max_size: 0, delivery: redirect", "").await;
    pull(&server, &image).await;
    stored(&bucket, &image).await;
    let file = bucket.file(&key(&image.layers[0]));
    let mut bytes = content.to_vec();
    bytes[5] ^= 1;
    bucket.replace(&key(&image.layers[0]), &bytes);
    // Another repository has it, too: with upstream's word it is taken from the bucket.
    fake.put_image("library/y", "1", std::slice::from_ref(&content));
    let layer = format!("/v2/up/library/y/blobs/{}", image.layers[0]);
    let answer = server.get(&layer).await;
    assert!(answer.body.is_err(), "nobody gets all of it");
    server.wait_for_fills().await;
    let again = server.get(&layer).await;
    assert_eq!((again.status.as_u16(), again.digest()), (200, image.layers[0]));
    eventually("the blob in the bucket is right again", || std::fs::read(&file).unwrap() == content).await;
}

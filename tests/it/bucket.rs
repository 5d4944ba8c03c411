//! A bucket as the truth: what comes in goes there, and comes from there.

mod faults;
mod fills;
mod gone;
mod misses;
mod redirect;
mod slow;
mod upkeep;

use std::time::Duration;

use bytes::Bytes;
use headpond::app::World;
use headpond::oci::Digest;

use crate::fake_bucket::FakeBucket;
use crate::fake_upstream::{FakeUpstream, Image, pseudo_random};
use crate::headpond::{Headpond, configuration};

const MIB: usize = 1 << 20;

/// A server over `bucket` with a directory of its own: one of several replicas. `storage` and `top` are further keys.
async fn replica(fake: &FakeUpstream, bucket: &FakeBucket, storage: &str, top: &str) -> Headpond {
    replica_in(fake, bucket, storage, top, tempfile::tempdir().unwrap()).await
}

/// Like [`replica`], on a directory that may hold something.
async fn replica_in(fake: &FakeUpstream, bucket: &FakeBucket, storage: &str, top: &str, directory: tempfile::TempDir) -> Headpond {
    replica_of(fake, bucket, &configuration(&fake.url(), "", top), storage, directory).await
}

/// Like [`replica`], with further keys of the rule.
async fn replica_by(fake: &FakeUpstream, bucket: &FakeBucket, rule: &str, top: &str) -> Headpond {
    replica_of(fake, bucket, &configuration(&fake.url(), rule, top), "", tempfile::tempdir().unwrap()).await
}

async fn replica_of(fake: &FakeUpstream, bucket: &FakeBucket, text: &str, storage: &str, directory: tempfile::TempDir) -> Headpond {
    Headpond::of(fake, &over(bucket, text, storage), directory, World::default()).await
}

/// Like [`replica`], in a world with faults.
async fn replica_in_world(fake: &FakeUpstream, bucket: &FakeBucket, top: &str, world: World) -> Headpond {
    let text = over(bucket, &configuration(&fake.url(), "", top), "");
    Headpond::of(fake, &text, tempfile::tempdir().unwrap(), world).await
}

/// A configuration with its store over the bucket.
fn over(bucket: &FakeBucket, text: &str, storage: &str) -> String {
    text.replace("storage: {path: headpond-data}", &format!("storage: {{path: headpond-data, s3: {}{storage}}}", bucket.s3()))
}

/// An upstream with an image of one layer.
async fn fake_with_image(seed: u64, length: usize) -> (FakeUpstream, Image, Bytes) {
    let fake = FakeUpstream::start().await;
    let content = pseudo_random(seed, length);
    let image = fake.put_image("library/x", "1", std::slice::from_ref(&content));
    (fake, image, content)
}

fn key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

/// Pulls the image as a client does: tag, config, layer.
async fn pull(server: &Headpond, image: &Image) {
    let manifest = server.get("/v2/up/library/x/manifests/1").await;
    assert_eq!(manifest.status, 200, "{:?}", manifest.body);
    for digest in std::iter::once(&image.config).chain(&image.layers) {
        let blob = server.get(&Headpond::blob(digest)).await;
        assert_eq!(blob.status, 200);
        assert_eq!(blob.digest(), *digest);
    }
}

/// Waits until `holds`; what is written behind an answer takes a moment.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// Waits until the bucket has all of an image, with its records.
async fn stored(bucket: &FakeBucket, image: &Image) {
    let blobs: Vec<_> = image.layers.iter().chain([&image.config, &image.digest]).map(key).collect();
    eventually("the image is in the bucket", || {
        let keys = bucket.keys();
        let has = |wanted: &str| keys.iter().any(|key| key.starts_with(wanted));
        blobs.iter().all(|blob| has(blob)) && has("repositories/up!library!x") && has("images/up/library/x/_tags/1")
    })
    .await;
}

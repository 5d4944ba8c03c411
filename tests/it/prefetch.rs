//! Blobs that come before a client asks for them: which, when, and behind whom.

use bytes::Bytes;
use headpond::app::World;
use headpond::oci::{Digest, MediaType};
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, Fault, Image, On, pseudo_random};
use crate::fill::Reader;
use crate::headpond::{Headpond, configuration};

const KIB: usize = 1024;

fn layers(seed: u64) -> [Bytes; 3] {
    [0, 1, 2].map(|number| pseudo_random(seed * 10 + number, 200 * KIB))
}

/// An upstream with an image of three layers, and a server that has its manifest.
async fn with_image(rule: &str, top: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &layers(1));
    let server = Headpond::with(&fake, rule, top).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    (fake, server, image)
}

async fn pull(server: &Headpond, blob: &Digest) {
    assert_eq!(server.get(&Headpond::blob(blob)).await.digest(), *blob);
}

fn blobs_of(image: &Image) -> impl Iterator<Item = &Digest> {
    image.layers.iter().chain([&image.config])
}

fn gets(fake: &FakeUpstream, blob: &Digest) -> usize {
    fake.requests_matching("GET", &format!("/blobs/{blob}"))
}

#[tokio::test]
async fn the_first_blob_of_an_image_brings_the_others_once() {
    let (fake, server, image) = with_image("prefetch: image", "").await;
    pull(&server, &image.layers[1]).await;
    server.wait_for_metric("headpond_prefetches_total", 3).await;
    server.wait_for_fills().await;
    assert!(blobs_of(&image).all(|blob| gets(&fake, blob) == 1));
    fake.clear_journal();
    for blob in blobs_of(&image) {
        pull(&server, blob).await;
    }
    assert_eq!(fake.journal(), [], "all of it is here");
    assert_eq!(server.metric("headpond_prefetches_total"), 3);
}

#[tokio::test]
async fn a_client_that_asks_for_everything_at_once_costs_no_blob_twice() {
    let (fake, server, image) = with_image("prefetch: image", "").await;
    let all = blobs_of(&image).map(|blob| pull(&server, blob));
    futures::future::join_all(all).await;
    server.wait_for_fills().await;
    assert!(blobs_of(&image).all(|blob| gets(&fake, blob) == 1));
}

#[tokio::test]
async fn nothing_is_prefetched_unless_the_rule_says_so() {
    for rule in ["", "prefetch: off"] {
        let (fake, server, image) = with_image(rule, "").await;
        pull(&server, &image.layers[0]).await;
        server.wait_for_fills().await;
        assert_eq!((fake.requests_matching("GET", "/blobs/"), server.metric("headpond_prefetches_total")), (1, 0), "{rule}");
    }
}

#[tokio::test]
async fn heads_prefetch_nothing() {
    let (fake, server, image) = with_image("prefetch: image", "").await;
    assert_eq!(server.head(&Headpond::blob(&image.layers[0])).await.status, StatusCode::OK);
    assert_eq!(server.metric("headpond_prefetches_total"), 0);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 0);
}

/// An index of images with their platforms.
pub(crate) fn index_of(images: &[(&Image, &str)]) -> String {
    let manifest = |(image, platform): &(&Image, &str)| {
        let (os, architecture) = platform.split_once('/').unwrap();
        serde_json::json!({
            "mediaType": MediaType::OCI_MANIFEST, "digest": image.digest, "size": image.manifest.len(),
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let manifests: Vec<_> = images.iter().map(manifest).collect();
    serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests}).to_string()
}

/// Puts an index of images for these platforms. The images, in order.
fn put_index(fake: &FakeUpstream, platforms: &[&str]) -> Vec<Image> {
    let images: Vec<_> = (1..).zip(platforms).map(|(seed, _)| fake.put_image("library/x", "part", &layers(seed))).collect();
    let with_platforms: Vec<_> = images.iter().zip(platforms.iter().copied()).collect();
    fake.put_manifest("library/x", "1", index_of(&with_platforms), MediaType::OCI_INDEX);
    images
}

/// Pulls the first platform's manifests and one blob. For each image: manifests and blobs that were fetched.
async fn fetched_beside_the_first(rule: &str, prefetched: u64) -> Vec<(usize, usize)> {
    let fake = FakeUpstream::start().await;
    let images = put_index(&fake, &["linux/amd64", "linux/arm64", "linux/s390x", "unknown/unknown"]);
    let server = Headpond::with(&fake, rule, "").await;
    for reference in ["1".to_owned(), images[0].digest.to_string()] {
        assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{reference}")).await.status, StatusCode::OK);
    }
    pull(&server, &images[0].layers[0]).await;
    server.wait_for_metric("headpond_prefetches_total", prefetched).await;
    server.wait_for_fills().await;
    let fetched = |image: &Image| {
        let manifests = fake.requests_matching("GET", &format!("/manifests/{}", image.digest));
        (manifests, blobs_of(image).map(|blob| gets(&fake, blob)).sum())
    };
    images.iter().map(fetched).collect()
}

#[tokio::test]
async fn the_platforms_that_are_named_come_too() {
    let fetched = fetched_beside_the_first("prefetch: {platforms: [linux/arm64]}", 3 + 4).await;
    assert_eq!(fetched, [(1, 4), (1, 4), (0, 0), (0, 0)]);
}

#[tokio::test]
async fn all_platforms_come_too() {
    let fetched = fetched_beside_the_first("prefetch: all", 3 + 4 + 4).await;
    assert_eq!(fetched, [(1, 4), (1, 4), (1, 4), (0, 0)], "what is for no platform stays");
}

#[tokio::test]
async fn the_image_alone_brings_no_other_platform() {
    let fetched = fetched_beside_the_first("prefetch: image", 3).await;
    assert_eq!(fetched, [(1, 4), (0, 0), (0, 0), (0, 0)]);
}

#[tokio::test]
async fn few_blobs_are_prefetched_at_one_time() {
    let (fake, server, image) = with_image("prefetch: image", "limits: {max_prefetches: 1}").await;
    fake.on(On::BlobGet).always(Fault::HangHead);
    let client = pull(&server, &image.layers[0]);
    let release = async {
        fake.wait_until_requests("GET", "/blobs/", 2).await;
        assert_eq!(server.metric("headpond_prefetches_total"), 1);
        assert_eq!(server.metric("headpond_fills_inflight"), 2);
        fake.release();
    };
    tokio::join!(client, release);
    server.wait_for_metric("headpond_prefetches_total", 3).await;
    server.wait_for_fills().await;
}

#[tokio::test]
async fn what_is_prefetched_of_one_rule_keeps_out_nothing_of_another() {
    let [fake, other] = [FakeUpstream::start().await, FakeUpstream::start().await];
    let [image, beside] = [(&fake, 1), (&other, 2)].map(|(fake, seed)| fake.put_image("library/x", "1", &layers(seed)));
    let text = configuration(&fake.url(), "prefetch: image", "limits: {max_prefetches: 1}")
        + &format!("  - {{prefix: other, upstream: \"{}\", prefetch: image}}\n", other.url());
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), World::default()).await;
    // The configs are short enough to come; what they bring is held.
    for (fake, prefix, config) in [(&fake, "up", &image.config), (&other, "other", &beside.config)] {
        fake.hold_blobs_at(100 * KIB as u64);
        assert_eq!(server.get(&format!("/v2/{prefix}/library/x/manifests/1")).await.status, StatusCode::OK);
        assert_eq!(server.get(&format!("/v2/{prefix}/library/x/blobs/{config}")).await.digest(), *config);
        fake.wait_until_requests("GET", "/blobs/", 2).await;
    }
    assert_eq!(server.metric("headpond_prefetches_total"), 2);
    [fake, other].iter().for_each(FakeUpstream::release);
    server.wait_for_metric("headpond_prefetches_total", 6).await;
    server.wait_for_fills().await;
}

#[tokio::test]
async fn what_a_client_waits_for_goes_before_what_is_prefetched() {
    let (fake, server, image) = with_image("prefetch: image\nmax_connections: 1", "limits: {max_prefetches: 1}").await;
    fake.hold_blobs_at(100 * KIB as u64);
    let first = pull(&server, &image.layers[0]);
    let others = async {
        fake.wait_until_requests("GET", "/blobs/", 1).await;
        // The others of the image leave the only connection alone; then a client comes for one of them.
        let second = pull(&server, &image.layers[2]);
        let release = async {
            server.wait_for_metric(r#"headpond_upstream_connections_waited_for{rule="up"}"#, 1).await;
            assert_eq!(server.metric("headpond_prefetches_total"), 0);
            fake.release();
        };
        tokio::join!(second, release);
    };
    tokio::join!(first, others);
    server.wait_for_metric("headpond_prefetches_total", 2).await;
    server.wait_for_fills().await;
    let asked: Vec<_> = fake.journal().into_iter().filter(|it| it.path.contains("/blobs/")).map(|it| it.path).collect();
    let ends_with = |index: usize, blob: &Digest| asked[index].ends_with(&blob.to_string());
    assert!(ends_with(0, &image.layers[0]) && ends_with(1, &image.layers[2]), "{asked:?}");
    assert_eq!(asked.len(), 4);
}

#[tokio::test]
async fn what_is_prefetched_is_dropped_for_a_client() {
    let (fake, server, image) = with_image("prefetch: image", "limits: {max_prefetches: 1, max_fills: 2}").await;
    let other = pseudo_random(99, 200 * KIB);
    let wanted = fake.put_blob(other.clone());
    fake.hold_blobs_at(100 * KIB as u64);
    let first = pull(&server, &image.layers[0]);
    let others = async {
        // The config is short enough to have come; a layer is held.
        fake.wait_until_requests("GET", "/blobs/", 3).await;
        let mut second = Reader::open(&server, &wanted, "", &other).await;
        server.wait_for_metric(r#"headpond_fills_total{result="dropped"}"#, 1).await;
        fake.release();
        assert_eq!(second.rest().await, Ok(other.len()));
    };
    tokio::join!(first, others);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().contains(&wanted.hex().to_string()), "it is kept");
}

/// Has every answer about manifests tell so many pulls that are left.
fn tell(fake: &FakeUpstream, remaining: u64) {
    fake.on(On::Manifests).always(Fault::Header("ratelimit-limit", "100;w=21600".to_owned()));
    fake.on(On::Manifests).always(Fault::Header("ratelimit-remaining", format!("{remaining};w=21600")));
}

#[tokio::test]
async fn under_the_floor_nothing_is_prefetched() {
    let fake = FakeUpstream::start().await;
    let images = put_index(&fake, &["linux/amd64", "linux/arm64"]);
    let other = fake.put_image("library/y", "1", &layers(7));
    let server = Headpond::with(&fake, "prefetch: all\nquota_floor: 20", "").await;
    tell(&fake, 20);
    for reference in ["1".to_owned(), images[0].digest.to_string()] {
        assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{reference}")).await.status, StatusCode::OK);
    }
    pull(&server, &images[0].layers[0]).await;
    server.wait_for_fills().await;
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
    // Over it, all of another image comes, and nothing of what was left.
    fake.clear_faults();
    tell(&fake, 21);
    assert_eq!(server.get("/v2/up/library/y/manifests/1").await.status, StatusCode::OK);
    assert_eq!(server.get(&format!("/v2/up/library/y/blobs/{}", other.layers[0])).await.digest(), other.layers[0]);
    server.wait_for_metric("headpond_prefetches_total", 3).await;
    server.wait_for_fills().await;
    assert_eq!((fake.requests_matching("GET", "/blobs/"), fake.manifest_gets()), (1 + 4, 3));
}

#[tokio::test]
async fn pulls_that_run_out_meanwhile_end_the_prefetch() {
    let fake = FakeUpstream::start().await;
    let images = put_index(&fake, &["linux/amd64", "linux/arm64", "linux/s390x"]);
    let server = Headpond::with(&fake, "prefetch: all\nquota_floor: 20", "").await;
    for reference in ["1".to_owned(), images[0].digest.to_string()] {
        assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{reference}")).await.status, StatusCode::OK);
    }
    // The manifest of the second platform is the last one that may be spent.
    tell(&fake, 20);
    pull(&server, &images[0].layers[0]).await;
    fake.wait_until_requests("GET", &format!("/manifests/{}", images[1].digest), 1).await;
    server.wait_for_metric("headpond_prefetches_total", 3).await;
    server.wait_for_fills().await;
    let of_others: usize = images[1..].iter().flat_map(blobs_of).map(|blob| gets(&fake, blob)).sum();
    assert_eq!((of_others, fake.requests_matching("GET", &format!("/manifests/{}", images[2].digest))), (0, 0));
}

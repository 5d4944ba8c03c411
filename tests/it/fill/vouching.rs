//! Which repository may serve a blob that is here.

use headpond::app::World;
use headpond::oci::Digest;
use reqwest::StatusCode;
use tempfile::TempDir;

use super::{MIB, Reader};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::{Headpond, configuration};

/// A server with two rules, `up` and `other`, and two upstreams.
async fn server_before(up: &FakeUpstream, other: &FakeUpstream, directory: TempDir) -> Headpond {
    let text = format!("{}  - prefix: other\n    upstream: {}\n", configuration(&up.url(), "", ""), other.url());
    Headpond::of(up, &text, directory, World::default()).await
}

async fn two_upstreams() -> (FakeUpstream, FakeUpstream, Headpond) {
    let (up, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let server = server_before(&up, &other, tempfile::tempdir().unwrap()).await;
    (up, other, server)
}

fn blob_of(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_is_not_served_through_an_upstream_that_does_not_have_it() {
    let (up, other, server) = two_upstreams().await;
    let digest = up.put_blob(pseudo_random(1, MIB));
    assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
    server.wait_for_fills().await;
    for range in ["bytes=0-0", "bytes=0-"] {
        let answer = server.get_range(&blob_of("other/library/x", &digest), range).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(server.get(&blob_of("other/library/x", &digest)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.head(&blob_of("other/library/x", &digest)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.requests_matching("HEAD", "/blobs/"), 1, "the 404 is remembered");
    assert_eq!(other.requests_matching("GET", "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_on_its_way_in_is_not_served_through_an_upstream_that_does_not_have_it() {
    let (up, _other, server) = two_upstreams().await;
    let content = pseudo_random(2, MIB);
    let digest = up.put_blob(content.clone());
    up.hold_blobs_at(MIB as u64 / 2);
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(MIB / 4).await;
    assert_eq!(server.get(&blob_of("other/library/x", &digest)).await.status, StatusCode::NOT_FOUND);
    up.release();
    assert_eq!(client.rest().await, Ok(MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_that_another_upstream_has_is_served_without_a_download() {
    let (up, other, server) = two_upstreams().await;
    let content = pseudo_random(3, MIB);
    let digest = up.put_blob(content.clone());
    other.put_blob(content.clone());
    assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
    server.wait_for_fills().await;
    let range = server.get_range(&blob_of("other/library/x", &digest), "bytes=5-9").await;
    assert!(*range.bytes() == content[5..10]);
    for _ in 0..2 {
        assert_eq!(server.get(&blob_of("other/library/x", &digest)).await.digest(), digest);
    }
    assert_eq!((other.requests_matching("HEAD", "/blobs/"), other.requests_matching("GET", "/blobs/")), (1, 0));
    // The word is kept.
    let directory = server.stop().await;
    let server = server_before(&up, &other, directory).await;
    other.stop().await;
    assert_eq!(server.get(&blob_of("other/library/x", &digest)).await.digest(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_on_its_way_in_that_another_upstream_has_is_followed() {
    let (up, other, server) = two_upstreams().await;
    let content = pseudo_random(4, MIB);
    let digest = up.put_blob(content.clone());
    other.put_blob(content.clone());
    up.hold_blobs_at(MIB as u64 / 2);
    let mut client = Reader::open(&server, &digest, "", &content).await;
    client.read_to(MIB / 4).await;
    let mut second = Reader::of(server.send(reqwest::Method::GET, &blob_of("other/library/x", &digest), &[]).await, &content);
    second.read_to(MIB / 4).await;
    up.release();
    assert_eq!((client.rest().await, second.rest().await), (Ok(MIB), Ok(MIB)));
    assert_eq!((other.requests_matching("HEAD", "/blobs/"), other.requests_matching("GET", "/blobs/")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_shared_by_two_repositories_of_one_upstream_needs_no_request() {
    let (up, other, server) = two_upstreams().await;
    let layers = [pseudo_random(5, MIB)];
    let (x, y) = (up.put_image("library/x", "1", &layers), up.put_image("library/y", "1", &layers));
    server.get("/v2/up/library/x/manifests/1").await;
    assert_eq!(server.get(&Headpond::blob(&x.layers[0])).await.digest(), x.layers[0]);
    server.wait_for_fills().await;
    server.get("/v2/up/library/y/manifests/1").await;
    assert_eq!(server.get(&blob_of("up/library/y", &y.layers[0])).await.digest(), y.layers[0]);
    assert_eq!((up.requests_matching("HEAD", "/blobs/"), up.requests_matching("GET", "/blobs/")), (0, 1));
    let directory = server.stop().await;
    up.stop().await;
    let server = server_before(&up, &other, directory).await;
    for repository in ["up/library/y", "up/library/x"] {
        assert_eq!(server.get(&blob_of(repository, &y.layers[0])).await.digest(), y.layers[0], "{repository}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_of_the_same_upstream_has_to_have_it_too() {
    let (up, _other, server) = two_upstreams().await;
    let digest = up.put_blob(pseudo_random(6, MIB));
    up.on(On::Blobs).of(&"library/secret").always(Fault::Status(404));
    assert_eq!(server.get(&Headpond::blob(&digest)).await.digest(), digest);
    server.wait_for_fills().await;
    assert_eq!(server.get(&blob_of("up/library/secret", &digest)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&blob_of("up/library/z", &digest)).await.digest(), digest);
    assert_eq!(up.requests_matching("GET", "/blobs/"), 1);
    up.stop().await;
    let answer = server.get(&blob_of("up/library/unknown", &digest)).await;
    assert!(answer.status.is_server_error(), "nobody vouches: {}", answer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_refuses_in_one_repository_does_not_hurt_another() {
    let (up, _other, server) = two_upstreams().await;
    let image = up.put_image("library/x", "1", &[pseudo_random(7, MIB)]);
    let layer = image.layers[0];
    server.get("/v2/up/library/x/manifests/1").await;
    // The fill begins through a repository that does not have the blob, and is held there.
    up.on(On::BlobGet).of(&"library/secret").once(Fault::HangHead);
    up.on(On::BlobGet).of(&"library/secret").always(Fault::Status(404));
    let (secret, blob) = (blob_of("up/library/secret", &layer), Headpond::blob(&layer));
    let refused = server.get(&secret);
    let served = async {
        up.wait_until_requests("GET", "library/secret/blobs/", 1).await;
        let served = server.get(&blob);
        let release = async {
            server.wait_for_metric("headpond_followers_inflight", 2).await;
            up.release();
            up.wait_until_requests("GET", "library/x/blobs/", 1).await;
        };
        tokio::join!(served, release).0
    };
    let (refused, served) = tokio::join!(refused, served);
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(served.digest(), layer);
}

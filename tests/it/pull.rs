//! The main job: an image pulled through, cached, and pulled again.

use std::os::unix::fs::MetadataExt;

use headpond::app::World;
use headpond::oci::{Digest, MediaType};
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, pseudo_random};
use crate::headpond::Headpond;
use crate::hosted::hosted_record;

#[tokio::test(flavor = "multi_thread")]
async fn second_pull_of_an_image_makes_no_upstream_request() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(1, 3 << 20)]);
    let server = Headpond::before(&fake).await;
    for round in 0..2 {
        let manifest = server.get("/v2/up/library/x/manifests/1").await;
        assert_eq!(manifest.status, StatusCode::OK);
        assert_eq!(manifest.digest(), image.digest);
        assert_eq!(manifest.header("docker-content-digest"), image.digest.to_string());
        let layer = server.get(&Headpond::blob(&image.layers[0])).await;
        assert_eq!(layer.digest(), image.layers[0], "round {round}");
        server.wait_for_fills().await;
    }
    assert_eq!(fake.requests_matching("GET", "/manifests/"), 1);
    assert_eq!(fake.requests_matching("GET", "/blobs/"), 1);
    assert_eq!(fake.requests_matching("HEAD", ""), 0);
    server.wait_for_metric(r#"headpond_cache_requests_total{kind="blob",result="hit",rule="up"}"#, 1).await;
    assert_eq!(server.staged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_served_after_a_restart_without_the_upstream() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[pseudo_random(2, 1 << 20)]);
    let server = Headpond::before(&fake).await;
    server.get("/v2/up/library/x/manifests/1").await;
    server.get(&Headpond::blob(&image.layers[0])).await;
    server.wait_for_fills().await;
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, headpond::app::World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lies_about_a_size_reserves_nothing_for_good() {
    let fake = FakeUpstream::start().await;
    let blob = fake.put_blob("tiny");
    let size = 64u64 << 20;
    let manifest = format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{blob}","size":{size}}},"layers":[]}}"#);
    fake.put_manifest("library/x", "1", manifest, MediaType::OCI_MANIFEST);
    let server = Headpond::before(&fake).await;
    server.get("/v2/up/library/x/manifests/1").await;
    assert_eq!(server.get(&Headpond::blob(&blob)).await.bytes(), "tiny");
    server.wait_for_fills().await;
    assert!(stored(&server, &blob).blocks() * 512 < 1 << 20, "blocks past the end are never freed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_fetched_once_and_mended() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get("/v2/up/library/x/manifests/1").await;
    let mut directory = server.stop().await;
    let file = blob_file(directory.path(), &image.digest);
    std::fs::write(&file, vec![b' '; image.manifest.len()]).unwrap();
    for fetched in [2, 2] {
        let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
        assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
        assert_eq!(fake.manifest_gets(), fetched);
        directory = server.stop().await;
    }
    assert_eq!(std::fs::read(&file).unwrap(), image.manifest);
}

fn blob_file(directory: &std::path::Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    directory.join("headpond-data/blobs/sha256").join(hex.get(..2).unwrap()).join(&hex)
}

fn stored(server: &Headpond, digest: &Digest) -> std::fs::Metadata {
    std::fs::metadata(blob_file(server.directory.path(), digest)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_repository_stays_one_when_a_rule_covers_its_name() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let (directory, record) = (tempfile::tempdir().unwrap(), hosted_record("up/library/x"));
    let repositories = directory.path().join("headpond-data/repositories");
    std::fs::create_dir_all(&repositories).unwrap();
    std::fs::write(repositories.join("up!library!x"), &record).unwrap();
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
    let directory = server.stop().await;
    assert_eq!(std::fs::read(directory.path().join("headpond-data/repositories/up!library!x")).unwrap(), record);
}

/// As after a crash between the manifest's record and the repository's.
#[tokio::test(flavor = "multi_thread")]
async fn repository_without_a_record_gets_one_with_the_next_pull() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get("/v2/up/library/x/manifests/1").await;
    let directory = server.stop().await;
    let record = directory.path().join("headpond-data/repositories/up!library!x");
    std::fs::remove_file(&record).unwrap();
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v2/_catalog").await.bytes(), r#"{"repositories":[]}"#, "nothing of it was served");
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.digest(), image.digest);
    assert_eq!(server.get("/v2/_catalog").await.bytes(), r#"{"repositories":["up/library/x"]}"#);
}

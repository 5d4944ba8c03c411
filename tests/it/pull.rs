//! The main job: an image pulled through, cached, and pulled again.

use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, pseudo_random};
use crate::headpond::Headpond;

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

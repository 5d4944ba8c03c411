use headpond::app::World;
use headpond::oci::Digest;
use reqwest::StatusCode;

use super::{client, nothing_went_to_the_cdn_but_requests, pull, registry_of};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

#[tokio::test]
async fn quay_io_has_its_realm_below_v2_and_redirects_to_a_cdn_unproven() {
    let (fake, image) = registry_of("prometheus/node-exporter").await;
    fake.require_bearer();
    fake.realm(&format!("{}/v2/auth", fake.url()));
    fake.redirect_blobs_to_cdn();
    pull(&client(&fake), "prometheus/node-exporter", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
}

#[tokio::test(flavor = "multi_thread")]
async fn quay_io_has_images_of_schema_1_which_are_refused_in_words_unproven() {
    let fake = FakeUpstream::start().await;
    let manifest = r#"{"schemaVersion":1,"name":"o/old","tag":"1","fsLayers":[{"blobSum":"sha256:0"}],"history":[],"signatures":[]}"#;
    for media_type in ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json"] {
        fake.put_manifest("o/old", "1", manifest, media_type);
        let server = Headpond::before(&fake).await;
        let answer = server.get("/v2/up/o/old/manifests/1").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{answer:?}");
        for words in ["schema 1", "is not supported", "push the image again"] {
            assert!(answer.message().contains(words), "{media_type}: {}", answer.message());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quay_io_answers_502_now_and_then_unproven() {
    let (fake, image) = registry_of("library/x").await;
    let server = Headpond::in_directory(&fake, "freshness: {default: 0s}", "", tempfile::tempdir().unwrap(), World::default()).await;
    let tag = "/v2/up/library/x/manifests/1";
    assert_eq!(server.get(tag).await.digest(), image.digest);
    fake.on(On::BlobGet).once(Fault::Status(502));
    let layer = server.get(&Headpond::blob(&image.layers[0])).await;
    assert_eq!(Digest::of(layer.bytes()), image.layers[0], "asked for once more");
    fake.on(On::Manifests).once(Fault::Status(502));
    let cached = server.get(tag).await;
    assert_eq!((cached.status, cached.header("warning").is_empty()), (StatusCode::OK, false), "{cached:?}");
}

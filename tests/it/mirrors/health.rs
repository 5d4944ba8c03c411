//! Who is asked first after a failure, and what of a mirror's failures is told.

use futures::future::join_all;
use headpond::oci::Digest;
use reqwest::StatusCode;

use super::{LAYER_BYTES, PAUSE, Scene, TAG};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

/// Small blobs that all registries have.
fn put_blobs(scene: &Scene, count: usize) -> Vec<Digest> {
    let put = |number| {
        let content = format!("blob number {number}");
        for mirror in &scene.mirrors {
            mirror.put_blob(content.clone());
        }
        scene.primary.put_blob(content)
    };
    (0..count).map(put).collect()
}

async fn pull(server: &Headpond, blob: &Digest) {
    assert_eq!(server.get(&Headpond::blob(blob)).await.digest(), *blob);
}

/// Requests for blobs, without those that a redirect led elsewhere.
fn asked(registry: &FakeUpstream) -> usize {
    registry.requests_matching("GET", "/blobs/")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_content_network_fails_is_asked_for_blobs_after_its_mirrors() {
    for fault in [Fault::Status(503), Fault::HangUp, Fault::CutBodyAt(0), Fault::StatusRetryAfter(429, "1".to_owned())] {
        let scene = Scene::with_mirrors(1).await;
        let blobs = put_blobs(&scene, 7);
        let Scene { primary, mirrors, server, image, .. } = &scene;
        primary.redirect_blobs_to_cdn();
        primary.on(On::BlobGet).always(fault.clone());
        for blob in &blobs[..3] {
            pull(server, blob).await;
        }
        assert_eq!((asked(primary), asked(&mirrors[0])), (1, 3), "{fault:?}: it is asked first for every blob");
        assert_eq!(server.get(TAG).await.digest(), image.digest);
        assert_eq!(mirrors[0].manifest_gets(), 0, "{fault:?}: its manifests come as ever");

        // After a while one blob is asked for there first, however many are wanted at once.
        server.clock.advance(PAUSE);
        join_all(blobs[3..6].iter().map(|blob| pull(server, blob))).await;
        assert_eq!((asked(primary), asked(&mirrors[0])), (2, 6), "{fault:?}");

        primary.clear_faults();
        server.clock.advance(PAUSE);
        pull(server, &blobs[6]).await;
        assert_eq!((asked(primary), asked(&mirrors[0])), (3, 6), "{fault:?}: once its blobs come it is first again");
        pull(server, &image.layers[0]).await;
        assert_eq!((asked(primary), asked(&mirrors[0])), (4, 6), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_is_not_there_does_not_make_its_mirrors_go_first() {
    let scene = Scene::with_mirrors(1).await;
    let blobs = put_blobs(&scene, 2);
    let Scene { primary, mirrors, server, .. } = &scene;
    primary.remove("library/x", &blobs[0].to_string());
    assert_eq!(server.get(&Headpond::blob(&blobs[0])).await.status, StatusCode::NOT_FOUND);
    pull(server, &blobs[1]).await;
    assert_eq!((asked(primary), asked(&mirrors[0])), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_throttles_is_held_off_and_another_one_asked() {
    let scene = Scene::with_mirrors(2).await;
    let blobs = put_blobs(&scene, 3);
    let Scene { primary, mirrors, server, image, .. } = &scene;
    server.get(TAG).await;
    primary.stop().await;
    mirrors[0].on(On::Any).always(Fault::StatusRetryAfter(429, "30".to_owned()));
    for blob in blobs.iter().chain(&image.layers) {
        pull(server, blob).await;
    }
    assert_eq!((mirrors[0].journal().len(), asked(&mirrors[1])), (1, 4), "it said when to come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_429_of_a_mirror_is_never_told() {
    let scene = Scene::with_mirrors(1).await;
    let blobs = put_blobs(&scene, 1);
    let Scene { primary, mirrors, server, image, .. } = &scene;
    mirrors[0].on(On::Any).always(Fault::StatusRetryAfter(429, "30".to_owned()));
    server.get(TAG).await;
    // The upstream fails once and works again: it is asked again.
    primary.on(On::BlobGet).once(Fault::Status(503));
    let got = server.get(&Headpond::blob(&image.layers[0])).await;
    assert_eq!(got.bytes().len(), LAYER_BYTES);
    assert_eq!((asked(primary), asked(&mirrors[0])), (2, 1));
    // It is down: what is told is that.
    primary.stop().await;
    for path in [&Headpond::blob(&blobs[0]), "/v2/up/library/y/manifests/1"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer:?}");
        assert!(!answer.message().contains(&mirrors[0].host()), "{}", answer.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_redirects_to_a_private_address_is_refused_and_the_next_asked() {
    let scene = Scene::with_mirrors(2).await;
    let stranger = FakeUpstream::start().await;
    stranger.put_image("library/x", "1", std::slice::from_ref(&scene.layer));
    let Scene { primary, mirrors, server, image, .. } = &scene;
    primary.stop().await;
    for (host, blob) in
        [("169.254.169.254".to_owned(), &image.layers[0]), (stranger.host().replace("127.0.0.1", "localhost"), &image.config)]
    {
        mirrors[0].on(On::Blobs).of(blob).always(Fault::RedirectTo(format!("http://{host}/v2/library/x/blobs/{blob}")));
        mirrors[0].on(On::Manifests).once(Fault::RedirectTo(format!("http://{host}/v2/library/x/manifests/1")));
        assert_eq!(server.get(&scene.by_digest()).await.digest(), image.digest);
        pull(server, blob).await;
        assert!(asked(&mirrors[1]) > 0, "{host}");
    }
    assert!(stranger.journal().is_empty(), "it was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_mirror_redirects_to_is_not_told() {
    let scene = Scene::with_mirrors(1).await;
    let Scene { primary, mirrors, server, image, .. } = &scene;
    primary.stop().await;
    mirrors[0].on(On::Any).always(Fault::RedirectTo("http://169.254.169.254/latest/meta-data".to_owned()));
    for path in [TAG, &Headpond::blob(&image.layers[0])] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer:?}");
        assert!(!answer.message().contains("169.254"), "{}", answer.message());
    }
}

//! What a tag points to is for the upstream to say.

use std::time::Duration;

use reqwest::StatusCode;

use super::{PAUSE, Scene, TAG};
use crate::fake_upstream::{Fault, Image, On};
use crate::headpond::Answer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn is_stale(answer: &Answer) -> bool {
    answer.header("warning").starts_with("110 headpond ")
}

/// The upstream moves its tag; the mirrors stay behind.
fn moved(scene: &Scene) -> Image {
    scene.primary.put_image("library/x", "1", &["moved".into()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_cached_is_a_mirrors_word_until_the_upstream_is_back() {
    let scene = Scene::with_mirrors(1).await;
    scene.primary.stop().await;
    assert_eq!(scene.server.head(TAG).await.header("docker-content-digest"), scene.image.digest.to_string());
    assert_eq!(scene.server.get(TAG).await.digest(), scene.image.digest);
    scene.primary.restart();
    let moved = moved(&scene);
    scene.server.clock.advance(PAUSE);
    let answer = scene.server.get(TAG).await;
    assert_eq!((answer.digest(), is_stale(&answer)), (moved.digest, false), "it was not checked at the upstream");
    scene.primary.clear_journal();
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
    assert!(scene.primary.journal().is_empty(), "the upstream's word is fresh for its window");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_it_was_a_mirrors_word_survives_a_restart() {
    let scene = Scene::with_mirrors(1).await;
    scene.primary.stop().await;
    assert_eq!(scene.server.get(TAG).await.digest(), scene.image.digest);
    let scene = scene.restarted().await;
    let answer = scene.server.get(TAG).await;
    assert_eq!((answer.digest(), is_stale(&answer)), (scene.image.digest, true), "it is served while the upstream is down");
    scene.primary.restart();
    let moved = moved(&scene);
    scene.server.clock.advance(PAUSE);
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_behind_never_turns_back_a_tag() {
    let scene = Scene::with_mirrors(2).await;
    let moved = moved(&scene);
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
    scene.primary.stop().await;
    for age in [Duration::ZERO, DAY, DAY] {
        scene.server.clock.advance(age);
        for _ in 0..3 {
            assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
            assert_eq!(scene.server.head(TAG).await.header("docker-content-digest"), moved.digest.to_string());
        }
    }
    assert!(scene.mirrors.iter().all(|mirror| mirror.journal().is_empty()));
    let scene = scene.restarted().await;
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
    assert!(scene.mirrors.iter().all(|mirror| mirror.requests_matching("GET", "/manifests/1") == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_word_that_comes_late_does_not_stand_over_the_upstreams() {
    let scene = Scene::with_mirrors(1).await;
    // A GET gets no answer and goes to the mirror, which hangs; a HEAD is answered meanwhile.
    scene.primary.on(On::ManifestGet).once(Fault::Status(503));
    scene.mirrors[0].on(On::ManifestGet).once(Fault::HangHead);
    let get = scene.server.get(TAG);
    let meanwhile = async {
        scene.mirrors[0].wait_until_requests("GET", "/manifests/1", 1).await;
        let moved = moved(&scene);
        scene.server.clock.advance(PAUSE);
        let head = scene.server.head(TAG).await;
        assert_eq!(head.header("docker-content-digest"), moved.digest.to_string());
        let by_digest = format!("/v2/up/library/x/manifests/{}", moved.digest);
        assert_eq!(scene.server.get(&by_digest).await.digest(), moved.digest);
        scene.mirrors[0].release();
        moved
    };
    let (late, moved) = tokio::join!(get, meanwhile);
    assert_eq!(late.digest(), scene.image.digest, "it was asked before");
    scene.primary.stop().await;
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_has_moved_is_the_upstreams_word_and_its_manifest_may_be_a_mirrors() {
    let scene = Scene::with_mirrors(1).await;
    assert_eq!(scene.server.get(TAG).await.digest(), scene.image.digest);
    let moved = moved(&scene);
    scene.mirrors[0].put_image("library/x", "other", &["moved".into()]);
    scene.server.clock.advance(DAY);
    scene.primary.on(On::ManifestGet).always(Fault::Status(503));
    let answer = scene.server.get(TAG).await;
    assert_eq!((answer.digest(), is_stale(&answer)), (moved.digest, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_named_by_a_head_is_not_turned_back_either() {
    let scene = Scene::with_mirrors(1).await;
    let moved = moved(&scene);
    assert_eq!(scene.server.head(TAG).await.header("docker-content-digest"), moved.digest.to_string());
    scene.server.clock.advance(DAY);
    scene.primary.stop().await;
    assert_eq!(scene.server.get(TAG).await.status, StatusCode::SERVICE_UNAVAILABLE, "the mirror has another one under the tag");
    scene.mirrors[0].put_image("library/x", "other", &["moved".into()]);
    assert_eq!(scene.server.get(TAG).await.digest(), moved.digest);
    assert_eq!(scene.mirrors[0].requests_matching("GET", "/manifests/1"), 0);
}

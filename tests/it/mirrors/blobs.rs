//! Blobs that begin at one registry and end at another.

use reqwest::StatusCode;

use super::{LAYER_BYTES, Scene, TAG};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::faulty_disk::{FaultyDisk, Operation};
use crate::fill::{Reader, assert_at_most};
use crate::headpond::Headpond;

const HALF: u64 = LAYER_BYTES as u64 / 2;

/// One client reads the layer while `dying` dies in the middle of it. Returns what all sent of it.
async fn read_while_dying(scene: &Scene, dying: &FakeUpstream) -> u64 {
    dying.hold_blobs_at(HALF);
    let layer = &scene.image.layers[0];
    let mut client = Reader::open(&scene.server, layer, "", &scene.layer).await;
    client.read_to(usize::try_from(HALF).unwrap() * 9 / 10).await;
    scene.server.wait_until_filled(HALF).await;
    dying.stop().await;
    assert_eq!(client.rest().await, Ok(LAYER_BYTES));
    scene.server.wait_for_fills().await;
    assert!(scene.server.stored_blobs().contains(&layer.hex()));
    scene.mirrors.iter().chain([&scene.primary]).map(|registry| registry.blob_bytes_sent(layer)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_dies_in_mid_blob_is_taken_up_by_a_mirror_at_the_missing_bytes() {
    let scene = Scene::with_mirrors(1).await;
    scene.server.get(TAG).await;
    let sent = read_while_dying(&scene, &scene.primary).await;
    assert_at_most(sent, 102, LAYER_BYTES);
    assert!(scene.mirrors[0].blob_bytes_sent(&scene.image.layers[0]) >= HALF);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_dies_in_mid_blob_is_taken_up_by_the_next() {
    let scene = Scene::with_mirrors(2).await;
    scene.server.get(TAG).await;
    scene.primary.stop().await;
    let sent = read_while_dying(&scene, &scene.mirrors[0]).await;
    assert_at_most(sent, 102, LAYER_BYTES);
    assert!(scene.mirrors[1].blob_bytes_sent(&scene.image.layers[0]) >= HALF);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_dies_in_mid_blob_is_taken_up_by_the_upstream() {
    let scene = Scene::with_mirrors(1).await;
    scene.server.get(TAG).await;
    scene.primary.on(On::BlobGet).once(Fault::Status(503));
    let sent = read_while_dying(&scene, &scene.mirrors[0]).await;
    assert_at_most(sent, 102, LAYER_BYTES);
    assert!(scene.primary.blob_bytes_sent(&scene.image.layers[0]) >= HALF);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_past_the_store_goes_on_at_a_mirror_too() {
    let scene = Scene::with_mirrors(1).await;
    let Scene { primary, mirrors, server, image, layer } = scene;
    drop(server);
    let disk = FaultyDisk::full_from(Operation::Create, 1);
    let rule = super::key(&mirrors);
    let server = Headpond::in_directory(&primary, &rule, "", tempfile::tempdir().unwrap(), disk.world()).await;
    primary.hold_blobs_at(HALF);
    let mut client = Reader::open(&server, &image.layers[0], "", &layer).await;
    client.read_to(usize::try_from(HALF).unwrap() * 9 / 10).await;
    primary.wait_until_blob_bytes_sent(&image.layers[0], HALF).await;
    primary.stop().await;
    assert_eq!(client.rest().await, Ok(LAYER_BYTES));
    // With what the fill had asked for before it found the store full, and what was in the sockets of a slow client.
    let sent = primary.blob_bytes_sent(&image.layers[0]) + mirrors[0].blob_bytes_sent(&image.layers[0]);
    assert_at_most(sent, 125, LAYER_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_wrong_bytes_is_not_asked_for_them_again() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(2).await;
    server.get(TAG).await;
    primary.stop().await;
    mirrors[0].on(On::BlobGet).always(Fault::FlipByte);
    let path = Headpond::blob(&image.layers[0]);
    let first = server.get(&path).await;
    assert!(first.body.is_err_and(|got| got.len() < LAYER_BYTES), "a client got all of a wrong blob");
    server.wait_for_metric(r#"headpond_fills_total{result="rotten"}"#, 1).await;
    assert_eq!(server.get(&path).await.digest(), image.layers[0]);
    assert_eq!(mirrors[0].requests_matching("GET", &image.layers[0].to_string()), 1);
    // Its other blobs may be right.
    mirrors[0].clear_faults();
    assert_eq!(server.get(&Headpond::blob(&image.config)).await.digest(), image.config);
    assert_eq!(mirrors[0].requests_matching("GET", &image.config.to_string()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_mirror_do_not_keep_the_upstreams_away() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(1).await;
    server.get(TAG).await;
    primary.on(On::BlobGet).once(Fault::Status(503));
    mirrors[0].on(On::BlobGet).always(Fault::FlipByte);
    let path = Headpond::blob(&image.layers[0]);
    assert!(server.get(&path).await.body.is_err());
    server.wait_for_metric(r#"headpond_fills_total{result="rotten"}"#, 1).await;
    assert_eq!(server.get(&path).await.digest(), image.layers[0]);
    assert_eq!(mirrors[0].requests_matching("GET", "/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_tells_another_length_is_left_before_its_bytes_count() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(2).await;
    server.get(TAG).await;
    primary.stop().await;
    mirrors[0].on(On::BlobGet).always(Fault::LengthOff(5));
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    server.wait_for_fills().await;
    assert!(server.stored_blobs().contains(&image.layers[0].hex()));
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_all_break_off_for_ever_end_the_fill_with_the_upstreams_failure() {
    let scene = Scene::with_mirrors(1).await;
    scene.server.get(TAG).await;
    for registry in scene.mirrors.iter().chain([&scene.primary]) {
        registry.on(On::BlobGet).always(Fault::CutBodyAt(HALF));
    }
    let mut client = Reader::open(&scene.server, &scene.image.layers[0], "", &scene.layer).await;
    assert!(client.rest().await.is_err_and(|stood_at| stood_at as u64 <= HALF));
    scene.server.wait_for_metric(r#"headpond_fills_total{result="failed"}"#, 1).await;
    let asked = |registry: &FakeUpstream| registry.requests_matching("GET", "/blobs/");
    assert!(asked(&scene.primary) <= 5 && asked(&scene.mirrors[0]) <= 5, "limits.fill_attempts");
}

/// Who asks a mirror by HEAD gets its word, and that is worth nothing: any registry may say yes to a digest
/// that somebody else's private image has.
#[tokio::test(flavor = "multi_thread")]
async fn that_a_mirror_says_it_has_a_blob_is_no_right_to_it() {
    let Scene { primary, mirrors, server, image, .. } = Scene::with_mirrors(1).await;
    primary.stop().await;
    assert_eq!(server.head(&Headpond::blob(&image.layers[0])).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(mirrors[0].journal().is_empty());
}

//! What no client waits for, at the replica that owns it.

use bytes::Bytes;
use headpond::cluster::ranked;
use headpond::oci::Digest;
use reqwest::StatusCode;

use super::{Replicas, asked, manifest};
use crate::fake_upstream::{Fault, Image, On, pseudo_random};
use crate::headpond::Headpond;

const KIB: usize = 1024;
const LIMITS: &str = "limits: {peers_refresh: 10ms, peer_timeout: 1s, max_prefetches: 1}";

fn is_owned(cluster: &Replicas, owner: usize, blob: &Digest) -> bool {
    ranked(&cluster.addresses, &blob.to_string())[0] == cluster.addresses[owner]
}

/// Layers that the second replica owns.
fn layers(cluster: &Replicas) -> Vec<Bytes> {
    let contents = (1..).map(|seed| pseudo_random(seed, 200 * KIB));
    contents.filter(|content| is_owned(cluster, 1, &Digest::of(content))).take(3).collect()
}

/// Waits until the second replica has refused all blobs but the first layer: two layers, and the config if it owns it.
async fn wait_until_refused(cluster: &Replicas, asking: &Headpond, image: &Image) {
    let count = 2 + u64::from(is_owned(cluster, 1, &image.config));
    asking.wait_for_metric(r#"headpond_fills_total{result="dropped"}"#, count).await;
}

/// Two replicas of which the second owns all layers of an image, and the first has its manifest.
async fn with_image(rule: &str) -> (Replicas, Vec<Headpond>, Image) {
    let cluster = Replicas::with(2, LIMITS, rule).await;
    let image = cluster.fake.put_image("library/x", "1", &layers(&cluster));
    let servers = cluster.start_all().await;
    assert_eq!(servers[0].get(&manifest("library/x", &"1")).await.status, StatusCode::OK);
    (cluster, servers, image)
}

async fn pull(server: &Headpond, blob: &Digest) {
    assert_eq!(server.get(&Headpond::blob(blob)).await.digest(), *blob);
}

/// The layers as upstream was asked for them.
fn in_order(cluster: &Replicas, image: &Image) -> Vec<usize> {
    let journal = cluster.fake.journal();
    journal.iter().filter_map(|it| image.layers.iter().position(|layer| it.path.ends_with(&layer.to_string()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_prefetches_waits_for_clients_at_its_owner() {
    let (cluster, servers, image) = with_image("prefetch: image\nmax_connections: 1").await;
    cluster.fake.hold_blobs_at(100 * KIB as u64);
    let first = pull(&servers[0], &image.layers[0]);
    let others = async {
        // The first layer has the owner's only place, and the second waits there for it; then a client comes for the third.
        servers[1].wait_for_metric("headpond_fills_inflight", 2).await;
        assert_eq!(servers[1].metric("headpond_followers_inflight"), 1, "the second is followed by nobody");
        let third = pull(&servers[1], &image.layers[2]);
        let release = async {
            servers[1].wait_for_metric("headpond_followers_inflight", 2).await;
            cluster.fake.release();
        };
        tokio::join!(third, release);
    };
    tokio::join!(first, others);
    for server in &servers {
        server.wait_for_fills().await;
    }
    assert_eq!(in_order(&cluster, &image), [0, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_for_what_is_prefetched_is_one_at_the_owner_too() {
    let (cluster, servers, image) = with_image("prefetch: image\nmax_connections: 1").await;
    cluster.fake.hold_blobs_at(100 * KIB as u64);
    let first = pull(&servers[0], &image.layers[0]);
    let others = async {
        servers[1].wait_for_metric("headpond_fills_inflight", 2).await;
        let second = pull(&servers[0], &image.layers[1]);
        let release = async {
            servers[1].wait_for_metric("headpond_followers_inflight", 2).await;
            cluster.fake.release();
        };
        tokio::join!(second, release);
    };
    tokio::join!(first, others);
    for server in &servers {
        server.wait_for_fills().await;
    }
    assert_eq!(in_order(&cluster, &image), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_has_no_room_for_is_left_to_clients() {
    let cluster = Replicas::with(2, &LIMITS.replace('}', ", max_unfollowed_fills: 0}"), "").await;
    let image = cluster.fake.put_image("library/x", "1", &layers(&cluster));
    let names = cluster.names.clone();
    let owner = cluster.start(1).await;
    let other = Replicas { top: LIMITS.to_owned(), rule: "prefetch: image".to_owned(), ..cluster };
    let asking = other.start_seeing(0, names).await;
    assert_eq!(asking.get(&manifest("library/x", &"1")).await.status, StatusCode::OK);
    pull(&asking, &image.layers[0]).await;
    wait_until_refused(&other, &asking, &image).await;
    assert_eq!(in_order(&other, &image), [0], "nobody went around the owner");
    for layer in &image.layers {
        pull(&asking, layer).await;
    }
    assert_eq!(in_order(&other, &image), [0, 1, 2]);
    owner.wait_for_fills().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_floor_holds_for_what_others_prefetch() {
    let cluster = Replicas::with(2, LIMITS, "prefetch: all\nquota_floor: 20").await;
    let repository = cluster.repository_of(1);
    let image = cluster.fake.put_image(&repository, "amd64", &layers(&cluster));
    let other = cluster.fake.put_image(&repository, "arm64", &["another layer".into()]);
    let index = crate::prefetch::index_of(&[(&image, "linux/amd64"), (&other, "linux/arm64")]);
    cluster.fake.put_manifest(&repository, "1", index, headpond::oci::MediaType::OCI_INDEX);
    cluster.fake.on(On::Manifests).always(Fault::Header("ratelimit-limit", "100;w=21600".to_owned()));
    cluster.fake.on(On::Manifests).always(Fault::Header("ratelimit-remaining", "20;w=21600".to_owned()));
    let servers = cluster.start_all().await;
    for reference in ["1".to_owned(), image.digest.to_string()] {
        assert_eq!(servers[0].get(&manifest(&repository, &reference)).await.status, StatusCode::OK);
    }
    let path = format!("/v2/up/{repository}/blobs/{}", image.layers[0]);
    assert_eq!(servers[0].get(&path).await.digest(), image.layers[0]);
    // The two other layers, and after them the manifest of the other platform.
    wait_until_refused(&cluster, &servers[0], &image).await;
    while asked(&servers[0], "refused") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(in_order(&cluster, &image), [0]);
    assert_eq!(cluster.fake.requests_matching("GET", &other.digest.to_string()), 0);
    // A client gets it.
    assert_eq!(servers[0].get(&manifest(&repository, &other.digest)).await.digest(), other.digest);
}

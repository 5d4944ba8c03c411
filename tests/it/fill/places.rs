//! Rules that may have so many connections and no more.

use std::time::Duration;

use bytes::Bytes;
use headpond::cluster::ranked;
use headpond::oci::Digest;
use reqwest::StatusCode;

use super::{MIB, Reader, assert_at_most};
use crate::cluster::Replicas;
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};
use crate::headpond::{Headpond, configuration};

const WAITING: &str = r#"headpond_upstream_connections_waited_for{rule="up"}"#;

/// An image of such layers, and a server that knows its manifest.
async fn with_layers(rule: &str, top: &str, lengths: &[usize]) -> (FakeUpstream, Headpond, Vec<(Digest, Bytes)>) {
    let fake = FakeUpstream::start().await;
    let contents: Vec<_> = (20..).zip(lengths).map(|(seed, length)| pseudo_random(seed, *length)).collect();
    let image = fake.put_image("library/x", "1", &contents);
    let server = Headpond::with(&fake, rule, top).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    server.wait_for_repository("up/library/x").await;
    (fake, server, image.layers.into_iter().zip(contents).collect())
}

async fn pull(server: &Headpond, (digest, content): &(Digest, Bytes)) {
    assert_eq!(Reader::open(server, digest, "", content).await.rest().await, Ok(content.len()));
}

/// The blobs that were asked for, in order.
fn asked(fake: &FakeUpstream) -> Vec<String> {
    fake.journal().into_iter().filter_map(|exchange| Some(exchange.path.split_once("/blobs/")?.1.to_owned())).collect()
}

/// What begins comes to its end: between two of its connections a blob does not wait in line again.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_keeps_its_place_between_its_connections() {
    let top = "limits: {parallel_above: 1MiB}";
    let (fake, server, layers) = with_layers("max_connections: 2\nconnections: 2", top, &[24 * MIB, 40 * MIB, MIB]).await;
    fake.on(On::BlobGet).always(Fault::Drip(64 * 1024, Duration::from_millis(10)));
    let (large, others) = (pull(&server, &layers[0]), async {
        // Both places are the first blob's; the next one gets what that gives up first, and keeps it. The last one waits.
        fake.wait_until_requests("GET", "/blobs/", 2).await;
        let second = pull(&server, &layers[1]);
        let third = async {
            server.wait_for_metric(WAITING, 1).await;
            pull(&server, &layers[2]).await;
        };
        tokio::join!(second, third);
    });
    tokio::join!(large, others);
    server.wait_for_fills().await;
    let asked = asked(&fake);
    let third = asked.iter().position(|digest| *digest == layers[2].0.to_string()).unwrap();
    let first = layers[0].0.to_string();
    let (before, after) =
        (asked[..third].iter().filter(|it| **it == first).count(), asked[third..].iter().filter(|it| **it == first).count());
    assert!(before >= 3 && after == 0, "{before} before the third blob, {after} behind it: {asked:?}");
    assert_at_most(fake.blob_bytes_sent(&layers[0].0), 105, 24 * MIB);
}

/// And takes up again what it has left, at its missing bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_client_has_gone_gives_its_connection_to_one_that_has_a_client() {
    let (fake, server, layers) = with_layers("max_connections: 1", "", &[4 * MIB, MIB]).await;
    fake.hold_blobs_at(2 * MIB as u64);
    let mut leaving = Reader::open(&server, &layers[0].0, "", &layers[0].1).await;
    leaving.read_to(MIB).await;
    server.wait_until_filled(2 * MIB as u64).await;
    drop(leaving);
    tokio::time::timeout(Duration::from_secs(5), pull(&server, &layers[1])).await.expect("a client waits for what nobody wants");
    fake.release();
    server.wait_for_fills().await;
    assert_eq!(server.metric(r#"headpond_fills_total{result="committed"}"#), 2);
    assert_at_most(fake.blob_bytes_sent(&layers[0].0), 110, 4 * MIB);
}

/// What has come would be thrown away with it: it is not told that it has waited too long.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_gave_way_keeps_its_bytes_and_its_turn_however_long_that_takes() {
    let top = "limits: {connection_wait: 1s}";
    let (fake, server, layers) = with_layers("max_connections: 1", top, &[4 * MIB, 4 * MIB]).await;
    fake.hold_blobs_at(2 * MIB as u64);
    let mut leaving = Reader::open(&server, &layers[0].0, "", &layers[0].1).await;
    leaving.read_to(MIB).await;
    server.wait_until_filled(2 * MIB as u64).await;
    drop(leaving);
    server.wait_for_metric("headpond_followers_inflight", 0).await;
    let mut holding = Reader::open(&server, &layers[1].0, "", &layers[1].1).await;
    holding.read_to(MIB).await;
    let mut back = Reader::open(&server, &layers[0].0, "", &layers[0].1).await;
    back.read_to(MIB).await;
    server.wait_for_metric(WAITING, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fake.release();
    assert_eq!((holding.rest().await, back.rest().await), (Ok(4 * MIB), Ok(4 * MIB)));
    assert_at_most(fake.blob_bytes_sent(&layers[0].0), 110, 4 * MIB);
}

/// Each that waits has a file: beyond `max_fills` of them a blob is not kept.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_blobs_of_a_rule_wait_for_a_connection_as_may_be_under_way() {
    let top = "limits: {max_fills: 2}";
    let (fake, server, layers) = with_layers("max_connections: 1", top, &[4 * MIB, MIB, MIB, MIB]).await;
    fake.hold_blobs_at(2 * MIB as u64);
    let mut first = Reader::open(&server, &layers[0].0, "", &layers[0].1).await;
    first.read_to(MIB).await;
    let waiting = async {
        let (second, third) = (pull(&server, &layers[1]), async {
            server.wait_for_metric(WAITING, 1).await;
            pull(&server, &layers[2]).await;
        });
        tokio::join!(second, third, async {
            server.wait_for_metric(WAITING, 2).await;
            let path = Headpond::blob(&layers[3].0);
            let (last, ()) = tokio::join!(server.get(&path), async {
                server.wait_for_metric(WAITING, 3).await;
                assert_eq!(server.staged(), 3);
                fake.release();
            });
            assert_eq!((last.status, last.bytes()), (StatusCode::OK, &layers[3].1));
        });
    };
    tokio::join!(waiting, async { assert_eq!(first.rest().await, Ok(4 * MIB)) });
    server.wait_for_fills().await;
    let stored: Vec<bool> = layers.iter().map(|layer| server.stored_blobs().contains(&layer.0.hex().to_string())).collect();
    assert_eq!(stored, [true, true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_too_long_for_a_connection_is_told_so() {
    let top = "limits: {connection_wait: 200ms}";
    let (fake, server, layers) = with_layers("max_connections: 1", top, &[4 * MIB, MIB]).await;
    fake.hold_blobs_at(2 * MIB as u64);
    let mut first = Reader::open(&server, &layers[0].0, "", &layers[0].1).await;
    first.read_to(MIB).await;
    let answer = server.get(&Headpond::blob(&layers[1].0)).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert!(answer.message().contains("max_connections"), "{}", answer.message());
    assert_eq!(server.metric(WAITING), 0);
    fake.release();
    assert_eq!(first.rest().await, Ok(4 * MIB));
    pull(&server, &layers[1]).await;
}

/// Two blobs of the first rule wait; what they wait for is not the store.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_one_rule_do_not_keep_out_the_blobs_of_another() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let contents: Vec<_> = (30..33).map(|seed| pseudo_random(seed, 4 * MIB)).collect();
    let layers = fake.put_image("library/x", "1", &contents).layers;
    let wanted = pseudo_random(33, MIB);
    let image = other.put_image("library/y", "1", std::slice::from_ref(&wanted));
    let text = configuration(&fake.url(), "max_connections: 1", "limits: {max_fills: 2, max_bypasses: 1}")
        + &format!("  - prefix: other\n    upstream: {}\n", other.url());
    let directory = tempfile::tempdir().unwrap();
    let server = Headpond::of(&fake, &text, directory, headpond::app::World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/other/library/y/manifests/1").await.status, StatusCode::OK);
    fake.hold_blobs_at(2 * MIB as u64);
    let clients = layers.iter().zip(&contents).map(|(digest, content)| async {
        assert_eq!(Reader::open(&server, digest, "", content).await.rest().await, Ok(content.len()));
    });
    let beside = async {
        server.wait_for_metric(WAITING, 2).await;
        let blob = server.get(&format!("/v2/other/library/y/blobs/{}", image.layers[0])).await;
        assert_eq!((blob.status, blob.bytes()), (StatusCode::OK, &wanted));
        server.wait_for_metric(r#"headpond_fills_total{result="committed"}"#, 1).await;
        assert!(server.stored_blobs().contains(&image.layers[0].hex().to_string()), "it is kept");
        fake.release();
    };
    tokio::join!(futures::future::join_all(clients), beside);
}

/// It has bytes, and with them room on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_gave_way_is_dropped_for_the_blob_of_another_rule() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let contents: Vec<_> = (60..63).map(|seed| pseudo_random(seed, 4 * MIB)).collect();
    let [left, wanted] = fake.put_image("library/x", "1", &contents[..2]).layers.try_into().unwrap();
    let [beside] = other.put_image("library/y", "1", &contents[2..]).layers.try_into().unwrap();
    let text = configuration(&fake.url(), "max_connections: 1", "limits: {max_fills: 2}")
        + &format!("  - prefix: other\n    upstream: {}\n", other.url());
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), headpond::app::World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/other/library/y/manifests/1").await.status, StatusCode::OK);
    fake.hold_blobs_at(2 * MIB as u64);
    let mut leaving = Reader::open(&server, &left, "", &contents[0]).await;
    leaving.read_to(MIB).await;
    drop(leaving);
    let mut second = Reader::open(&server, &wanted, "", &contents[1]).await;
    second.read_to(MIB).await;
    let of_other = format!("/v2/other/library/y/blobs/{beside}");
    assert_eq!(server.get(&of_other).await.bytes(), &contents[2]);
    server.wait_for_metric(r#"headpond_fills_total{result="dropped"}"#, 1).await;
    fake.release();
    assert_eq!(second.rest().await, Ok(4 * MIB));
    assert_eq!(server.metric(r#"headpond_cache_requests_total{kind="blob",result="bypass",rule="other"}"#), 0);
}

/// Its room is 40 MiB of 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_gave_way_is_dropped_where_the_disk_is_full() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let contents = [(64, 40), (65, 2), (66, 40), (67, 70)].map(|(seed, length)| pseudo_random(seed, length * MIB));
    let [left, wanted] = fake.put_image("library/x", "1", &contents[..2]).layers.try_into().unwrap();
    let [beside, too_long] = other.put_image("library/y", "1", &contents[2..]).layers.try_into().unwrap();
    let text = configuration(&fake.url(), "max_connections: 1", "") + &format!("  - prefix: other\n    upstream: {}\n", other.url());
    let text = text.replace("storage: {path: headpond-data}", "storage: {path: headpond-data, max_size: 64MiB, min_free: 1MiB}");
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), headpond::app::World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/other/library/y/manifests/1").await.status, StatusCode::OK);
    fake.hold_blobs_at(MIB as u64);
    let mut leaving = Reader::open(&server, &left, "", &contents[0]).await;
    leaving.read_to(MIB / 2).await;
    drop(leaving);
    let mut second = Reader::open(&server, &wanted, "", &contents[1]).await;
    second.read_to(MIB / 2).await;
    let dropped = || server.metric(r#"headpond_fills_total{result="dropped"}"#);
    assert_eq!(server.get(&format!("/v2/other/library/y/blobs/{too_long}")).await.bytes(), &contents[3]);
    assert_eq!(dropped(), 0, "that has no room without it either");
    assert_eq!(server.get(&format!("/v2/other/library/y/blobs/{beside}")).await.bytes(), &contents[2]);
    server.wait_for_metric(r#"headpond_fills_total{result="committed"}"#, 1).await;
    assert!(server.stored_blobs().contains(&beside.hex().to_string()), "it is kept");
    assert_eq!(dropped(), 1);
    fake.release();
    assert_eq!(second.rest().await, Ok(2 * MIB));
}

/// What waits for a connection takes no room, so dropping it makes none.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_waits_for_a_connection_is_not_dropped_for_the_blob_of_another_rule() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let contents: Vec<_> = (50..54).map(|seed| pseudo_random(seed, 4 * MIB)).collect();
    let [held, waiting] = fake.put_image("library/x", "1", &contents[..2]).layers.try_into().unwrap();
    let [filling, passing] = other.put_image("library/y", "1", &contents[2..]).layers.try_into().unwrap();
    let text = configuration(&fake.url(), "max_connections: 1", "limits: {max_fills: 2}")
        + &format!("  - prefix: other\n    upstream: {}\n", other.url());
    let server = Headpond::of(&fake, &text, tempfile::tempdir().unwrap(), headpond::app::World::default()).await;
    assert_eq!(server.get("/v2/up/library/x/manifests/1").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/other/library/y/manifests/1").await.status, StatusCode::OK);
    fake.hold_blobs_at(2 * MIB as u64);
    other.hold_blobs_at(2 * MIB as u64);
    let mut first = Reader::open(&server, &held, "", &contents[0]).await;
    first.read_to(MIB).await;
    let path = Headpond::blob(&waiting);
    tokio::select! {
        _ = server.get(&path) => panic!("it has no connection"),
        () = server.wait_for_metric(WAITING, 1) => {}
    }
    server.wait_for_metric("headpond_followers_inflight", 1).await;
    let of_other = |digest: &Digest| format!("/v2/other/library/y/blobs/{digest}");
    let beside = async {
        let mut second = Reader::of(server.send(reqwest::Method::GET, &of_other(&filling), &[]).await, &contents[2]);
        second.read_to(MIB).await;
        let mut third = Reader::of(server.send(reqwest::Method::GET, &of_other(&passing), &[]).await, &contents[3]);
        third.read_to(MIB).await;
        assert_eq!(server.metric(r#"headpond_fills_total{result="dropped"}"#), 0);
        fake.release();
        other.release();
        assert_eq!((second.rest().await, third.rest().await), (Ok(4 * MIB), Ok(4 * MIB)));
    };
    tokio::join!(beside, async { assert_eq!(first.rest().await, Ok(4 * MIB)) });
    server.wait_for_fills().await;
    let stored = server.stored_blobs();
    let has = |digest: &Digest| stored.contains(&digest.hex().to_string());
    assert!(has(&held) && has(&waiting) && has(&filling) && !has(&passing), "{stored:?}");
}

/// The owner's clients wait for its only connection, and so do those of the others: for longer than an upstream may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_waits_for_the_owner_that_waits_for_a_connection() {
    let top = "limits: {peers_refresh: 10ms, peer_timeout: 1s, manifest_timeout: 1s}";
    let cluster = Replicas::with(2, top, "max_connections: 1").await;
    let owned = |digest: Digest| ranked(&cluster.addresses, &digest.to_string())[0] == cluster.addresses[0];
    let mut contents = (40..).map(|seed| pseudo_random(seed, 4 * MIB)).filter(|content| owned(Digest::of(content)));
    let [first, second] =
        [contents.next().unwrap(), contents.next().unwrap()].map(|content| (cluster.fake.put_blob(content.clone()), content));
    let servers = cluster.start_all().await;
    cluster.fake.hold_blobs_at(2 * MIB as u64);
    let mut holding = Reader::open(&servers[0], &first.0, "", &first.1).await;
    holding.read_to(MIB).await;
    let release = async {
        servers[0].wait_for_metric(WAITING, 1).await;
        // Longer than `manifest_timeout`.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(asked(&cluster.fake), [first.0.to_string()], "the replica that does not own it asked upstream");
        cluster.fake.release();
        assert_eq!(holding.rest().await, Ok(4 * MIB));
    };
    tokio::join!(pull(&servers[1], &second), release);
    assert_eq!(asked(&cluster.fake).len(), 2);
}

//! How old a tag is, is the same everywhere.

use std::time::Duration;

use super::{Replicas, manifest};
use crate::fake_upstream::{Fault, On};
use crate::headpond::{Answer, Headpond};

const DAY: Duration = Duration::from_secs(25 * 60 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_costs_the_cluster_one_head() {
    let cluster = Replicas::new(3).await;
    let image = cluster.fake.put_image("library/x", "1", &[]);
    let servers = cluster.start_all().await;
    let path = manifest("library/x", &"1");
    for server in &servers {
        assert_eq!(server.get(&path).await.digest(), image.digest);
    }
    for round in 1..=3 {
        servers[0].clock.advance(DAY);
        for server in &servers {
            let answer = server.get(&path).await;
            assert_eq!((answer.digest(), answer.header("warning")), (image.digest, ""));
        }
        assert_eq!((cluster.fake.manifest_heads(), cluster.fake.manifest_gets()), (round, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_moved_everywhere() {
    let cluster = Replicas::new(3).await;
    let repository = cluster.repository_of(2);
    let old = cluster.fake.put_image(&repository, "1", &[]);
    let servers = cluster.start_all().await;
    let path = manifest(&repository, &"1");
    for server in &servers {
        assert_eq!(server.get(&path).await.digest(), old.digest);
    }
    let new = cluster.fake.put_image(&repository, "1", &["new".into()]);
    servers[0].clock.advance(DAY);
    for server in &servers {
        assert_eq!(server.get(&path).await.digest(), new.digest);
    }
    assert_eq!((cluster.fake.manifest_heads(), cluster.fake.manifest_gets()), (1, 2));
    // `no-cache` goes through to upstream, whoever is asked.
    let newest = cluster.fake.put_image(&repository, "1", &["newest".into()]);
    let answer = servers[0].ask(reqwest::Method::GET, &path, &[("cache-control", "no-cache")]).await;
    assert_eq!(answer.digest(), newest.digest);
    assert_eq!(servers[2].get(&path).await.digest(), newest.digest);
}

/// The check under way has been told of one move when the tag moves again.
#[tokio::test(flavor = "multi_thread")]
async fn no_cache_at_a_replica_does_not_make_do_with_what_its_owner_was_asked_before() {
    let limits = "limits: {peers_refresh: 10ms, peer_timeout: 1h, revalidate_wait: 50ms, head_timeout: 1h, manifest_timeout: 1h}";
    let cluster = Replicas::with(2, limits, "").await;
    let repository = cluster.repository_of(0);
    cluster.fake.put_image(&repository, "1", &[]);
    let servers = cluster.start_all().await;
    let path = manifest(&repository, &"1");
    for server in &servers {
        server.get(&path).await;
    }
    let between = cluster.fake.put_image(&repository, "1", &["between".into()]);
    cluster.fake.on(On::ManifestGet).once(Fault::HangHead);
    let now = |server: &Headpond| tokio::spawn(server.client.get(server.url(&path)).header("cache-control", "no-cache").send());
    let first = now(&servers[1]);
    cluster.fake.wait_until_requests("GET", &between.digest.to_string(), 1).await;
    let last = cluster.fake.put_image(&repository, "1", &["last".into()]);
    let second = now(&servers[1]);
    assert_eq!(servers[1].get("/v2/").await.status, reqwest::StatusCode::OK);
    assert!(!first.is_finished() && !second.is_finished());
    cluster.fake.release();
    assert_eq!(Answer::read(first.await.unwrap().unwrap()).await.status, reqwest::StatusCode::OK);
    assert_eq!(Answer::read(second.await.unwrap().unwrap()).await.digest(), last.digest);
    assert_eq!(cluster.fake.manifest_heads(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_its_owner_serves_stale_is_stale_everywhere_and_stays_so() {
    let cluster = Replicas::new(3).await;
    let repository = cluster.repository_of(0);
    let image = cluster.fake.put_image(&repository, "1", &[]);
    let servers = cluster.start_all().await;
    let path = manifest(&repository, &"1");
    assert_eq!(servers[0].get(&path).await.digest(), image.digest);
    servers[0].clock.advance(DAY);
    cluster.fake.stop().await;
    for _ in 0..2 {
        for server in &servers {
            let answer = server.get(&path).await;
            assert_eq!(answer.digest(), image.digest);
            assert!(answer.header("warning").starts_with("110 "), "{}", answer.header("warning"));
        }
    }
    cluster.fake.restart();
    servers[0].clock.advance(Duration::from_secs(120));
    for server in &servers {
        assert_eq!(server.get(&path).await.header("warning"), "");
    }
}

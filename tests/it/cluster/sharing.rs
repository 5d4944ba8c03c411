//! One upstream request for the whole cluster, whoever is asked.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use headpond::oci::Digest;
use reqwest::StatusCode;

use super::{NameTable, Replicas, asked, manifest};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

/// Sixty clients of all servers, each with the same wish.
async fn everybody_gets(servers: &[Headpond], path: &str) -> Vec<Digest> {
    let answers = join_all((0..60).map(|number| servers[number % servers.len()].get(path))).await;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    }
    answers.iter().map(crate::headpond::Answer::digest).collect()
}

fn requests(fake: &FakeUpstream) -> (usize, usize) {
    (fake.manifest_heads(), fake.manifest_gets())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_tag_costs_the_cluster_one_get() {
    let cluster = Replicas::new(3).await;
    let image = cluster.fake.put_image("library/x", "1", &[]);
    let servers = cluster.start_all().await;
    let got = everybody_gets(&servers, &manifest("library/x", &"1")).await;
    assert!(got.iter().all(|digest| *digest == image.digest));
    let got = everybody_gets(&servers, &manifest("library/x", &image.digest)).await;
    assert!(got.iter().all(|digest| *digest == image.digest));
    assert_eq!(requests(&cluster.fake), (0, 1));
    assert_eq!(servers[0].metric("headpond_cluster_members"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_and_then_the_digest_cost_the_cluster_one_of_each_and_leave_a_tag() {
    let cluster = Replicas::new(3).await;
    let repository = cluster.repository_of(0);
    let image = cluster.fake.put_image(&repository, "1", &[]);
    let servers = cluster.start_all().await;
    for server in &servers {
        let head = server.head(&manifest(&repository, &"1")).await;
        assert_eq!(head.header("docker-content-digest"), image.digest.to_string());
        assert_eq!(head.header("content-length"), image.manifest.len().to_string());
    }
    for server in servers.iter().rev() {
        assert_eq!(server.get(&manifest(&repository, &image.digest)).await.digest(), image.digest);
    }
    assert_eq!(requests(&cluster.fake), (1, 1));
    cluster.fake.stop().await;
    for server in &servers {
        assert_eq!(server.get(&manifest(&repository, &"1")).await.digest(), image.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_tags_cost_the_cluster_one_request() {
    let cluster = Replicas::new(3).await;
    let tags: Vec<_> = (0..5).map(|number| format!("t{number}")).collect();
    tags.iter().for_each(|tag| drop(cluster.fake.put_image("library/x", tag, &[])));
    let servers = cluster.start_all().await;
    for server in &servers {
        let list: serde_json::Value = serde_json::from_slice(server.get("/v2/up/library/x/tags/list").await.bytes()).unwrap();
        assert_eq!(list["tags"], serde_json::json!(tags));
        let page: serde_json::Value = serde_json::from_slice(server.get("/v2/up/library/x/tags/list?n=2").await.bytes()).unwrap();
        assert_eq!(page["tags"], serde_json::json!(["t0", "t1"]));
    }
    assert_eq!(cluster.fake.journal().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_a_blob_cost_the_cluster_one_request() {
    for fault in [None, Some(Fault::WithoutHeader("content-length"))] {
        let cluster = Replicas::new(3).await;
        let digest = cluster.fake.put_blob("a blob");
        if let Some(fault) = fault.clone() {
            cluster.fake.on(On::BlobHead).always(fault);
        }
        let servers = cluster.start_all().await;
        for server in &servers {
            assert_eq!(server.head(&Headpond::blob(&digest)).await.status, StatusCode::OK, "{fault:?}");
        }
        assert_eq!(servers.iter().map(|server| asked(server, "unproven")).sum::<u64>(), 0);
        assert!(cluster.fake.journal().len() <= if fault.is_none() { 1 } else { 3 }, "{:#?}", cluster.fake.journal());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_refuses_is_told_by_all_and_asked_once() {
    let cluster = Replicas::with(3, "limits: {negative_ttl: 1h, peers_refresh: 10ms}", "").await;
    let repository = cluster.repository_of(1);
    let servers = cluster.start_all().await;
    for server in &servers {
        let answer = server.get(&manifest(&repository, &"none")).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"));
        assert!(answer.message().contains("manifest unknown"), "upstream's own words: {}", answer.message());
    }
    assert_eq!(cluster.fake.journal().len(), 1);
    cluster.fake.on(On::Manifests).always(Fault::StatusRetryAfter(429, "77".to_owned()));
    let answer = servers[0].get(&manifest(&repository, &"throttled")).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((70..=77).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "{}", answer.header("retry-after"));
    let answer = servers[2].get(&manifest(&repository, &"throttled")).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(cluster.fake.journal().len(), 2, "the owner leaves a throttled upstream alone");
    assert_eq!((asked(&servers[0], "refused"), asked(&servers[0], "failed")), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_is_not_asked_twice_because_its_owner_takes_long() {
    let cluster = Replicas::with(2, "limits: {peers_refresh: 10ms, peer_timeout: 500ms}", "").await;
    let repository = cluster.repository_of(0);
    let image = cluster.fake.put_image(&repository, "1", &[]);
    cluster.fake.on(On::Manifests).always(Fault::DelayHead(Duration::from_secs(2)));
    let servers = cluster.start_all().await;
    assert_eq!(servers[1].get(&manifest(&repository, &"1")).await.digest(), image.digest);
    assert_eq!(requests(&cluster.fake), (0, 1));
}

/// Each takes the other for the owner of everything.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_see_different_ones_neither_loop_nor_wait_for_each_other() {
    let cluster = Replicas::new(2).await;
    let image = cluster.fake.put_image("library/x", "1", &[]);
    let one = cluster.start_seeing(0, NameTable::of(&cluster.addresses[1..])).await;
    let other = cluster.start_seeing(1, NameTable::of(&cluster.addresses[..1])).await;
    let servers = [one, other];
    cluster.fake.on(On::Any).always(Fault::DelayHead(Duration::from_millis(100)));
    let pull = async {
        let got = everybody_gets(&servers, &manifest("library/x", &"1")).await;
        assert!(got.iter().all(|digest| *digest == image.digest));
        join_all(servers.iter().map(|server| server.get("/v2/up/library/x/tags/list"))).await;
        let config = Headpond::blob(&image.config);
        join_all(servers.iter().map(|server| server.head(&config))).await;
        servers[0].clock.advance(Duration::from_secs(25 * 60 * 60));
        let got = everybody_gets(&servers, &manifest("library/x", &"1")).await;
        assert!(got.iter().all(|digest| *digest == image.digest));
    };
    tokio::time::timeout(Duration::from_secs(10), pull).await.expect("they wait for each other");
    let (heads, gets) = requests(&cluster.fake);
    assert!(heads <= 2 && gets <= 2, "{:#?}", cluster.fake.journal());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_while_clients_pull_change_no_byte() {
    let cluster = Replicas::new(3).await;
    let images: Vec<_> = (0..40).map(|tag| cluster.fake.put_image("library/x", &tag.to_string(), &[format!("{tag}").into()])).collect();
    let servers = Arc::new(cluster.start_all().await);
    let pulls = async {
        for (tag, image) in images.iter().enumerate() {
            let path = manifest("library/x", &tag);
            let answers = join_all(servers.iter().map(|server| server.get(&path))).await;
            assert!(answers.iter().all(|answer| answer.digest() == image.digest));
        }
    };
    let changes = async {
        for round in 0.. {
            let members: Vec<_> = (0..3).filter(|member| (round >> member) & 1 == 0).map(|member| cluster.addresses[member]).collect();
            cluster.names.set(&members);
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    };
    tokio::select! {
        () = pulls => {}
        () = changes => {}
    }
    assert!(cluster.fake.manifest_gets() <= 3 * images.len());
}

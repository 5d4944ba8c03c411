//! One upstream transfer for the whole cluster, and every client streams from its first byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use headpond::cluster::ranked;
use headpond::oci::Digest;
use tokio::task::JoinSet;

use super::{NameTable, Replicas};
use crate::fake_upstream::pseudo_random;
use crate::fill::{Reader, assert_at_most};
use crate::headpond::Headpond;

const MIB: usize = 1 << 20;
const LENGTH: usize = 12 * MIB;
const LIMIT: Duration = Duration::from_secs(60);

/// A blob that `owner` owns.
fn put_blob_of(cluster: &Replicas, owner: usize) -> (Digest, Bytes) {
    let is_owned = |digest: Digest| ranked(&cluster.addresses, &digest.to_string())[0] == cluster.addresses[owner];
    let content = (1..).map(|seed| pseudo_random(seed, LENGTH)).find(|content| is_owned(Digest::of(content))).unwrap();
    (cluster.fake.put_blob(content.clone()), content)
}

/// Clients that have read 40 % of what upstream holds at half.
async fn held_clients(cluster: &Replicas, servers: &[Arc<Headpond>], digest: &Digest, content: &Bytes) -> Vec<(usize, Reader)> {
    cluster.fake.hold_blobs_at(LENGTH as u64 / 2);
    let reading = (0..24).map(|client| async move {
        let number = client % servers.len();
        let mut reader = Reader::open(&servers[number], digest, "", content).await;
        reader.read_to(LENGTH * 40 / 100).await;
        (number, reader)
    });
    tokio::time::timeout(LIMIT, join_all(reading)).await.expect("somebody does not stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_blob_costs_the_cluster_one_transfer_and_streams_everywhere() {
    let cluster = Replicas::new(3).await;
    let (digest, content) = put_blob_of(&cluster, 1);
    let servers: Vec<_> = cluster.start_all().await.into_iter().map(Arc::new).collect();
    let clients = held_clients(&cluster, &servers, &digest, &content).await;
    cluster.fake.release();
    let mut rest = JoinSet::new();
    for (_, mut reader) in clients {
        rest.spawn(async move { reader.rest().await });
    }
    while let Some(ended) = rest.join_next().await {
        assert_eq!(ended.unwrap(), Ok(LENGTH));
    }
    assert_eq!((cluster.fake.blob_bytes_sent(&digest), cluster.fake.requests_matching("GET", "/blobs/")), (LENGTH as u64, 1));
    for server in &servers {
        server.wait_for_fills().await;
    }
    cluster.fake.stop().await;
    for server in &servers {
        assert_eq!(Reader::open(server, &digest, "", &content).await.rest().await, Ok(LENGTH));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_ends_in_mid_transfer_takes_only_its_own_clients_with_it() {
    let cluster = Replicas::with(3, "limits: {peers_refresh: 10ms, peer_timeout: 1s, drain_deadline: 1ms}", "").await;
    let (digest, content) = put_blob_of(&cluster, 2);
    let mut servers: Vec<_> = cluster.start_all().await.into_iter().map(Arc::new).collect();
    let clients = held_clients(&cluster, &servers, &digest, &content).await;
    let owner = Arc::into_inner(servers.pop().unwrap()).unwrap();
    owner.stop().await;
    cluster.fake.release();
    let mut rest = JoinSet::new();
    for (number, mut reader) in clients {
        rest.spawn(async move { (number, reader.rest().await) });
    }
    while let Some(ended) = rest.join_next().await {
        match ended.unwrap() {
            (2, ended) => assert!(ended.is_err()),
            (number, ended) => assert_eq!(ended, Ok(LENGTH), "a client of replica {number}"),
        }
    }
    assert_at_most(cluster.fake.blob_bytes_sent(&digest), 200, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_got_from_the_owner() {
    let cluster = Replicas::new(2).await;
    let (digest, content) = put_blob_of(&cluster, 1);
    let servers = cluster.start_all().await;
    let quarter = LENGTH / 4;
    let parts = (0..4).map(|part| {
        let range = format!("bytes={}-{}", part * quarter, (part + 1) * quarter - 1);
        let (server, digest) = (&servers[0], &digest);
        async move { server.get_range(&Headpond::blob(digest), &range).await }
    });
    for (part, answer) in join_all(parts).await.iter().enumerate() {
        assert_eq!(answer.status.as_u16(), 206);
        assert!(*answer.bytes() == content.slice(part * quarter..(part + 1) * quarter));
    }
    assert_at_most(cluster.fake.blob_bytes_sent(&digest), 105, LENGTH);
}

/// Each takes the other for the owner of everything, and both are asked at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_reaches_clients_of_replicas_that_take_each_other_for_its_owner() {
    let cluster = Replicas::new(2).await;
    let content = pseudo_random(7, LENGTH);
    let digest = cluster.fake.put_blob(content.clone());
    let one = cluster.start_seeing(0, NameTable::of(&cluster.addresses[1..])).await;
    let other = cluster.start_seeing(1, NameTable::of(&cluster.addresses[..1])).await;
    let servers = [one, other];
    let pulls = join_all((0..10).map(|client| {
        let (server, digest, content) = (&servers[client % 2], &digest, &content);
        async move { Reader::open(server, digest, "", content).await.rest().await }
    }));
    let pulled = tokio::time::timeout(LIMIT, pulls).await.expect("they wait for each other");
    assert!(pulled.iter().all(|pulled| *pulled == Ok(LENGTH)));
    assert_at_most(cluster.fake.blob_bytes_sent(&digest), 200, LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_while_blobs_are_pulled_change_no_byte() {
    let cluster = Replicas::new(3).await;
    let contents: Vec<_> = (0..12).map(|seed| pseudo_random(100 + seed, 2 * MIB)).collect();
    let digests: Vec<_> = contents.iter().map(|content| cluster.fake.put_blob(content.clone())).collect();
    let servers = cluster.start_all().await;
    let pulls = async {
        for (digest, content) in digests.iter().zip(&contents) {
            let read = join_all((0..6).map(|client| {
                let server = &servers[client % 3];
                async move { Reader::open(server, digest, "", content).await.rest().await }
            }));
            assert!(read.await.iter().all(|read| *read == Ok(content.len())));
        }
    };
    let changes = async {
        for round in 0.. {
            let members: Vec<_> = (0..3).filter(|member| (round >> member) & 1 == 0).map(|member| cluster.addresses[member]).collect();
            cluster.names.set(&members);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = pulls => {}
        () = changes => {}
    }
}

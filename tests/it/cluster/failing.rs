//! Owners that are gone, hang, or lie.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use headpond::cluster::{PROOF_HEADER, ReplicaKey, ranked};
use headpond::oci::Digest;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Replicas, TOKEN_KEY, asked, manifest};
use crate::fake_upstream::pseudo_random;
use crate::fill::{Reader, assert_at_most};
use crate::headpond::Headpond;

const LIMITS: &str = "limits: {peers_refresh: 1h, peer_timeout: 1s}";

/// Whatever is asked of it, this is its answer; an empty one never comes.
async fn impostor(address: SocketAddr, answer: String) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            open.push(stream);
        }
    })
}

/// A replica whose only other one, at address 1, owns the repository.
async fn before_its_owner(cluster: &Replicas) -> (Headpond, String) {
    (cluster.start(0).await, cluster.repository_of(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_gone_is_left_out() {
    let cluster = Replicas::with(2, LIMITS, "").await;
    let (server, repository) = before_its_owner(&cluster).await;
    for tag in ["1", "2"] {
        let image = cluster.fake.put_image(&repository, tag, &[]);
        assert_eq!(server.get(&manifest(&repository, &tag)).await.digest(), image.digest);
    }
    assert_eq!((asked(&server, "failed"), cluster.fake.manifest_gets()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_hangs_is_left_out() {
    let cluster = Replicas::with(2, LIMITS, "").await;
    let (server, repository) = before_its_owner(&cluster).await;
    let silent = impostor(cluster.addresses[1], String::new()).await;
    for tag in ["1", "2"] {
        let image = cluster.fake.put_image(&repository, tag, &[]);
        let answer = tokio::time::timeout(Duration::from_secs(20), server.get(&manifest(&repository, &tag))).await;
        assert_eq!(answer.expect("it waits for the owner").digest(), image.digest);
    }
    assert_eq!((asked(&server, "failed"), cluster.fake.manifest_gets()), (1, 2));
    silent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_the_key_is_not_believed() {
    for head in ["200 OK\r\nContent-Type: application/json", "404 Not Found", "429 Too Many Requests\r\nRetry-After: 3600"] {
        let cluster = Replicas::with(2, LIMITS, "").await;
        let (server, repository) = before_its_owner(&cluster).await;
        let image = cluster.fake.put_image(&repository, "1", &[]);
        let proof = "Headpond-Replica-Proof: AAAA\r\nHeadpond-Replica-Error: not_found no";
        let digest = format!("Docker-Content-Digest: {}", image.digest);
        let answer = format!("HTTP/1.1 {head}\r\n{digest}\r\n{proof}\r\nContent-Length: 2\r\n\r\n{{}}");
        let liar = impostor(cluster.addresses[1], answer).await;
        assert_eq!(server.get(&manifest(&repository, &"1")).await.digest(), image.digest);
        assert_eq!((asked(&server, "unproven"), cluster.fake.manifest_gets()), (1, 1));
        liar.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_upstream_fails_does_not_keep_the_others_from_theirs() {
    let cluster = Replicas::with(2, LIMITS, "").await;
    let (server, repository) = before_its_owner(&cluster).await;
    let owner = cluster.start(1).await;
    let image = cluster.fake.put_image(&repository, "1", &[]);
    // Only the first request fails: the owner's.
    cluster.fake.on(crate::fake_upstream::On::Manifests).once(crate::fake_upstream::Fault::Status(500));
    let answer = server.get(&manifest(&repository, &"1")).await;
    assert_eq!((answer.status, answer.digest()), (StatusCode::OK, image.digest));
    assert_eq!(asked(&server, "refused"), 1);
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_has_left_is_followed_by_the_next() {
    let cluster = Replicas::new(3).await;
    let mut servers = cluster.start_all().await;
    let repository = cluster.repository_of(2);
    let old = cluster.fake.put_image(&repository, "1", &[]);
    assert_eq!(servers[0].get(&manifest(&repository, &"1")).await.digest(), old.digest);
    cluster.names.set(&cluster.addresses[..2]);
    servers.pop().unwrap().stop().await;
    for server in &servers {
        server.wait_for_metric("headpond_cluster_members", 2).await;
    }
    let new = cluster.fake.put_image(&repository, "2", &["new".into()]);
    for server in &servers {
        assert_eq!(server.get(&manifest(&repository, &"2")).await.digest(), new.digest);
        assert_eq!(server.get(&manifest(&repository, &"1")).await.digest(), old.digest);
    }
    assert_eq!(servers.iter().map(|server| asked(server, "failed")).sum::<u64>(), 0);
}

/// One that has the key, and answers any request with the head of a blob of `length` bytes; then come
/// these bytes, and nothing more.
async fn owner_that_sends(address: SocketAddr, length: usize, bytes: Bytes) -> JoinHandle<()> {
    owner_that_pauses(address, length, bytes, Duration::ZERO, Bytes::new()).await
}

/// The same, and after a pause come these `last` ones.
async fn owner_that_pauses(address: SocketAddr, length: usize, bytes: Bytes, pause: Duration, last: Bytes) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let Some(nonce) = request.split("Headpond-Replica ").nth(1).and_then(|signature| signature.split(',').nth(1)) else { continue };
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
            let proof = ReplicaKey::derive(TOKEN_KEY).prove(nonce, 200, &headers);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{PROOF_HEADER}: {proof}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&bytes).await;
            tokio::time::sleep(pause).await;
            let _ = stream.write_all(&last).await;
            open.push(stream);
        }
    })
}

/// A blob that the replica at address 1 owns.
fn put_its_blob(cluster: &Replicas, length: usize) -> (Digest, Bytes) {
    let is_its = |digest: Digest| ranked(&cluster.addresses, &digest.to_string())[0] == cluster.addresses[1];
    let content = (1..).map(|seed| pseudo_random(seed, length)).find(|content| is_its(Digest::of(content))).unwrap();
    (cluster.fake.put_blob(content.clone()), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stops_in_mid_transfer_costs_its_clients_a_wait_and_no_byte_twice() {
    const LENGTH: usize = 8 << 20;
    let cluster = Replicas::with(2, "limits: {peers_refresh: 1h, peer_timeout: 1s, stall_timeout: 500ms}", "").await;
    let (digest, content) = put_its_blob(&cluster, LENGTH);
    let server = cluster.start(0).await;
    let owner = owner_that_sends(cluster.addresses[1], LENGTH, content.slice(..LENGTH / 2)).await;
    assert_eq!(Reader::open(&server, &digest, "", &content).await.rest().await, Ok(LENGTH));
    assert_at_most(cluster.fake.blob_bytes_sent(&digest), 55, LENGTH);
    owner.abort();
}

/// It may wait for an upstream that stalls, for as long as that takes to count as broken, and connect to it anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_pauses_for_longer_than_an_upstream_may_is_waited_for() {
    const LENGTH: usize = 1 << 20;
    let cluster = Replicas::with(2, "limits: {peers_refresh: 1h, peer_timeout: 1s, stall_timeout: 2500ms}", "").await;
    let (digest, content) = put_its_blob(&cluster, LENGTH);
    let server = cluster.start(0).await;
    let (first, last) = (content.slice(..LENGTH / 2), content.slice(LENGTH / 2..));
    let owner = owner_that_pauses(cluster.addresses[1], LENGTH, first, Duration::from_secs(3), last).await;
    assert_eq!(Reader::open(&server, &digest, "", &content).await.rest().await, Ok(LENGTH));
    assert_eq!(cluster.fake.blob_bytes_sent(&digest), 0, "upstream was asked");
    owner.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_an_owner_reach_nobody_as_a_whole_and_upstream_has_the_right_ones() {
    const LENGTH: usize = 1 << 20;
    let cluster = Replicas::with(2, LIMITS, "").await;
    let (digest, content) = put_its_blob(&cluster, LENGTH);
    let server = cluster.start(0).await;
    let mut rotten = content.to_vec();
    rotten[LENGTH / 2] ^= 1;
    let owner = owner_that_sends(cluster.addresses[1], LENGTH, rotten.into()).await;
    let answer = server.get(&Headpond::blob(&digest)).await;
    assert!(answer.body.is_err(), "a wrong blob was complete");
    server.wait_for_fills().await;
    assert_eq!(Reader::open(&server, &digest, "", &content).await.rest().await, Ok(LENGTH));
    owner.abort();
}

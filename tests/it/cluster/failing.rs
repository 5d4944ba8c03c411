//! Owners that are gone, hang, or lie.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Replicas, asked, manifest};
use crate::headpond::Headpond;

const LIMITS: &str = "limits: {peers_refresh: 1h, peer_timeout: 200ms}";

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
        let answer = tokio::time::timeout(Duration::from_secs(5), server.get(&manifest(&repository, &tag))).await;
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

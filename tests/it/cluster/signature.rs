//! Who is let in as a replica, and what is believed of one.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use headpond::cluster::{Asked, ReplicaKey};
use reqwest::{Method, StatusCode};

use super::{Replicas, TOKEN_KEY, manifest};
use crate::headpond::{Answer, Headpond};

/// Asks with a signature: of whom, and with which key, is the test's to say.
async fn ask(server: &Headpond, path: &str, signed_for: SocketAddr, key: &str, source: &str, at: SystemTime) -> Answer {
    let line = Asked { method: "GET", path_and_query: path, replica: signed_for };
    let signed = ReplicaKey::derive(key).sign(&line, source, at);
    let headers = [("authorization", signed.authorization.as_str()), ("host", &signed_for.to_string())];
    let answer = server.ask(Method::GET, path, &headers).await;
    let proven = ReplicaKey::derive(TOKEN_KEY).is_proven(&signed.nonce, answer.status.as_u16(), &answer.headers);
    assert_eq!(proven, answer.status != StatusCode::UNAUTHORIZED);
    answer
}

/// The identifier of the rule's source, as it is in the records.
fn source(cluster: &Replicas) -> String {
    let record = cluster.bucket.keys().into_iter().find(|key| key.starts_with("repositories/")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(cluster.bucket.file(&record)).unwrap()).unwrap();
    record["source"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signature_for_this_request_here_and_now_lets_in() {
    let cluster = Replicas::with(2, "auth: {anonymous: none, token_key: \"file:token.key\"}", "").await;
    let image = cluster.fake.put_image("library/x", "1", &[]);
    let servers = cluster.start_all().await;
    let (server, own, other) = (&servers[0], cluster.addresses[0], cluster.addresses[1]);
    let path = manifest("library/x", &"1");
    let now = server.clock.now();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    assert_eq!(server.get(&path).await.status, StatusCode::UNAUTHORIZED);

    let answer = ask(server, &path, own, TOKEN_KEY, "another source", now).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "a rule that has changed is not served");
    assert_eq!(cluster.fake.journal().len(), 0);

    // Whoever reads the bucket knows the source; it is the key that counts.
    let answer = ask(server, "/v2/", own, TOKEN_KEY, "-", now).await;
    assert_eq!(answer.status, StatusCode::OK);
    for (signed_for, key, at) in
        [(own, "another key", now), (other, TOKEN_KEY, now), (own, TOKEN_KEY, now - minutes(2)), (own, TOKEN_KEY, now + minutes(2))]
    {
        assert_eq!(ask(server, &path, signed_for, key, "-", at).await.status, StatusCode::UNAUTHORIZED);
    }
    let line = Asked { method: "GET", path_and_query: &path, replica: own };
    let signed = ReplicaKey::derive(TOKEN_KEY).sign(&line, "-", now);
    let authorization = [("authorization", signed.authorization.as_str())];
    for (method, path) in [(Method::HEAD, path.as_str()), (Method::GET, "/v2/up/library/y/manifests/1")] {
        assert_eq!(server.ask(method, path, &authorization).await.status, StatusCode::UNAUTHORIZED);
    }
    let _ = image;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_for_the_source_that_was_asked_for() {
    let cluster = Replicas::new(1).await;
    let image = cluster.fake.put_image("library/x", "1", &[]);
    let server = cluster.start(0).await;
    let path = manifest("library/x", &"1");
    server.get(&path).await;
    while !cluster.bucket.keys().iter().any(|key| key.starts_with("repositories/")) {
        tokio::task::yield_now().await;
    }
    let answer = ask(&server, &path, cluster.addresses[0], TOKEN_KEY, &source(&cluster), server.clock.now()).await;
    assert_eq!((answer.status, answer.digest()), (StatusCode::OK, image.digest));
    assert!(!answer.header("headpond-replica-validated").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_replicas_takes_none_for_one() {
    let fake = crate::fake_upstream::FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    let line = Asked { method: "GET", path_and_query: "/v2/", replica: server.address() };
    let signed = ReplicaKey::derive("").sign(&line, "-", SystemTime::now());
    let answer = server.ask(Method::GET, "/v2/", &[("authorization", &signed.authorization)]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_is_got_from_its_owner_for_users_alone() {
    let top = "auth: {anonymous: {pull: true}, users: users, token_key: \"file:token.key\"}";
    let cluster = Replicas::with(2, top, "credentials: {username: u, password: \"file:token.key\"}").await;
    let repository = cluster.repository_of(1);
    let image = cluster.fake.put_image(&repository, "1", &[]);
    cluster.fake.require_basic("u", TOKEN_KEY);
    let servers = cluster.start_all().await;
    let path = manifest(&repository, &"1");
    assert_eq!(servers[0].get(&path).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(cluster.fake.journal().len(), 0);
    let user = [("authorization", "Basic c29tZW9uZTpwYXNzd29yZA==")];
    let answer = servers[0].ask(Method::GET, &path, &user).await;
    assert_eq!((answer.status, answer.digest()), (StatusCode::OK, image.digest));
    assert_eq!(super::asked(&servers[0], "answered"), 1);
    assert_eq!(servers[1].metric("headpond_auth_attempts_total{outcome=\"replica\"}"), 1);
}

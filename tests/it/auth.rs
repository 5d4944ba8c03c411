//! Who may pull, and whose secrets go where.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headpond::app::World;
use reqwest::{Method, StatusCode};
use tempfile::TempDir;

use crate::fake_upstream::{FakeUpstream, Image};
use crate::headpond::{Answer, Headpond, configuration};

pub(crate) const TAG: &str = "/v2/up/library/x/manifests/1";
const CHALLENGE: &str = "Basic realm=\"Headpond\"";
/// Bytes of a PROXY protocol v2 header: 192.0.2.1:12345 to 10.0.0.1:5000 over TCP.
const PROXY_HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x13\x88";

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// `alice` with the password `client-secret`, and the rule's password.
pub(crate) fn write_secrets(directory: &Path) {
    std::fs::write(directory.join("users"), format!("alice:{}\n", bcrypt::hash("client-secret", 4).unwrap())).unwrap();
    std::fs::write(directory.join("password"), "upstream-secret").unwrap();
}

fn secrets() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_secrets(directory.path());
    directory
}

pub(crate) const CREDENTIALS: &str = "credentials: {username: robot, password: 'file:password'}";

async fn with(rule: &str, top: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let server = Headpond::in_directory(&fake, rule, top, secrets(), World::default()).await;
    (fake, server, image)
}

async fn get_as(server: &Headpond, path: &str, authorization: &str) -> Answer {
    server.ask(Method::GET, path, &[("authorization", authorization)]).await
}

fn is_challenged(answer: &Answer) {
    assert_eq!((answer.status, answer.header("www-authenticate")), (StatusCode::UNAUTHORIZED, CHALLENGE), "{answer:?}");
    assert_eq!(answer.code(), "UNAUTHORIZED");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_pull_and_others_are_challenged() {
    let (fake, server, image) = with("", "auth: {users: users}").await;
    let layer = Headpond::blob(&image.layers[0]);
    for path in ["/v2/", TAG, &layer, "/v2/up/library/x/tags/list", "/v2/no/rule/manifests/1"] {
        is_challenged(&server.get(path).await);
        let head = server.head(path).await;
        assert_eq!((head.status, head.header("www-authenticate"), head.bytes().len()), (StatusCode::UNAUTHORIZED, CHALLENGE, 0));
        for wrong in
            [basic("alice", "wrong"), basic("bob", "client-secret"), basic("alice", ""), "Bearer x".to_owned(), "Basic !".to_owned()]
        {
            is_challenged(&get_as(&server, path, &wrong).await);
        }
    }
    assert_eq!(fake.journal(), []);
    let alice = basic("alice", "client-secret");
    assert_eq!(get_as(&server, "/v2/", &alice).await.status, StatusCode::OK);
    assert_eq!(get_as(&server, TAG, &alice).await.digest(), image.digest);
    assert_eq!(get_as(&server, &layer, &alice).await.digest(), image.layers[0]);
    is_challenged(&server.get(TAG).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_is_refused_even_where_none_is_needed() {
    let (_fake, server, image) = with("", "auth: {users: users, anonymous: {pull: true}}").await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    is_challenged(&get_as(&server, TAG, &basic("alice", "wrong")).await);
    is_challenged(&get_as(&server, "/v2/", &basic("alice", "wrong")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_pull_is_by_the_address_in_the_proxy_header() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    for (cidr, status) in [("192.0.2.0/24", "200 OK"), ("127.0.0.0/8", "401 Unauthorized")] {
        let top = format!("auth: {{users: users, anonymous: {{cidrs: [{cidr}]}}}}");
        let text =
            configuration(&fake.url(), "", &top).replace("listen: 127.0.0.1:0", "listen: [{address: '127.0.0.1:0', proxy_protocol: true}]");
        let server = Headpond::of(&fake, &text, secrets(), World::default()).await;
        let request = format!("GET {TAG} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n");
        let answer = server.exchange(&[PROXY_HEADER, request.as_bytes()].concat()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{cidr}: {answer}");
        assert_eq!(server.exchange(request.as_bytes()).await, "", "without the header");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_with_credentials_refuses_anonymous_clients_cold_and_warm() {
    let (fake, server, image) = with(CREDENTIALS, "auth: {users: users, anonymous: {pull: true}}").await;
    fake.require_bearer_of("robot", "upstream-secret");
    let layer = Headpond::blob(&image.layers[0]);
    let alice = basic("alice", "client-secret");
    for _ in 0..2 {
        for path in [TAG, &layer, &format!("{TAG}?ns=docker.io"), "/v2/library/x/manifests/1?ns=docker.io", "/v2/up/library/x/tags/list"] {
            is_challenged(&server.get(path).await);
        }
        assert_eq!(get_as(&server, TAG, &alice).await.digest(), image.digest);
        assert_eq!(get_as(&server, &layer, &alice).await.digest(), image.layers[0]);
        server.wait_for_fills().await;
    }
    assert_eq!(server.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobodys_secrets_go_to_the_other_side() {
    let (fake, server, image) = with(CREDENTIALS, "auth: {users: users}").await;
    fake.require_bearer_of("robot", "upstream-secret");
    fake.redirect_blobs_to_cdn();
    let alice = basic("alice", "client-secret");
    let mut seen = String::new();
    for path in [TAG, &Headpond::blob(&image.layers[0]), "/v2/up/library/x/tags/list", "/v2/up/library/x/manifests/missing"] {
        for method in [Method::HEAD, Method::GET] {
            let answer =
                server.ask(method, path, &[("authorization", &alice), ("cookie", "client-cookie"), ("x-client", "client-header")]).await;
            seen += &format!("{:?} {:?}", answer.headers, answer.body);
        }
    }
    for secret in ["upstream-secret", "robot", &basic("robot", "upstream-secret")[6..], "token-", "signature=secret"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    let asked = format!("{:?}", fake.journal());
    for secret in [&alice[6..], "client-secret", "alice", "client-cookie", "client-header"] {
        assert!(!asked.contains(secret), "{secret} in {asked}");
    }
    assert!(asked.contains(&basic("robot", "upstream-secret")) && asked.contains("Bearer token-"), "the rule's own were used");
    assert!(fake.journal().iter().all(|exchange| !exchange.at_cdn || exchange.authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_have_upstream_asked_at_will() {
    let (fake, server, image) = with("", "auth: {users: users, anonymous: {pull: true}}").await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    fake.clear_journal();
    let now = ("cache-control", "no-cache");
    is_challenged(&server.ask(Method::GET, TAG, &[now]).await);
    assert_eq!(fake.journal(), []);
    let answer = server.ask(Method::GET, TAG, &[now, ("authorization", &basic("alice", "client-secret"))]).await;
    assert_eq!(answer.digest(), image.digest);
    assert_eq!(fake.manifest_heads(), 1);
}

/// The configuration without the rule `up`.
fn without_rule(fake: &FakeUpstream, top: &str) -> String {
    configuration(&fake.url(), "", top).replace("prefix: up", "prefix: other")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_under_credentials_is_for_users_when_its_rule_is_gone() {
    const TOP: &str = "auth: {users: users, anonymous: {pull: true}}";
    let alice = basic("alice", "client-secret");
    // Also where it was for everybody when it was cached, and the rule said otherwise before it went.
    for opened_first in [false, true] {
        let opened = format!("{CREDENTIALS}\nanonymous: true");
        let (fake, mut server, image) = with(if opened_first { &opened } else { CREDENTIALS }, TOP).await;
        assert_eq!(get_as(&server, TAG, &alice).await.digest(), image.digest);
        server.wait_for_repository("up/library/x").await;
        server.reload(&configuration(&fake.url(), CREDENTIALS, TOP)).unwrap();
        assert_eq!(get_as(&server, TAG, &alice).await.digest(), image.digest);
        server.reload(&without_rule(&fake, TOP)).unwrap();
        for round in 0..2 {
            let anonymous = server.get(TAG).await;
            assert_eq!((anonymous.status, anonymous.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"), "round {round}");
            assert_eq!(get_as(&server, TAG, &alice).await.digest(), image.digest);
            let directory = server.stop().await;
            server = Headpond::of(&fake, &without_rule(&fake, TOP), directory, World::default()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_on_passwords_do_not_outlive_a_reload() {
    const TOP: &str = "auth: {users: users}\nlimits: {users_verdict_ttl: 1h}";
    let (fake, mut server, image) = with("", TOP).await;
    let old = basic("alice", "client-secret");
    assert_eq!(get_as(&server, TAG, &old).await.digest(), image.digest);
    let users = server.directory.path().join("users");
    std::fs::write(&users, format!("alice:{}\n", bcrypt::hash("changed", 4).unwrap())).unwrap();
    assert_eq!(get_as(&server, TAG, &old).await.digest(), image.digest, "until it is told");
    server.reload(&configuration(&fake.url(), "", TOP)).unwrap();
    is_challenged(&get_as(&server, TAG, &old).await);
    assert_eq!(get_as(&server, TAG, &basic("alice", "changed")).await.digest(), image.digest);
}

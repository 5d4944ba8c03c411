//! Taking over another configuration while serving.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, StatusCode};

use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::{Headpond, configuration};

const TAG: &str = "/v2/up/library/x/manifests/1";
const LOADED: &str = "headpond_config_last_reload_successful";

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_taken_over_and_what_is_left_as_it_was_keeps_its_connections_and_circuit() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let mut server = Headpond::before(&fake).await;
    fake.on(On::Any).always(Fault::StatusRetryAfter(429, "600".to_owned()));
    assert_eq!(server.get(TAG).await.status, StatusCode::TOO_MANY_REQUESTS);
    fake.clear_faults();
    assert_eq!(server.reload(&configuration(&fake.url(), "deny: [library/y]", "")).unwrap(), Vec::<&str>::new());
    assert_eq!(server.get("/v2/up/library/y/manifests/1").await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.get(TAG).await.status, StatusCode::TOO_MANY_REQUESTS, "the upstream is still left alone");
    assert_eq!(fake.journal().len(), 1);
    assert_eq!(server.metric(LOADED), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_rotated_does_not_forget_a_429() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "old").unwrap();
    let rule = |username: &str| format!("credentials: {{username: {username}, password: 'file:password'}}\nanonymous: true");
    let mut server = Headpond::in_directory(&fake, &rule("user"), "", directory, headpond::app::World::default()).await;
    fake.on(On::Any).once(Fault::StatusRetryAfter(429, "600".to_owned()));
    assert_eq!(server.get(TAG).await.status, StatusCode::TOO_MANY_REQUESTS);
    std::fs::write(&password, "new").unwrap();
    server.reload(&configuration(&fake.url(), &rule("user"), "")).unwrap();
    assert_eq!(server.get(TAG).await.status, StatusCode::TOO_MANY_REQUESTS, "it was said to the user, whatever the password");
    assert_eq!(fake.journal().len(), 1);
    server.reload(&configuration(&fake.url(), &rule("other"), "")).unwrap();
    assert_eq!(server.get(TAG).await.status, StatusCode::OK, "and to no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_with_the_rules_they_began_with() {
    let (old, new) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let before = old.put_image("library/x", "1", &[]);
    let after = new.put_image("library/x", "1", &["new".into()]);
    let mut server = Headpond::before(&old).await;
    old.on(On::ManifestGet).once(Fault::HangHead);
    let first = tokio::spawn(server.client.get(server.url(TAG)).send());
    old.wait_until_requests("GET", "/manifests/1", 1).await;
    server.reload(&configuration(&new.url(), "", "")).unwrap();
    assert_eq!(server.get(TAG).await.digest(), after.digest, "nobody joins what is under way at the old upstream");
    old.release();
    let first = crate::headpond::Answer::read(first.await.unwrap().unwrap()).await;
    assert_eq!(first.digest(), before.digest);
    assert_eq!(server.get(TAG).await.digest(), after.digest, "and what it brought is the old one's");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_need_a_restart_are_named() {
    let fake = FakeUpstream::start().await;
    let mut server = Headpond::before(&fake).await;
    let same = configuration(&fake.url(), "", "");
    for (text, keys) in [
        (same.clone(), vec![]),
        (same.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:1"), vec!["listen"]),
        (same.replace("listen: 127.0.0.1:0", "listen: [{address: '127.0.0.1:0', proxy_protocol: true}]"), vec!["listen"]),
        (same.replace("admin: {address: 127.0.0.1:0}", "admin: {address: 127.0.0.1:1}"), vec!["listen", "admin"]),
        (same.replace("path: headpond-data", "path: elsewhere"), vec!["admin", "storage"]),
        (configuration(&fake.url(), "", "limits: {max_fills: 7}"), vec!["storage", "limits"]),
        (configuration(&fake.url(), "", "limits: {max_fills: 7}").replace("level: off", "level: off, format: json"), vec!["log.format"]),
    ] {
        // Each is compared with the one before it.
        assert_eq!(server.reload(&text).unwrap(), keys, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_cannot_be_used_changes_nothing() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users"), format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    std::fs::write(directory.path().join("bad"), "alice:secret\n").unwrap();
    let top = "auth: {users: users, anonymous: {pull: true}}";
    let mut server = Headpond::in_directory(&fake, "", top, directory, headpond::app::World::default()).await;
    let broken = [
        configuration(&fake.url(), "deny: ['*']\nca: bad", top),
        configuration(&fake.url(), "deny: ['*']", "auth: {users: bad, anonymous: none}"),
        configuration(&fake.url(), "deny: ['*']", "auth: {users: missing}"),
        configuration("not a host", "deny: ['*']", top),
        "rules: {".to_owned(),
    ];
    for text in broken {
        server.reload(&text).unwrap_err();
        assert_eq!(server.get(TAG).await.digest(), image.digest, "{text}");
        assert_eq!(server.get("/v2/").await.status, StatusCode::OK);
    }
    assert_eq!(server.metric(LOADED), 0);
    assert_eq!((fake.journal().len(), server.running.addresses.len()), (1, 1));
}

/// Writes `<name>.crt` and `<name>.key` for loopback, and returns a client that trusts nothing else.
fn certificate(directory: &Path, name: &str) -> Client {
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "127.0.0.2".to_owned()];
    let pem = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
    std::fs::write(directory.join(format!("{name}.crt")), &pem).unwrap();
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    let trusted = Certificate::from_pem(pem.as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([trusted]).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_over_all_or_none() {
    let fake = FakeUpstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let old = ["a", "b"].map(|name| certificate(directory.path(), name));
    let listen = |host: &str, name: &str| format!("{{address: '{host}:0', tls: {{certificate: {name}.crt, key: {name}.key}}}}");
    let listens = format!("listen: [{}, {}]", listen("127.0.0.1", "a"), listen("127.0.0.2", "b"));
    let text = configuration(&fake.url(), "", "").replace("listen: 127.0.0.1:0", &listens);
    let mut server = Headpond::of(&fake, &text, directory, headpond::app::World::default()).await;
    let urls: Vec<String> = server.running.addresses.iter().map(|address| format!("https://{address}/v2/")).collect();
    let is_served = async |client: &Client, url: &str| client.get(url).send().await.is_ok();

    let new = ["a", "b"].map(|name| certificate(server.directory.path(), name));
    let good_key = std::fs::read(server.directory.path().join("b.key")).unwrap();
    std::fs::write(server.directory.path().join("b.key"), "no key").unwrap();
    server.reload(&text).unwrap_err();
    assert_eq!(server.metric(LOADED), 0);
    for (old, url) in old.iter().zip(&urls) {
        assert!(is_served(old, url).await, "{url} has the old certificate");
    }
    std::fs::write(server.directory.path().join("b.key"), good_key).unwrap();
    assert_eq!(server.reload(&text).unwrap(), Vec::<&str>::new());
    for (client, url) in new.iter().zip(&urls) {
        assert!(is_served(client, url).await, "{url} has the new certificate");
    }
    let strangers = ["c", "d"].map(|name| certificate(server.directory.path(), name));
    assert!(!is_served(&strangers[0], &urls[0]).await, "certificates are checked");
    assert_eq!(server.metric(LOADED), 1);
}

//! Names of one image in all their forms, and what a repository's record says when rules change.

use std::time::Duration;

use headpond::app::World;
use reqwest::StatusCode;

use crate::fake_upstream::FakeUpstream;
use crate::headpond::{Headpond, configuration};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn manifest(name: &str) -> String {
    format!("/v2/{name}/manifests/1")
}

/// A configuration with these rules, each `prefix` and `upstream` and further keys, in flow style.
fn rules(fake: &FakeUpstream, rules: &[String]) -> String {
    let text = configuration(&fake.url(), "", "");
    let (top, _) = text.split_once("rules:").unwrap();
    format!("{top}rules: [{}]\n", rules.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_names_of_one_image_are_one_repository() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let server = Headpond::before(&fake).await;
    let host = fake.host();
    for (path, ns) in [
        ("/v2/up/library/x/manifests/1".to_owned(), ""),
        ("/v2/library/x/manifests/1?ns=docker.io".to_owned(), "docker.io"),
        ("/v2/library/x/manifests/1?ns=Docker.IO".to_owned(), "Docker.IO"),
        (format!("/v2/library/x/manifests/1?ns={host}"), host.as_str()),
        (format!("/v2/library/x/manifests/1?ns={}", host.replace(':', "%3A")), host.as_str()),
        ("/v2/up/library/x/manifests/1?ns=docker.io".to_owned(), "docker.io"),
    ] {
        let answer = server.get(&path).await;
        assert_eq!((answer.digest(), answer.header("oci-namespace")), (image.digest, ns), "{path}");
    }
    let blob = format!("/v2/library/x/blobs/{}?ns=docker.io", image.layers[0]);
    assert_eq!(server.get(&blob).await.digest(), image.layers[0]);
    server.wait_for_fills().await;
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    assert_eq!((fake.manifest_gets(), fake.requests_matching("GET", "/blobs/"), fake.journal().len()), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_that_no_rule_names_is_never_proxied() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    for fake in [&fake, &other] {
        fake.put_image("library/x", "1", &[]);
        fake.put_image("up/library/x", "1", &[]);
    }
    let server = Headpond::before(&fake).await;
    assert_eq!(server.get(&manifest("up/library/x")).await.status, StatusCode::OK);
    fake.clear_journal();
    let long = "a".repeat(9000);
    for ns in [
        &other.host(),
        "evil.example",
        "",
        "docker.io.evil.example",
        "http://docker.io",
        "docker.io/..",
        "%00",
        "%ff",
        "ns=docker.io",
        &long,
    ] {
        for name in ["library/x", "up/library/x"] {
            let answer = server.get(&format!("{}?ns={ns}&ns=docker.io", manifest(name))).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"), "{ns}");
            assert!(answer.message().len() < 700, "{}", answer.message());
        }
    }
    assert_eq!((fake.journal(), other.journal()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn name_without_a_rule_is_unknown() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::before(&fake).await;
    for name in ["library/x", "up", "upx/library/x", "a"] {
        let answer = server.get(&manifest(name)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"), "{name}");
        assert!(answer.message().contains(&format!("no rule matches {name} ")), "{}", answer.message());
    }
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn longest_prefix_wins_root_comes_last_and_kubernetes_is_k8s() {
    let (root, quay, special, k8s) =
        (FakeUpstream::start().await, FakeUpstream::start().await, FakeUpstream::start().await, FakeUpstream::start().await);
    let rule = |prefix: &str, fake: &FakeUpstream, more: &str| format!("{{prefix: {prefix}, upstream: '{}'{more}}}", fake.url());
    let text = rules(
        &root,
        &[
            rule("ROOT", &root, ""),
            rule("quay", &quay, ""),
            rule("quay/special", &special, ", upstream_prefix: team"),
            rule("k8s", &k8s, ""),
        ],
    );
    let server = Headpond::of(&root, &text, tempfile::tempdir().unwrap(), World::default()).await;
    for (name, upstream, remote) in [
        ("quay/a/b", &quay, "a/b"),
        ("quay/special/b", &special, "team/b"),
        ("quayx/b", &root, "quayx/b"),
        ("quay", &root, "quay"),
        ("kubernetes/pause", &k8s, "pause"),
        ("k8s/pause", &k8s, "pause"),
    ] {
        let image = upstream.put_image(remote, "1", &[]);
        assert_eq!(server.get(&manifest(name)).await.digest(), image.digest, "{name}");
    }
    assert_eq!(k8s.journal().len(), 1, "the alias is the same repository");
    let by_host = server.get(&format!("/v2/team/b/manifests/1?ns={}", special.host())).await;
    assert_eq!(by_host.status, StatusCode::OK);
    let outside = server.get(&format!("/v2/other/b/manifests/1?ns={}", special.host())).await;
    assert_eq!((outside.status, outside.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    assert_eq!(special.journal().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_rule_does_not_allow_are_denied_in_every_form() {
    let fake = FakeUpstream::start().await;
    for name in ["library/x", "library/secret", "other/x"] {
        fake.put_image(name, "1", &["layer".into()]);
    }
    let server = Headpond::with(&fake, "allow: ['library/*']\ndeny: ['*/secret']", "").await;
    assert_eq!(server.get(&manifest("up/library/x")).await.status, StatusCode::OK);
    fake.clear_journal();
    let layer = headpond::oci::Digest::of(b"layer");
    for name in ["library/secret", "other/x"] {
        for path in [
            manifest(&format!("up/{name}")),
            format!("{}?ns=docker.io", manifest(name)),
            format!("/v2/up/{name}/blobs/{layer}"),
            format!("/v2/up/{name}/tags/list"),
        ] {
            let answer = server.get(&path).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "DENIED"), "{path}");
            assert_eq!(server.head(&path).await.status, StatusCode::FORBIDDEN);
        }
    }
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_whose_rule_is_gone_serves_what_it_has() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into(), "not pulled".into()]);
    fake.put_image("library/x", "2", &["other".into()]);
    let mut server = Headpond::before(&fake).await;
    let (name, layer) = ("up/library/x", Headpond::blob(&image.layers[0]));
    assert_eq!(server.get(&manifest("up/library/y")).await.code(), "MANIFEST_UNKNOWN");
    server.get(&manifest(name)).await;
    server.get(&layer).await;
    server.wait_for_fills().await;
    server.wait_for_repository(name).await;
    let other_rule = rules(&fake, &[format!("{{prefix: other, upstream: '{}'}}", fake.url())]);
    assert_eq!(server.reload(&other_rule).unwrap(), Vec::<&str>::new());
    server.clock.advance(40 * DAY);
    fake.clear_journal();
    for round in 0..2 {
        let by_tag = server.get(&manifest(name)).await;
        assert_eq!((by_tag.digest(), by_tag.header("warning")), (image.digest, ""), "round {round}");
        assert_eq!(server.head(&manifest(name)).await.header("docker-content-digest"), image.digest.to_string());
        assert_eq!(server.get(&format!("/v2/{name}/manifests/{}", image.digest)).await.digest(), image.digest);
        assert_eq!(server.get(&layer).await.digest(), image.layers[0]);
        assert_eq!(server.get(&format!("/v2/{name}/tags/list")).await.status, StatusCode::OK);
        for (path, code) in [
            ("/v2/up/library/x/manifests/2".to_owned(), "MANIFEST_UNKNOWN"),
            (Headpond::blob(&image.layers[1]), "BLOB_UNKNOWN"),
            (manifest("up/library/y"), "NAME_UNKNOWN"),
            (format!("{}?ns=docker.io", manifest("library/x")), "NAME_UNKNOWN"),
        ] {
            let answer = server.get(&path).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, code), "{path} in round {round}");
            assert_eq!(server.head(&path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        let directory = server.stop().await;
        server = Headpond::of(&fake, &other_rule, directory, World::default()).await;
    }
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_that_was_looked_for_before_its_first_import_is_known_after_it() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let elsewhere = rules(&fake, &[format!("{{prefix: elsewhere, upstream: '{}'}}", fake.url())]);
    let mut server = Headpond::of(&fake, &elsewhere, tempfile::tempdir().unwrap(), World::default()).await;
    assert_eq!(server.get(&manifest("up/library/x")).await.code(), "NAME_UNKNOWN");
    server.reload(&configuration(&fake.url(), "", "")).unwrap();
    assert_eq!(server.get(&manifest("up/library/x")).await.digest(), image.digest);
    server.wait_for_repository("up/library/x").await;
    server.reload(&elsewhere).unwrap();
    assert_eq!(server.get(&manifest("up/library/x")).await.digest(), image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_that_names_another_upstream_serves_nothing_of_the_old_one() {
    let (old, new) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let before = old.put_image("library/x", "1", &["old layer".into(), "both".into()]);
    old.put_image("library/x", "headed", &["headed".into()]);
    old.put_image("library/x", "only-old", &[]);
    let mut server = Headpond::with(&old, "", "limits: {negative_ttl: 1h}").await;
    server.get(&manifest("up/library/x")).await;
    for layer in &before.layers {
        server.get(&Headpond::blob(layer)).await;
    }
    server.wait_for_fills().await;
    // What else is remembered of the old one: a HEAD, a refusal, a list.
    assert_eq!(server.head("/v2/up/library/x/manifests/headed").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/up/library/x/manifests/missing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v2/up/library/x/tags/list").await.status, StatusCode::OK);

    let after = new.put_image("library/x", "1", &["new layer".into(), "both".into()]);
    let headed = new.put_image("library/x", "headed", &["headed elsewhere".into()]);
    let missing = new.put_image("library/x", "missing", &[]);
    old.stop().await;
    server.reload(&configuration(&new.url(), "", "limits: {negative_ttl: 1h}")).unwrap();
    for round in 0..2 {
        assert_eq!(server.get(&manifest("up/library/x")).await.digest(), after.digest, "round {round}");
        assert_eq!(server.head("/v2/up/library/x/manifests/headed").await.header("docker-content-digest"), headed.digest.to_string());
        assert_eq!(server.get("/v2/up/library/x/manifests/missing").await.digest(), missing.digest);
        let list: serde_json::Value = serde_json::from_slice(server.get("/v2/up/library/x/tags/list").await.bytes()).unwrap();
        assert_eq!(list["tags"], serde_json::json!(["1", "headed", "missing"]));
        for path in [
            format!("/v2/up/library/x/manifests/{}", before.digest),
            "/v2/up/library/x/manifests/only-old".to_owned(),
            Headpond::blob(&before.layers[0]),
        ] {
            assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(server.head(&path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        // One that both have is not transferred again, but the new one's word is asked for.
        assert_eq!(server.get(&Headpond::blob(&before.layers[1])).await.digest(), before.layers[1]);
        assert_eq!(new.blob_bytes_sent(&before.layers[1]), 0);
        let directory = server.stop().await;
        server = Headpond::in_directory(&new, "", "limits: {negative_ttl: 1h}", directory, World::default()).await;
    }
}

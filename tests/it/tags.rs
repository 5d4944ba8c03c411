//! Tags that are not cached yet: what a first request costs, and what it is told.

use std::time::Duration;

use futures::future::join_all;
use headpond::app::World;
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::{Answer, Headpond};

const TAG: &str = "/v2/up/library/x/manifests/1";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn is_told(server: &Headpond, status: u16, code: &str, words: &str) -> Answer {
    let answer = server.get(TAG).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.message());
    assert!(answer.message().contains(words), "{}", answer.message());
    let head = server.head(TAG).await;
    assert_eq!((head.status, head.bytes().len()), (answer.status, 0));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_gets_of_a_cold_tag_cost_one_get() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    let answers = join_all((0..100).map(|_| server.get(TAG))).await;
    assert!(answers.iter().all(|answer| answer.digest() == image.digest));
    assert_eq!((fake.manifest_gets(), fake.journal().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_heads_of_a_cold_tag_cost_one_head_and_import_nothing() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    let answers = join_all((0..100).map(|_| server.head(TAG))).await;
    for answer in answers {
        assert_eq!((answer.status, answer.header("docker-content-digest")), (StatusCode::OK, image.digest.to_string().as_str()));
        assert_eq!(answer.header("content-length"), image.manifest.len().to_string());
    }
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));
    assert_eq!(server.stored_blobs(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_clients_of_a_missing_tag_cost_one_request() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::with(&fake, "", "limits: {negative_ttl: 1h}").await;
    let answers = join_all((0..100).map(|_| server.get(TAG))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::NOT_FOUND && answer.code() == "MANIFEST_UNKNOWN"));
    assert_eq!(server.head(TAG).await.status, StatusCode::NOT_FOUND);
    assert_eq!(fake.journal().len(), 1);
    let remembered = server.get(TAG).await;
    assert!(remembered.message().contains("manifest unknown"), "what upstream said is told again: {}", remembered.message());
    assert!(remembered.message().contains("a moment ago"), "{}", remembered.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tag_is_forgotten_after_negative_ttl() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::with(&fake, "", "limits: {negative_ttl: 100ms}").await;
    assert_eq!(server.get(TAG).await.status, StatusCode::NOT_FOUND);
    let image = fake.put_image("library/x", "1", &[]);
    let answer = loop {
        let answer = server.get(TAG).await;
        if answer.status == StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(answer.digest(), image.digest);
    assert_eq!(fake.manifest_gets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_that_was_missing_is_asked_for_again_once_a_manifest_refers_to_it() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::with(&fake, "", "limits: {negative_ttl: 1h}").await;
    let layer = headpond::oci::Digest::of(b"layer");
    for _ in 0..10 {
        assert_eq!(server.get(&Headpond::blob(&layer)).await.code(), "BLOB_UNKNOWN");
    }
    assert_eq!(fake.journal().len(), 1);
    fake.put_image("library/x", "1", &["layer".into()]);
    server.get(TAG).await;
    assert_eq!(server.get(&Headpond::blob(&layer)).await.digest(), layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_upstream_is_told_as_429_with_its_retry_after() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    fake.on(On::Any).always(Fault::StatusRetryAfter(429, "77".to_owned()));
    let server = Headpond::before(&fake).await;
    let answer = is_told(&server, 429, "TOOMANYREQUESTS", "planned by the test").await;
    assert_eq!(answer.header("retry-after"), "77");
    let again = is_told(&server, 429, "TOOMANYREQUESTS", "left alone").await;
    assert!((60..=77).contains(&again.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(fake.journal().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_without_credentials_is_told_as_not_found_with_its_reason() {
    for status in [401, 403] {
        let fake = FakeUpstream::start().await;
        fake.on(On::Any).always(Fault::Status(status));
        let server = Headpond::before(&fake).await;
        is_told(&server, 404, "MANIFEST_UNKNOWN", "private upstream, or not there, and the rule has no credentials").await;
        is_told(&server, 404, "MANIFEST_UNKNOWN", "planned by the test").await;
        assert_eq!(fake.journal().len(), 1, "and remembered like it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_credentials_is_told_in_the_words_of_ecr() {
    for status in [401, 403] {
        let fake = FakeUpstream::start().await;
        fake.on(On::Any).always(Fault::Status(status));
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), "hunter2").unwrap();
        let rule = "credentials: {username: someone, password: 'file:password'}\nanonymous: true";
        let server = Headpond::in_directory(&fake, rule, "", directory, World::default()).await;
        is_told(&server, 403, "DENIED", "The authentication to the upstream registry failed.").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upstream_is_told_as_unavailable_with_retry_after() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    fake.on(On::Any).always(Fault::Status(500));
    let server = Headpond::before(&fake).await;
    let answer = is_told(&server, 503, "UNAVAILABLE", "planned by the test").await;
    assert!(!answer.header("retry-after").is_empty());
    fake.clear_faults();
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(server.get(TAG).await.digest(), image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_upstream_is_given_up() {
    let fake = FakeUpstream::start().await;
    fake.on(On::Any).always(Fault::HangHead);
    let server = Headpond::with(&fake, "", "limits: {head_timeout: 200ms}").await;
    is_told(&server, 503, "UNAVAILABLE", "did not answer within").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_with_upstream_down() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    fake.stop().await;
    let server = Headpond::before(&fake).await;
    assert_eq!(server.get("/v2/").await.status, StatusCode::OK);
    assert!(!is_told(&server, 503, "UNAVAILABLE", "").await.header("retry-after").is_empty());
    fake.restart();
    server.clock.advance(Duration::from_secs(61));
    assert_eq!(server.get(TAG).await.digest(), image.digest);
}

/// containerd's order: HEAD by tag, GET by digest.
#[tokio::test(flavor = "multi_thread")]
async fn tag_pulled_by_head_and_digest_is_served_in_an_outage_and_after_a_restart() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    assert_eq!(server.head(TAG).await.header("docker-content-digest"), image.digest.to_string());
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await.digest(), image.digest);
    assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 1));
    fake.stop().await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    server.clock.advance(DAY);
    let stale = server.get(TAG).await;
    assert_eq!(stale.digest(), image.digest);
    assert!(stale.header("warning").starts_with("110 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn second_tag_of_a_cached_manifest_needs_only_a_head_to_be_kept() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get(TAG).await;
    fake.move_tag("library/x", "2", &image.digest);
    server.head("/v2/up/library/x/manifests/2").await;
    fake.stop().await;
    assert_eq!(server.get("/v2/up/library/x/manifests/2").await.digest(), image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_told_by_a_head_and_deleted_since_is_not_insisted_on() {
    let fake = FakeUpstream::start().await;
    let old = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.head(TAG).await;
    let new = fake.put_image("library/x", "1", &["new".into()]);
    fake.remove("library/x", &old.digest.to_string());
    assert_eq!(server.get(TAG).await.digest(), new.digest);
    assert_eq!(server.head(TAG).await.header("docker-content-digest"), new.digest.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_told_by_a_head_does_not_turn_a_tag_back_that_has_moved_since() {
    let fake = FakeUpstream::start().await;
    let old = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.head(TAG).await;
    let new = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(server.ask(reqwest::Method::GET, TAG, &[("cache-control", "no-cache")]).await.digest(), new.digest);
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{}", old.digest)).await.digest(), old.digest);
    assert_eq!(server.get(TAG).await.digest(), new.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_tag_whose_manifest_was_lost_is_fetched_again() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get(TAG).await;
    let directory = server.stop().await;
    std::fs::remove_dir_all(directory.path().join("headpond-data/blobs")).unwrap();
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(fake.manifest_gets(), 2);
}

//! How long tags are believed, and what it costs to confirm them.

use std::time::Duration;

use futures::future::join_all;
use headpond::app::World;
use reqwest::{Method, StatusCode};

use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond};

const TAG: &str = "/v2/up/library/x/manifests/1";
/// Clients wait for a tag to be confirmed, however long a busy machine takes for it.
const PATIENT: &str = "limits: {revalidate_wait: 30s}";
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that has the tag, whose window has just passed.
async fn with_stale_tag(rule: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::with(&fake, rule, PATIENT).await;
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    server.clock.advance(DAY);
    fake.clear_journal();
    (fake, server, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_within_its_window_makes_no_upstream_request() {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    server.get(TAG).await;
    fake.clear_journal();
    for _ in 0..10 {
        let answers = join_all((0..100).map(|_| server.get(TAG))).await;
        assert!(answers.iter().all(|answer| answer.digest() == image.digest && answer.header("warning").is_empty()));
    }
    assert_eq!(fake.journal(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_past_its_window_is_confirmed_with_one_head() {
    let (fake, server, image) = with_stale_tag("").await;
    for _ in 0..3 {
        let answer = server.get(TAG).await;
        assert_eq!((answer.digest(), answer.header("warning")), (image.digest, ""));
    }
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));
    assert_eq!(server.metric(r#"headpond_cache_requests_total{kind="tag",result="revalidated",rule="up"}"#), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_clients_past_the_window_cost_one_head() {
    let (fake, server, image) = with_stale_tag("").await;
    let answers = join_all((0..100).map(|_| server.get(TAG))).await;
    assert!(answers.iter().all(|answer| answer.digest() == image.digest && answer.header("warning").is_empty()));
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_clients_past_the_window_of_a_moved_tag_get_the_new_one_after_a_restart() {
    let (fake, server, _) = with_stale_tag("").await;
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", PATIENT, directory, World::default()).await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    let answers = join_all((0..100).map(|_| server.get(TAG))).await;
    assert!(answers.iter().all(|answer| answer.digest() == moved.digest));
    assert_eq!((fake.manifest_heads(), fake.manifest_gets(), fake.journal().len()), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_tag_costs_one_head_and_one_get_and_is_kept() {
    let (fake, server, image) = with_stale_tag("").await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    for _ in 0..3 {
        assert_eq!(server.get(TAG).await.digest(), moved.digest);
    }
    assert_eq!((fake.manifest_heads(), fake.manifest_gets(), fake.journal().len()), (1, 1, 2));
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await.digest(), image.digest, "the old one is cached");
    let directory = server.stop().await;
    fake.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert_eq!(server.get(TAG).await.digest(), moved.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_moves_back_is_served_from_the_cache_after_one_head() {
    let (fake, server, image) = with_stale_tag("").await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    assert_eq!(server.get(TAG).await.digest(), moved.digest);
    fake.move_tag("library/x", "1", &image.digest);
    server.clock.advance(DAY);
    fake.clear_journal();
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_those_of_the_rule_and_its_patterns() {
    let fake = FakeUpstream::start().await;
    let tags = ["1", "latest", "v1"];
    for tag in tags {
        fake.put_image("library/x", tag, &[]);
    }
    let server = Headpond::with(&fake, "freshness: {default: 1h, tags: {latest: 15m, 'v*': 48h}}", "").await;
    let heads_after = async |passed: Duration| {
        server.clock.advance(passed);
        fake.clear_journal();
        for tag in tags {
            assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{tag}")).await.status, StatusCode::OK);
        }
        tags.map(|tag| fake.requests_matching("HEAD", &format!("/manifests/{tag}")))
    };
    heads_after(Duration::ZERO).await;
    assert_eq!(heads_after(HOUR / 4).await, [0, 1, 0]);
    assert_eq!(heads_after(HOUR).await, [1, 1, 0]);
    assert_eq!(heads_after(2 * DAY).await, [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn window_of_zero_confirms_every_time() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let server = Headpond::with(&fake, "freshness: {default: 0s}", "").await;
    for _ in 0..4 {
        server.get(TAG).await;
    }
    assert_eq!((fake.manifest_gets(), fake.manifest_heads()), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_spreads_tags_and_never_lengthens_their_window() {
    let fake = FakeUpstream::start().await;
    let tags: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
    for tag in &tags {
        fake.put_image("library/x", tag, &[]);
    }
    let server = Headpond::before(&fake).await;
    let heads_after = async |passed: Duration| {
        server.clock.advance(passed);
        fake.clear_journal();
        for tag in &tags {
            server.get(&format!("/v2/up/library/x/manifests/{tag}")).await;
        }
        fake.manifest_heads()
    };
    heads_after(Duration::ZERO).await;
    assert_eq!(heads_after(DAY.mul_f64(0.89)).await, 0);
    let at_nineteen_twentieths = heads_after(DAY.mul_f64(0.06)).await;
    assert!((1..40).contains(&at_nineteen_twentieths), "{at_nineteen_twentieths}");
    assert_eq!(at_nineteen_twentieths + heads_after(DAY.mul_f64(0.05)).await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_that_refuses_head_or_tells_no_digest_is_asked_with_one_get() {
    for fault in [Fault::Status(405), Fault::WithoutHeader("docker-content-digest")] {
        let (fake, server, image) = with_stale_tag("").await;
        fake.on(On::ManifestHead).always(fault.clone());
        assert_eq!(server.get(TAG).await.digest(), image.digest);
        assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 1), "{fault:?}");
        let moved = fake.put_image("library/x", "1", &["new".into()]);
        server.clock.advance(DAY);
        let answer = server.get(TAG).await;
        assert_eq!((answer.digest(), answer.header("warning")), (moved.digest, ""));
        assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (2, 2), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_has_upstream_asked_within_the_window() {
    let fake = FakeUpstream::start().await;
    fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    let now = [("cache-control", "max-age=0, No-Cache")];
    server.get(TAG).await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    fake.clear_journal();
    assert_eq!(server.ask(Method::HEAD, TAG, &now).await.header("docker-content-digest"), moved.digest.to_string());
    assert_eq!(server.ask(Method::GET, TAG, &now).await.digest(), moved.digest);
    assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (2, 1));
    fake.stop().await;
    let answer = server.ask(Method::GET, TAG, &now).await;
    assert_eq!(answer.digest(), moved.digest);
    assert!(answer.header("warning").starts_with("110 "), "{answer:?}");
}

/// The check under way has been told of one move when the tag moves again.
#[tokio::test(flavor = "multi_thread")]
async fn no_cache_does_not_make_do_with_a_check_that_began_before_it() {
    let fake = FakeUpstream::start().await;
    let old = fake.put_image("library/x", "1", &[]);
    let server = Headpond::with(&fake, "", "limits: {revalidate_wait: 50ms, head_timeout: 1h, manifest_timeout: 1h}").await;
    server.get(TAG).await;
    server.clock.advance(DAY);
    fake.clear_journal();
    let between = fake.put_image("library/x", "1", &["between".into()]);
    fake.on(On::ManifestGet).once(Fault::HangHead);
    let stale = server.get(TAG).await;
    assert_eq!(stale.digest(), old.digest);
    assert!(stale.header("warning").contains("(slow)"), "{stale:?}");
    fake.wait_until_requests("GET", &between.digest.to_string(), 1).await;
    let last = fake.put_image("library/x", "1", &["last".into()]);
    let now = tokio::spawn(server.client.get(server.url(TAG)).header("cache-control", "no-cache").send());
    assert_eq!(server.get(TAG).await.digest(), old.digest, "the others are told what is cached");
    assert!(!now.is_finished());
    fake.release();
    let now = Answer::read(now.await.unwrap().unwrap()).await;
    assert_eq!((now.digest(), now.header("warning")), (last.digest, ""));
    assert_eq!(fake.manifest_heads(), 2);
    assert_eq!(server.get(TAG).await.digest(), last.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_does_not_make_do_with_a_first_pull_that_began_before_it() {
    let fake = FakeUpstream::start().await;
    let old = fake.put_image("library/x", "1", &[]);
    let server = Headpond::before(&fake).await;
    fake.on(On::ManifestGet).once(Fault::HoldBodyAt(10));
    let first = tokio::spawn(server.client.get(server.url(TAG)).send());
    fake.wait_until_blob_bytes_sent(&old.digest, 10).await;
    let new = fake.put_image("library/x", "1", &["new".into()]);
    let now = tokio::spawn(server.client.get(server.url(TAG)).header("cache-control", "no-cache").send());
    assert_eq!(server.get("/v2/").await.status, StatusCode::OK);
    assert!(!now.is_finished());
    fake.release();
    assert_eq!(Answer::read(first.await.unwrap().unwrap()).await.digest(), old.digest, "what upstream told this client");
    assert_eq!(Answer::read(now.await.unwrap().unwrap()).await.digest(), new.digest);
    assert_eq!(server.get(TAG).await.digest(), new.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_passes_over_what_is_remembered_to_be_missing() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::with(&fake, "", "limits: {negative_ttl: 1h}").await;
    assert_eq!(server.get(TAG).await.status, StatusCode::NOT_FOUND);
    let image = fake.put_image("library/x", "1", &[]);
    assert_eq!(server.get(TAG).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.ask(Method::GET, TAG, &[("cache-control", "no-cache")]).await.digest(), image.digest);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
}

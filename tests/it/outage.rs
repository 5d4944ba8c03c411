//! Upstream down, slow, throttled or refusing: what is cached is served, at once, and upstream is
//! left alone until it is well.

use std::time::Duration;

use headpond::app::World;
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond};

const TAG: &str = "/v2/up/library/x/manifests/1";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than any pause between attempts that the tests below come to, and far from a window.
const PAUSE: Duration = Duration::from_secs(61);

/// A server that has an image, whose tag's window has just passed.
async fn with_stale_image(rule: &str, top: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    let server = Headpond::with(&fake, rule, top).await;
    server.get(TAG).await;
    server.get(&Headpond::blob(&image.layers[0])).await;
    server.wait_for_fills().await;
    server.clock.advance(DAY);
    fake.clear_journal();
    (fake, server, image)
}

fn is_stale(answer: &Answer) -> bool {
    answer.header("warning").starts_with("110 headpond ")
}

/// Pulls all of it many times: by tag it may be out of date and says so, the rest cannot be.
async fn serves_all_of(server: &Headpond, image: &Image, reason: &str) {
    let stale = format!(r#"headpond_stale_served_total{{reason="{reason}",rule="up"}}"#);
    let before = server.metric(&stale);
    for _ in 0..10 {
        let by_tag = server.get(TAG).await;
        assert_eq!(by_tag.digest(), image.digest, "{reason}");
        assert!(is_stale(&by_tag), "{reason}: {by_tag:?}");
        assert!(is_stale(&server.head(TAG).await));
        let by_digest = server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await;
        assert_eq!((by_digest.digest(), by_digest.header("warning")), (image.digest, ""));
        assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0]);
    }
    assert_eq!(server.metric(&stale) - before, 20, "{reason}");
}

/// Once upstream is well, the tag is checked after a pause that is no window: the clock was not reset.
async fn recovers(fake: &FakeUpstream, server: &Headpond) {
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    server.clock.advance(PAUSE);
    let answer = server.get(TAG).await;
    assert_eq!((answer.digest(), answer.header("warning")), (moved.digest, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_upstream_does_not_stop_what_is_cached() {
    let (fake, server, image) = with_stale_image("", "").await;
    fake.stop().await;
    serves_all_of(&server, &image, "unavailable").await;
    let asked = server.metric(r#"headpond_upstream_requests_total{code="0",method="HEAD",rule="up"}"#);
    assert!((1..=4).contains(&asked), "{asked}");
    fake.restart();
    recovers(&fake, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_that_refuses_is_asked_once_until_the_pause_is_over() {
    for (status, reason) in [(401, "denied"), (403, "denied"), (418, "invalid")] {
        let (fake, server, image) = with_stale_image("", "").await;
        fake.on(On::Manifests).always(Fault::Status(status));
        serves_all_of(&server, &image, reason).await;
        assert_eq!(fake.journal().len(), 1, "{status}");
        server.clock.advance(PAUSE);
        assert!(is_stale(&server.get(TAG).await));
        assert_eq!(fake.journal().len(), 2, "{status}");
        fake.clear_faults();
        recovers(&fake, &server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upstream_is_asked_seldom() {
    let (fake, server, image) = with_stale_image("", "").await;
    fake.on(On::Manifests).always(Fault::Status(503));
    serves_all_of(&server, &image, "unavailable").await;
    // One at once, and one for each second that the machine took.
    assert!((1..=4).contains(&fake.journal().len()), "{:?}", fake.journal());
    fake.clear_faults();
    recovers(&fake, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_of_a_throttled_upstream_is_waited_for() {
    let (fake, server, image) = with_stale_image("", "").await;
    fake.put_image("library/y", "1", &[]);
    fake.on(On::Any).always(Fault::StatusRetryAfter(429, "120".to_owned()));
    serves_all_of(&server, &image, "too_many_requests").await;
    server.clock.advance(Duration::from_secs(100));
    assert!(is_stale(&server.get(TAG).await));
    let other = server.get("/v2/up/library/y/manifests/1").await;
    assert_eq!((other.status, other.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"));
    assert!((1..=20).contains(&other.header("retry-after").parse::<u64>().unwrap()), "{other:?}");
    assert_eq!(fake.journal().len(), 1);
    fake.clear_faults();
    recovers(&fake, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_upstream_is_waited_for_by_one_client_only() {
    let (fake, server, image) = with_stale_image("", "limits: {revalidate_wait: 1s, head_timeout: 15s}").await;
    fake.put_image("library/x", "2", &[]);
    fake.on(On::Any).always(Fault::HangHead);
    // If each of these waited, the only HEAD would run into its timeout meanwhile.
    for _ in 0..20 {
        let answer = server.get(TAG).await;
        assert_eq!(answer.digest(), image.digest);
        assert!(is_stale(&answer));
    }
    let heads: Vec<u16> = fake.journal().iter().map(|exchange| exchange.status).collect();
    assert_eq!(heads, [0], "one HEAD, and it still hangs");
    fake.clear_faults();
    while is_stale(&server.get(TAG).await) {}
    assert_eq!(fake.manifest_heads(), 1, "the check that was slow went on, and confirmed the tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_of_an_upstream_that_failed_before_is_waited_for_by_nobody_else() {
    let (fake, server, image) = with_stale_image("", "limits: {revalidate_wait: 1h, head_timeout: 1h, manifest_timeout: 1h}").await;
    fake.on(On::ManifestHead).once(Fault::Status(503));
    assert!(is_stale(&server.get(TAG).await));
    server.clock.advance(PAUSE);
    fake.on(On::ManifestHead).once(Fault::HangHead);
    let address = server.url(TAG);
    let first = tokio::spawn(server.client.get(address).send());
    fake.wait_until_requests("HEAD", "/manifests/1", 2).await;
    for _ in 0..5 {
        let second = server.get(TAG).await;
        assert_eq!(second.digest(), image.digest);
        assert!(is_stale(&second) && !first.is_finished());
    }
    fake.release();
    let first = Answer::read(first.await.unwrap().unwrap()).await;
    assert_eq!((first.digest(), first.header("warning")), (image.digest, ""));
    assert_eq!(fake.manifest_heads(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_tag_keeps_no_client_of_another_tag_waiting() {
    let fake = FakeUpstream::start().await;
    let server = Headpond::with(&fake, "", "limits: {revalidate_wait: 1s, head_timeout: 15s}").await;
    let tags: Vec<String> = (0..20).map(|n| format!("/v2/up/library/x/manifests/t{n}")).collect();
    for (n, path) in tags.iter().enumerate() {
        fake.put_image("library/x", &format!("t{n}"), &[]);
        server.get(path).await;
    }
    server.clock.advance(DAY);
    fake.clear_journal();
    fake.on(On::Any).always(Fault::HangHead);
    for path in &tags {
        assert!(is_stale(&server.get(path).await));
    }
    let heads: Vec<u16> = fake.journal().iter().map(|exchange| exchange.status).collect();
    assert_eq!(heads, [0], "one HEAD in all, and it still hangs");
    fake.clear_faults();
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_tag_whose_manifest_does_not_come_leaves_the_old_one() {
    let (fake, server, image) = with_stale_image("", "").await;
    let moved = fake.put_image("library/x", "1", &["new".into()]);
    fake.on(On::ManifestGet).always(Fault::FlipByte);
    let answer = server.get(TAG).await;
    assert_eq!(answer.digest(), image.digest);
    assert!(answer.header("warning").contains("(invalid)"), "{answer:?}");
    fake.clear_faults();
    server.clock.advance(PAUSE);
    assert_eq!(server.get(TAG).await.digest(), moved.digest);
}

fn validated_record(server: &Headpond) -> serde_json::Value {
    let file = server.directory.path().join("headpond-data/images/up/library/x/_validated/1");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_deleted_upstream_is_served_recorded_as_gone_and_comes_back() {
    let (fake, server, image) = with_stale_image("", "").await;
    fake.remove("library/x", "1");
    serves_all_of(&server, &image, "not_found").await;
    assert_eq!(fake.journal().len(), 1);
    let gone_since = validated_record(&server)["upstream_gone_since"].as_u64().unwrap();
    server.clock.advance(PAUSE);
    let directory = server.stop().await;
    let server = Headpond::in_directory(&fake, "", "", directory, World::default()).await;
    assert!(is_stale(&server.get(TAG).await));
    assert_eq!(validated_record(&server)["upstream_gone_since"].as_u64().unwrap(), gone_since, "the first time counts");
    fake.move_tag("library/x", "1", &image.digest);
    server.clock.advance(PAUSE);
    assert!(!is_stale(&server.get(TAG).await));
    assert_eq!(validated_record(&server)["upstream_gone_since"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_max_stale_a_tag_is_not_served_unless_upstream_confirms_it() {
    let rule = "freshness: {default: 24h, max_stale: 30d}";
    let (fake, server, image) = with_stale_image(rule, "").await;
    fake.remove("library/x", "1");
    assert!(is_stale(&server.get(TAG).await));
    server.clock.advance(30 * DAY);
    let gone = server.get(TAG).await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"));
    assert!(gone.message().contains("max_stale"), "{}", gone.message());
    assert_eq!(server.get(&format!("/v2/up/library/x/manifests/{}", image.digest)).await.digest(), image.digest, "a digest has no age");
    fake.move_tag("library/x", "1", &image.digest);
    server.clock.advance(PAUSE);
    assert!(!is_stale(&server.get(TAG).await));

    server.clock.advance(31 * DAY);
    fake.on(On::ManifestHead).always(Fault::StatusRetryAfter(429, "50".to_owned()));
    let throttled = server.get(TAG).await;
    assert_eq!((throttled.status, throttled.header("retry-after").is_empty()), (StatusCode::TOO_MANY_REQUESTS, false));
    fake.clear_faults();
    fake.stop().await;
    server.clock.advance(PAUSE);
    let down = server.get(TAG).await;
    assert_eq!((down.status, down.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert!(!down.header("retry-after").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn past_max_stale_a_client_waits_for_the_answer() {
    let (fake, server, image) = with_stale_image("freshness: {default: 24h, max_stale: 30d}", "limits: {revalidate_wait: 0s}").await;
    server.clock.advance(31 * DAY);
    let answer = server.get(TAG).await;
    assert_eq!((answer.digest(), answer.header("warning")), (image.digest, ""));
    assert_eq!(fake.manifest_heads(), 1);
}

//! Pull limits: what pulls cost of them, what is done when little is left, and when nothing is.

use std::time::Duration;

use futures::future::join_all;
use headpond::oci::MediaType;
use reqwest::StatusCode;

use crate::fake_upstream::{FakeUpstream, Fault, Image, On};
use crate::headpond::{Answer, Headpond};

const TAG: &str = "/v2/up/library/x/manifests/1";
const OTHER: &str = "/v2/up/library/y/manifests/1";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that has the tag `x:1`, whose window has just passed, of an upstream that has `y:1` too.
async fn with_stale_tag(rule: &str) -> (FakeUpstream, Headpond, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.put_image("library/x", "1", &["layer".into()]);
    fake.put_image("library/y", "1", &[]);
    let server = Headpond::with(&fake, rule, "limits: {revalidate_wait: 30s}").await;
    server.get(TAG).await;
    server.clock.advance(DAY);
    fake.clear_journal();
    (fake, server, image)
}

/// Has every answer about manifests tell so many pulls that are left, of 100 in six hours.
fn tell(fake: &FakeUpstream, remaining: u64) {
    fake.on(On::Manifests).always(Fault::Header("ratelimit-limit", "100;w=21600".to_owned()));
    fake.on(On::Manifests).always(Fault::Header("ratelimit-remaining", format!("{remaining};w=21600")));
    fake.on(On::Manifests).always(Fault::Header("docker-ratelimit-source", "192.0.2.1".to_owned()));
}

/// The gauges, limit and remaining; none where nothing is shown.
fn shown(server: &Headpond) -> [Option<String>; 2] {
    let text = String::from_utf8(server.running.metrics.expose().unwrap()).unwrap();
    ["limit", "remaining"].map(|what| {
        let name = format!(r#"headpond_upstream_quota_{what}{{rule="up"}} "#);
        text.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    })
}

fn stale_because(answer: &Answer, reason: &str) -> bool {
    answer.header("warning").contains(&format!("({reason})"))
}

fn is_refused(answer: &Answer) -> bool {
    let seconds: u64 = answer.header("retry-after").parse().unwrap_or(0);
    (answer.status, answer.code().as_str()) == (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS") && (1..=60).contains(&seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_pulls_by_tag_cost_one_head_when_its_window_has_passed_and_nothing_within() {
    let (fake, server, image) = with_stale_tag("").await;
    for heads in [1, 0] {
        for _ in 0..10 {
            let answers = join_all((0..100).map(|_| server.get(TAG))).await;
            assert!(answers.iter().all(|answer| answer.digest() == image.digest && answer.header("warning").is_empty()));
        }
        assert_eq!((fake.manifest_heads(), fake.manifest_gets(), fake.journal().len()), (heads, 0, heads));
        fake.clear_journal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_nodes_of_one_architecture_cost_one_get_for_each_manifest() {
    let fake = FakeUpstream::start().await;
    let [amd64, arm64] = ["amd64", "arm64"].map(|architecture| fake.put_image("library/x", architecture, &[architecture.into()]));
    let platforms = [("amd64", &amd64), ("arm64", &arm64)].map(|(architecture, image)| {
        serde_json::json!({
            "mediaType": MediaType::OCI_MANIFEST, "digest": image.digest, "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    });
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": platforms});
    let index = fake.put_manifest("library/x", "1", index.to_string(), MediaType::OCI_INDEX);
    let server = Headpond::before(&fake).await;
    let by_digest = |digest| format!("/v2/up/library/x/manifests/{digest}");
    let node = async || {
        assert_eq!(server.head(TAG).await.header("docker-content-digest"), index.to_string());
        assert_eq!(server.get(&by_digest(index)).await.digest(), index);
        assert_eq!(server.get(&by_digest(amd64.digest)).await.digest(), amd64.digest);
    };
    join_all((0..50).map(|_| node())).await;
    let gets = [index, amd64.digest, arm64.digest].map(|digest| fake.requests_matching("GET", &format!("/manifests/{digest}")));
    assert_eq!((gets, fake.manifest_gets(), fake.manifest_heads()), ([1, 1, 0], 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_without_a_limit_shows_none() {
    let (fake, server, _) = with_stale_tag("").await;
    assert_eq!(shown(&server), [None, None]);
    tell(&fake, 76);
    server.get(OTHER).await;
    assert_eq!(shown(&server), [Some("100".to_owned()), Some("76".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn used_up_quota_serves_what_is_cached_and_is_probed_once_a_minute() {
    let (fake, server, image) = with_stale_tag("").await;
    tell(&fake, 0);
    fake.on(On::Manifests).always(Fault::Status(429));
    for minute in 1..=5 {
        for _ in 0..10 {
            let cached = server.get(TAG).await;
            assert_eq!(cached.digest(), image.digest);
            assert!(stale_because(&cached, "too_many_requests"), "{cached:?}");
            let uncached = server.get(OTHER).await;
            assert!(is_refused(&uncached), "{uncached:?}");
        }
        assert_eq!(fake.journal().len(), minute);
        server.clock.advance(MINUTE);
    }
    assert_eq!(shown(&server), [Some("100".to_owned()), Some("0".to_owned())]);
    assert_eq!(server.metric(r#"headpond_upstream_circuit_state{rule="up"}"#), 2);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.digest(), image.layers[0], "blobs are not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_that_is_answered_frees_gets_only_once_pulls_are_left() {
    let (fake, server, image) = with_stale_tag("freshness: {default: 10s}").await;
    tell(&fake, 0);
    fake.on(On::ManifestGet).always(Fault::Status(429));
    assert!(is_refused(&server.get(OTHER).await));
    server.clock.advance(MINUTE);
    let confirmed = server.get(TAG).await;
    assert_eq!((confirmed.digest(), confirmed.header("warning")), (image.digest, ""));
    assert!(is_refused(&server.get(OTHER).await));
    assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 1));

    fake.clear_faults();
    tell(&fake, 3);
    server.clock.advance(MINUTE);
    assert_eq!(server.get(TAG).await.digest(), image.digest);
    assert_eq!(server.get(OTHER).await.status, StatusCode::OK);
    assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_blobs_do_not_hold_manifests_off() {
    let (fake, server, image) = with_stale_tag("").await;
    fake.on(On::BlobGet).always(Fault::Status(429));
    let blob = server.get(&Headpond::blob(&image.layers[0])).await;
    assert_eq!(blob.status, StatusCode::TOO_MANY_REQUESTS, "{blob:?}");
    assert_eq!(server.get(OTHER).await.status, StatusCode::OK);
    assert_eq!(server.get(TAG).await.header("warning"), "");
}

/// For how long manifests and blobs are held off: one of these numbers of seconds, less what has passed since it was said.
fn held_for(server: &Headpond) -> [Option<u64>; 2] {
    let now = server.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    ["manifests", "blobs"].map(|requests| {
        let name = format!(r#"headpond_upstream_held_until_timestamp_seconds{{requests="{requests}",rule="up"}}"#);
        Some(server.metric(&name)).filter(|until| *until > 0).map(|until| {
            let left = until.saturating_sub(now);
            [90, 480, 600].into_iter().find(|said| (*said - 5..=*said).contains(&left)).unwrap_or(left)
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn until_when_a_429_holds_is_shown_for_what_it_was_said_of() {
    let (fake, server, image) = with_stale_tag("").await;
    assert_eq!(held_for(&server), [None, None]);
    fake.on(On::BlobGet).once(Fault::StatusRetryAfter(429, "90".to_owned()));
    server.get(&Headpond::blob(&image.layers[0])).await;
    assert_eq!(held_for(&server), [None, Some(90)]);
    fake.on(On::Manifests).once(Fault::StatusRetryAfter(429, "600".to_owned()));
    assert!(!server.get(OTHER).await.status.is_success());
    assert_eq!(held_for(&server), [Some(600), Some(90)]);
    server.clock.advance(MINUTE * 2);
    assert_eq!(server.get(&Headpond::blob(&image.layers[0])).await.status, StatusCode::OK);
    assert_eq!(held_for(&server), [Some(480), None]);
    assert!(!String::from_utf8(server.running.metrics.expose().unwrap()).unwrap().contains("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_floor_tags_are_not_confirmed_and_what_is_missing_is_fetched() {
    let (fake, server, image) = with_stale_tag("quota_floor: 20\nfreshness: {default: 10s}").await;
    tell(&fake, 20);
    assert_eq!(server.get(OTHER).await.status, StatusCode::OK);
    fake.clear_journal();
    for _ in 0..5 {
        let cached = server.get(TAG).await;
        assert_eq!(cached.digest(), image.digest);
        assert!(stale_because(&cached, "quota"), "{cached:?}");
    }
    assert_eq!(fake.journal(), []);
    assert_eq!(server.metric(r#"headpond_stale_served_total{reason="quota",rule="up"}"#), 5);

    fake.put_image("library/z", "1", &[]);
    assert_eq!(server.get("/v2/up/library/z/manifests/1").await.status, StatusCode::OK);
    assert_eq!(fake.manifest_gets(), 1);

    // What is left is looked up once a minute, by a HEAD that confirms its tag.
    server.clock.advance(MINUTE);
    fake.clear_journal();
    assert_eq!(server.get(TAG).await.header("warning"), "");
    assert!(stale_because(&server.get(OTHER).await, "quota"));
    assert_eq!((fake.manifest_heads(), fake.journal().len()), (1, 1));

    // One that has moved stays as it is cached: its manifest would be a pull.
    fake.put_image("library/x", "1", &["new".into()]);
    server.clock.advance(MINUTE);
    fake.clear_journal();
    let cached = server.get(TAG).await;
    assert_eq!((cached.digest(), stale_because(&cached, "quota")), (image.digest, true));
    assert_eq!((fake.manifest_heads(), fake.manifest_gets()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_floor_and_past_the_quotas_window_tags_are_confirmed() {
    let (fake, server, _) = with_stale_tag("quota_floor: 20\nfreshness: {default: 10s}").await;
    tell(&fake, 21);
    server.get(OTHER).await;
    assert_eq!(server.get(TAG).await.header("warning"), "");
    fake.clear_faults();
    tell(&fake, 0);
    server.clock.advance(MINUTE);
    server.get(TAG).await;
    assert!(stale_because(&server.get(OTHER).await, "quota"));
    fake.clear_faults();
    server.clock.advance(DAY / 4);
    for path in [TAG, OTHER] {
        assert_eq!(server.get(path).await.header("warning"), "", "what was told six hours ago counts no more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_past_max_stale_is_confirmed_under_the_floor_too() {
    let (fake, server, _) = with_stale_tag("quota_floor: 20\nfreshness: {default: 10s, max_stale: 1h}").await;
    tell(&fake, 1);
    server.get(OTHER).await;
    let answer = server.get(TAG).await;
    assert_eq!((answer.status, answer.header("warning")), (StatusCode::OK, ""));
}

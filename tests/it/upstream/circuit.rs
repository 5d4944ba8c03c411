//! The circuit, as requests meet it.

use std::time::Duration;

use headpond::oci::Digest;
use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{Allowances, Aws, CircuitState, Endpoint, Purpose, Unavailability, Upstream, UpstreamError, UpstreamSettings};

use super::{client, credential, drain, name, reference, settings, stores};
use crate::fake_upstream::{FakeUpstream, Fault, On, pseudo_random};

const SECOND: Duration = Duration::from_secs(1);

async fn with_image() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_image("x", "1", &[]);
    fake
}

async fn head(client: &Upstream, purpose: Purpose) -> Result<Digest, UpstreamError> {
    client.head_manifest(&name("x"), &reference("1"), purpose).await.map(|head| head.digest)
}

fn is_held_off<T>(outcome: &Result<T, UpstreamError>) -> bool {
    matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::CircuitOpen, .. }))
}

#[tokio::test]
async fn after_a_failure_revalidations_wait_for_the_cooldown_and_fetches_do_not() {
    let fake = with_image().await;
    fake.on(On::Any).once(Fault::Status(503));
    let client = client(&fake);
    head(&client, Purpose::Revalidate).await.unwrap_err();
    assert_eq!(client.circuit_state(), CircuitState::Suspect);
    assert!(is_held_off(&head(&client, Purpose::Revalidate).await));
    assert_eq!(fake.journal().len(), 1);
    head(&client, Purpose::Fetch).await.unwrap();
    assert_eq!(client.circuit_state(), CircuitState::Well);
    head(&client, Purpose::Revalidate).await.unwrap();
}

#[tokio::test]
async fn a_stopped_upstream_is_left_alone_until_a_probe_finds_it_back() {
    let fake = with_image().await;
    let client = client(&fake);
    head(&client, Purpose::Fetch).await.unwrap();
    fake.stop().await;
    let refused = head(&client, Purpose::Fetch).await;
    assert!(matches!(refused, Err(UpstreamError::Unavailable { kind: Unavailability::Connect, .. })), "{refused:?}");
    assert_eq!(client.circuit_state(), CircuitState::Open);
    assert!(is_held_off(&head(&client, Purpose::Fetch).await));
    fake.restart();
    assert!(is_held_off(&head(&client, Purpose::Fetch).await));
    fake.clock().advance(SECOND);
    head(&client, Purpose::Revalidate).await.unwrap();
    assert_eq!(client.circuit_state(), CircuitState::Well);
}

#[tokio::test]
async fn after_the_cooldown_exactly_one_probe_goes_out() {
    let fake = with_image().await;
    fake.on(On::Any).once(Fault::Status(500));
    fake.on(On::Any).once(Fault::HangHead);
    let client = client(&fake);
    head(&client, Purpose::Revalidate).await.unwrap_err();
    fake.clock().advance(SECOND);
    let all = futures::future::join_all((0..20).map(|_| head(&client, Purpose::Revalidate)));
    let release = async {
        fake.wait_until_requests("HEAD", "/manifests/", 2).await;
        fake.release();
    };
    let (outcomes, ()) = tokio::join!(all, release);
    assert_eq!(outcomes.iter().filter(|outcome| is_held_off(outcome)).count(), 19);
    assert_eq!(fake.manifest_heads(), 2);
}

#[tokio::test]
async fn a_429_on_a_manifest_holds_manifests_off_for_its_retry_after_and_no_blobs() {
    let fake = with_image().await;
    fake.on(On::ManifestGet).once(Fault::StatusRetryAfter(429, "300".to_owned()));
    let client = client(&fake);
    client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap_err();
    fake.clock().advance(100 * SECOND);
    for purpose in [Purpose::Fetch, Purpose::Revalidate] {
        match head(&client, purpose).await {
            Err(UpstreamError::TooManyRequests { retry_after: Some(left), .. }) => {
                assert!((199..=200).contains(&left.as_secs()), "{left:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    let digest = fake.put_blob("content");
    assert_eq!(client.head_blob(&name("x"), &digest).await, Ok(Some(7)));
    fake.clock().advance(200 * SECOND);
    head(&client, Purpose::Fetch).await.unwrap();
    assert_eq!(client.circuit_state(), CircuitState::Well);
}

#[tokio::test]
async fn three_failures_in_a_row_hold_fetches_off() {
    let fake = with_image().await;
    fake.on(On::Any).always(Fault::Status(502));
    let client = client(&fake);
    for _ in 0..3 {
        head(&client, Purpose::Fetch).await.unwrap_err();
    }
    assert_eq!(client.circuit_state(), CircuitState::Open);
    assert!(is_held_off(&head(&client, Purpose::Fetch).await));
    assert_eq!(fake.manifest_heads(), 3);
}

#[tokio::test]
async fn refusals_missing_things_and_lies_are_answers() {
    let fake = with_image().await;
    let client = client(&fake);
    for fault in [Fault::Status(401), Fault::Status(403), Fault::Status(404), Fault::FlipByte, Fault::RedirectLoop] {
        fake.on(On::ManifestGet).once(fault);
        client.get_manifest(&name("x"), &reference("1"), Purpose::Fetch).await.unwrap_err();
        assert_eq!(client.circuit_state(), CircuitState::Well);
    }
}

#[tokio::test]
async fn a_slow_revalidation_holds_others_off_until_it_is_answered() {
    let fake = with_image().await;
    fake.on(On::ManifestHead).once(Fault::HangHead);
    let client = client(&fake);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { head(&client, Purpose::Revalidate).await }
    });
    fake.wait_until_requests("HEAD", "/manifests/", 1).await;
    client.mark_slow();
    assert_eq!(client.circuit_state(), CircuitState::Suspect);
    assert!(is_held_off(&head(&client, Purpose::Revalidate).await));
    fake.release();
    slow.await.unwrap().unwrap();
    assert_eq!(client.circuit_state(), CircuitState::Well);
}

#[tokio::test]
async fn a_probe_whose_caller_left_makes_room_for_the_next() {
    let fake = with_image().await;
    fake.on(On::Any).once(Fault::Status(500));
    fake.on(On::Any).once(Fault::HangHead);
    let client = client(&fake);
    head(&client, Purpose::Revalidate).await.unwrap_err();
    fake.clock().advance(SECOND);
    let probe = tokio::spawn({
        let client = client.clone();
        async move { head(&client, Purpose::Revalidate).await }
    });
    fake.wait_until_requests("HEAD", "/manifests/", 2).await;
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    head(&client, Purpose::Revalidate).await.unwrap();
}

#[tokio::test]
async fn what_becomes_of_a_blobs_body_says_nothing_of_the_upstream() {
    let fake = with_image().await;
    let digest = fake.put_blob(pseudo_random(1, 100_000));
    fake.on(On::BlobGet).always(Fault::CutBodyAt(50_000));
    let client = client(&fake);
    for _ in 0..4 {
        let mut stream = client.get_blob(&name("x"), &digest, None).await.unwrap();
        assert!(drain(&mut stream).await.1.is_some());
    }
    assert_eq!(client.circuit_state(), CircuitState::Well);
}

#[tokio::test]
async fn a_content_network_that_fails_says_nothing_of_the_upstream() {
    let fake = with_image().await;
    let digest = fake.put_blob("content");
    fake.redirect_blobs_to_cdn();
    fake.on(On::Blobs).always(Fault::Status(503));
    let client = client(&fake);
    for _ in 0..4 {
        let outcome = client.get_blob(&name("x"), &digest, None).await.map(drop);
        assert!(matches!(outcome, Err(UpstreamError::Unavailable { kind: Unavailability::Status(503), .. })), "{outcome:?}");
    }
    assert_eq!(client.circuit_state(), CircuitState::Well);
}

/// Endpoints of one process, each in a rule of its own.
fn rules<const COUNT: usize>(fake: &FakeUpstream, metrics: &Metrics, changes: [fn(&mut UpstreamSettings); COUNT]) -> [Upstream; COUNT] {
    let (stores, allowances, mut number) = (stores(fake, Aws::default(), metrics), Allowances::default(), 0);
    changes.map(|change| {
        let mut settings = settings(&fake.url());
        change(&mut settings);
        number += 1;
        let endpoint = Endpoint::new(settings, &stores, &allowances, fake.clock()).unwrap();
        Upstream::new(endpoint, metrics.for_rule(&format!("rule-{number}")))
    })
}

fn exposed(metrics: &Metrics) -> String {
    String::from_utf8(metrics.expose().unwrap()).unwrap()
}

#[tokio::test]
async fn a_429_holds_off_all_rules_of_one_asker_and_no_other() {
    let fake = with_image().await;
    let metrics = Metrics::new().unwrap();
    let [plain, of_realms, of_hosts, of_proxies, of_somebody] = rules(
        &fake,
        &metrics,
        [
            |_| {},
            |settings| settings.realms = vec!["login.example".to_owned()],
            |settings| settings.private_hosts = vec!["minio.internal".to_owned()],
            |settings| settings.proxies.no_proxy = Some("*".to_owned()),
            |settings| settings.credential = credential("user", "password"),
        ],
    );
    fake.on(On::Manifests).once(Fault::StatusRetryAfter(429, "600".to_owned()));
    let before = unix_seconds(&fake);
    head(&plain, Purpose::Fetch).await.unwrap_err();
    let after = unix_seconds(&fake);
    for held in [&of_realms, &of_hosts, &of_proxies, &plain] {
        let refused = head(held, Purpose::Fetch).await;
        assert!(matches!(refused, Err(UpstreamError::TooManyRequests { retry_after: Some(_), .. })), "{refused:?}");
    }
    assert_eq!(fake.journal().len(), 1);
    let shown = exposed(&metrics);
    for rule in 1..=4 {
        assert!(shown.contains(&format!("headpond_upstream_circuit_state{{rule=\"rule-{rule}\"}} 2\n")), "{rule}: {shown}");
        let name = format!("headpond_upstream_held_until_timestamp_seconds{{requests=\"manifests\",rule=\"rule-{rule}\"}} ");
        let until = shown.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        assert!((before + 600..=after + 600).contains(&until.parse().unwrap()), "{rule}: {until}");
    }
    head(&of_somebody, Purpose::Fetch).await.unwrap();

    fake.clock().advance(SECOND * 601);
    head(&of_hosts, Purpose::Fetch).await.unwrap();
    head(&plain, Purpose::Fetch).await.unwrap();
    let shown = exposed(&metrics);
    for rule in 1..=5 {
        for what in ["circuit_state{", "held_until_timestamp_seconds{requests=\"manifests\","] {
            let line = format!("headpond_upstream_{what}rule=\"rule-{rule}\"}} 0\n");
            assert!(shown.contains(&line), "{rule}: {shown}");
        }
    }
}

fn unix_seconds(fake: &FakeUpstream) -> u64 {
    fake.clock().now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_rule_that_cannot_connect_does_not_hold_off_another_of_the_same_asker() {
    let fake = FakeUpstream::start_tls().await;
    fake.put_image("x", "1", &[]);
    let metrics = Metrics::new().unwrap();
    let (stores, allowances) = (stores(&fake, Aws::default(), &metrics), Allowances::default());
    let [without, with] = [None, Some(fake.ca_pem())].map(|ca_pem| {
        let settings = UpstreamSettings { ca_pem, ..settings(&fake.url()) };
        Upstream::new(Endpoint::new(settings, &stores, &allowances, fake.clock()).unwrap(), metrics.for_rule("rule"))
    });
    assert_eq!(without.source(), with.source());
    for _ in 0..5 {
        head(&without, Purpose::Fetch).await.unwrap_err();
    }
    assert_eq!((without.circuit_state(), with.circuit_state()), (CircuitState::Open, CircuitState::Well));
    head(&with, Purpose::Revalidate).await.unwrap();
}

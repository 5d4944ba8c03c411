//! Challenges, tokens, credentials.

use std::time::Duration;

use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{Purpose, Unavailability, Upstream, UpstreamError};

use super::{client, client_and_metrics, client_with, credential, endpoint, lie, name, reference};
use crate::fake_upstream::{FakeUpstream, Fault, On};

async fn with_images() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    for repository in ["a", "b"] {
        fake.put_image(repository, "1", &[]);
    }
    fake
}

async fn head(client: &Upstream, repository: &str) -> Result<(), UpstreamError> {
    client.head_manifest(&name(repository), &reference("1"), Purpose::Fetch).await.map(drop)
}

#[tokio::test]
async fn an_anonymous_token_is_asked_for_once_for_each_repository() {
    let fake = with_images().await;
    fake.require_bearer();
    let client = client(&fake);
    for repository in ["a", "a", "b", "a"] {
        head(&client, repository).await.unwrap();
    }
    assert_eq!(fake.token_requests(), 2);
    let token = fake.journal().into_iter().find(|exchange| exchange.path == "/token").unwrap();
    assert_eq!(token.query, "service=fake&scope=repository%3Aa%3Apull");
    assert_eq!(token.authorization, None);
}

#[tokio::test]
async fn a_remembered_challenge_saves_the_401_of_other_repositories() {
    let fake = with_images().await;
    fake.require_bearer();
    let client = client(&fake);
    head(&client, "a").await.unwrap();
    fake.clear_journal();
    head(&client, "b").await.unwrap();
    let statuses: Vec<u16> = fake.journal().iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [200, 200]);
}

#[tokio::test]
async fn fifty_concurrent_needs_are_one_token_request() {
    let fake = with_images().await;
    fake.require_bearer();
    fake.on(On::Token).always(Fault::HangHead);
    let client = client(&fake);
    let all = (0..50).map(|_| head(&client, "a"));
    let together = futures::future::join_all(all);
    let release = async {
        fake.wait_until_requests("HEAD", "/manifests/", 50).await;
        fake.release();
    };
    let (outcomes, ()) = tokio::join!(together, release);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(fake.token_requests(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_end_the_token_request_of_others() {
    let fake = with_images().await;
    fake.require_bearer();
    fake.on(On::Token).always(Fault::HangHead);
    let client = client(&fake);
    let leaving = tokio::spawn({
        let client = client.clone();
        async move { head(&client, "a").await }
    });
    fake.wait_until_requests("GET", "/token", 1).await;
    let staying = head(&client, "a");
    let release = async {
        // The one that stays was polled first and waits for the same token.
        leaving.abort();
        assert!(leaving.await.unwrap_err().is_cancelled());
        fake.release();
    };
    let (outcome, ()) = tokio::join!(staying, release);
    outcome.unwrap();
    assert_eq!(fake.token_requests(), 1);
}

#[tokio::test]
async fn a_rejected_token_is_refreshed_exactly_once() {
    let fake = with_images().await;
    fake.require_bearer();
    let client = client(&fake);
    head(&client, "a").await.unwrap();
    fake.revoke_tokens();
    let all = (0..20).map(|_| head(&client, "a"));
    assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(fake.token_requests(), 2);
    fake.on(On::Manifests).always(Fault::Status(401));
    let outcome = head(&client, "a").await;
    assert!(matches!(outcome, Err(UpstreamError::Denied { status: 401, .. })), "{outcome:?}");
    assert_eq!(fake.token_requests(), 3);
}

#[tokio::test]
async fn tokens_of_one_second_are_renewed_before_they_end() {
    let fake = with_images().await;
    fake.require_bearer();
    fake.token_lifetime(Duration::from_secs(1));
    let client = client(&fake);
    head(&client, "a").await.unwrap();
    fake.clear_journal();
    for _ in 0..5 {
        fake.clock().advance(Duration::from_millis(850));
        head(&client, "a").await.unwrap();
    }
    assert!(fake.journal().iter().all(|exchange| exchange.status == 200));
    assert_eq!(fake.token_requests(), 5);
}

#[tokio::test]
async fn a_challenge_that_holds_no_longer_is_forgotten() {
    let fake = with_images().await;
    fake.require_bearer();
    let client = client(&fake);
    head(&client, "a").await.unwrap();
    fake.require_nothing();
    fake.on(On::Token).always(Fault::Status(404));
    fake.clock().advance(Duration::from_secs(300));
    let outcome = head(&client, "a").await;
    assert!(matches!(outcome, Err(UpstreamError::Denied { status: 404, .. })), "{outcome:?}");
    head(&client, "a").await.unwrap();
}

#[tokio::test]
async fn rules_on_one_endpoint_share_its_tokens() {
    let fake = with_images().await;
    fake.require_bearer();
    let (endpoint, metrics) = (endpoint(&fake), Metrics::new().unwrap());
    for rule in ["one", "two"] {
        head(&Upstream::new(endpoint.clone(), metrics.for_rule(rule)), "a").await.unwrap();
    }
    assert_eq!(fake.token_requests(), 1);
}

#[tokio::test]
async fn credentials_get_a_token_and_go_to_the_realm_only() {
    let fake = with_images().await;
    fake.require_bearer_of("user", "password");
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    head(&client, "a").await.unwrap();
    for exchange in fake.journal() {
        let is_basic = exchange.authorization.is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(is_basic, exchange.path == "/token", "{}", exchange.path);
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_counted() {
    let fake = with_images().await;
    fake.require_bearer_of("user", "password");
    let (client, metrics) = client_and_metrics(&fake, |settings| settings.credential = credential("user", "wrong"));
    let error = head(&client, "a").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { status: 401, .. }), "{error}");
    assert!(error.to_string().contains("/token") && !error.to_string().contains("Basic"), "{error}");
    let text = String::from_utf8(metrics.expose().unwrap()).unwrap();
    assert!(text.contains(r#"headpond_upstream_token_requests_total{outcome="refused",rule="fake"} 1"#), "{text}");
}

#[tokio::test]
async fn basic_is_sent_where_it_is_asked_for_and_then_at_once() {
    let fake = with_images().await;
    fake.require_basic("user", "password");
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    head(&client, "a").await.unwrap();
    head(&client, "b").await.unwrap();
    let statuses: Vec<u16> = fake.journal().iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [401, 200, 200]);
}

#[tokio::test]
async fn basic_without_credentials_is_denied_in_words() {
    let fake = with_images().await;
    fake.require_basic("user", "password");
    let error = head(&client(&fake), "a").await.unwrap_err().to_string();
    assert!(error.contains("the rule has no credentials"), "{error}");
    let wrong = client_with(&fake, |settings| settings.credential = credential("user", "wrong"));
    assert!(matches!(head(&wrong, "a").await, Err(UpstreamError::Denied { status: 401, .. })));
}

#[tokio::test]
async fn bearer_is_preferred_to_basic_over_several_lines() {
    let fake = with_images().await;
    fake.require_bearer_of("user", "password");
    fake.challenges(&["Basic realm=\"x\"", "Negotiate, Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\""]);
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    head(&client, "a").await.unwrap();
    assert_eq!(fake.token_requests(), 1);
}

#[tokio::test]
async fn a_query_of_the_realm_is_kept() {
    let fake = with_images().await;
    fake.require_bearer();
    fake.realm(&format!("{}/token?account=x", fake.url()));
    head(&client(&fake), "a").await.unwrap();
    assert!(fake.journal().iter().any(|exchange| exchange.query.starts_with("account=x&service=")));
}

#[tokio::test]
async fn a_realm_elsewhere_is_a_lie_and_not_asked() {
    let fake = with_images().await;
    fake.require_bearer_of("user", "password");
    fake.realm("http://elsewhere.invalid/token");
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    let message = lie(head(&client, "a").await);
    assert!(message.contains("add elsewhere.invalid to the rule's `realms`"), "{message}");
}

#[tokio::test]
async fn a_realm_elsewhere_is_asked_where_the_rule_lists_it() {
    let fake = with_images().await;
    fake.require_bearer();
    let port = fake.host().rsplit_once(':').unwrap().1.to_owned();
    fake.realm(&format!("http://localhost:{port}/token"));
    lie(head(&client(&fake), "a").await);
    let client = client_with(&fake, |settings| settings.realms = vec![format!("localhost:{port}")]);
    head(&client, "a").await.unwrap();
}

#[tokio::test]
async fn garbage_from_the_realm_is_a_lie() {
    let fake = with_images().await;
    fake.require_bearer();
    for garbage in ["{\"tok", "<html>", "{}", r#"{"token":7}"#, "", &" ".repeat(100_000)] {
        fake.on(On::Token).once(Fault::Instead(garbage.as_bytes().to_vec()));
        let message = lie(head(&client(&fake), "a").await);
        assert!(message.contains("/token"), "{message}");
    }
}

#[tokio::test]
async fn a_realm_that_redirects_is_a_lie() {
    let fake = with_images().await;
    fake.require_bearer_of("user", "password");
    fake.on(On::Token).once(Fault::RedirectTo(format!("{}/other", fake.url())));
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    lie(head(&client, "a").await);
}

#[tokio::test]
async fn failures_of_the_realm_are_the_upstreams() {
    let fake = with_images().await;
    fake.require_bearer();
    fake.on(On::Token).once(Fault::StatusRetryAfter(429, "7".to_owned()));
    let error = head(&client(&fake), "a").await.unwrap_err();
    assert!(matches!(error, UpstreamError::TooManyRequests { retry_after: Some(after), .. } if after.as_secs() == 7), "{error}");
    fake.on(On::Token).once(Fault::Status(503));
    let error = head(&client(&fake), "a").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { kind: Unavailability::Status(503), .. }), "{error}");
    fake.on(On::Token).once(Fault::HangHead);
    let client = client_with(&fake, |settings| settings.limits.head_timeout = Duration::from_millis(200));
    let error = head(&client, "a").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { kind: Unavailability::Timeout, .. }), "{error}");
    head(&client, "a").await.unwrap();
}

#[tokio::test]
async fn nothing_is_sent_to_an_upstream_that_asks_for_nothing() {
    let fake = with_images().await;
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    head(&client, "a").await.unwrap();
    assert!(client.has_credential());
    assert_eq!(fake.journal()[0].authorization, None);
}

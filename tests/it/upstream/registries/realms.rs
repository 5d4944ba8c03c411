//! No upstream gets what belongs to another.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headpond::upstream::{Purpose, UpstreamError};

use super::{client_with, credential, name, pull, reference, registry_of};
use crate::fake_upstream::FakeUpstream;

/// Whether any request held this name and password.
fn has_seen(fake: &FakeUpstream, pair: &str) -> bool {
    let basic = format!("Basic {}", BASE64_STANDARD.encode(pair));
    fake.journal().iter().any(|exchange| exchange.authorization.as_ref() == Some(&basic))
}

#[tokio::test]
async fn realm_of_one_upstream_cannot_obtain_the_credential_of_another() {
    let (good, image) = registry_of("a").await;
    let (bad, _) = registry_of("a").await;
    good.require_bearer_of("good", "password");
    bad.require_bearer_of("bad", "password");
    let good_client = client_with(&good, |settings| settings.credential = credential("good", "password"));
    let bad_client = || client_with(&bad, |settings| settings.credential = credential("bad", "password"));
    pull(&good_client, "a", &image).await;
    let asked = good.journal().len();

    // It names the other's token service as its own, under a name that is not its own.
    let port = good.host().rsplit_once(':').unwrap().1.to_owned();
    bad.realm(&format!("http://localhost:{port}/token"));
    let outcome = bad_client().get_manifest(&name("a"), &reference("1"), Purpose::Fetch).await;
    assert!(matches!(outcome, Err(UpstreamError::Lied { .. })), "{outcome:?}");
    assert_eq!(good.journal().len(), asked, "not even asked");

    // Its realm is its own: it gets its own credential and never the other's.
    bad.realm(&format!("{}/token", bad.url()));
    bad_client().get_manifest(&name("a"), &reference("1"), Purpose::Fetch).await.unwrap();
    pull(&good_client, "a", &image).await;
    assert_eq!((has_seen(&good, "good:password"), has_seen(&good, "bad:password")), (true, false));
    assert_eq!((has_seen(&bad, "bad:password"), has_seen(&bad, "good:password")), (true, false));
}

#[tokio::test]
async fn token_of_one_upstream_is_not_shown_to_another_of_the_same_realm() {
    let (first, image) = registry_of("a").await;
    first.require_bearer();
    let (second, _) = registry_of("a").await;
    second.require_bearer();
    second.realm(&format!("{}/token", first.url()));
    pull(&client_with(&first, |_| {}), "a", &image).await;
    let tokens: Vec<_> = first.journal().into_iter().filter_map(|exchange| exchange.authorization).collect();
    assert!(!tokens.is_empty());
    let outcome = client_with(&second, |_| {}).get_manifest(&name("a"), &reference("1"), Purpose::Fetch).await;
    assert!(matches!(outcome, Err(UpstreamError::Denied { .. })), "{outcome:?}");
    let shown: Vec<_> = second.journal().into_iter().filter_map(|exchange| exchange.authorization).collect();
    assert!(!shown.is_empty() && shown.iter().all(|token| !tokens.contains(token)), "{shown:?}");
}

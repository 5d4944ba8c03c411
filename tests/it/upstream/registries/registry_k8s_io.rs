use headpond::upstream::{Purpose, UpstreamError};

use super::{client, client_with, credential, name, pull, reference, registry_of};
use crate::fake_upstream::{FakeUpstream, Fault, Image, On};

/// The registry, and the regional one that it sends everything to.
async fn registry_and_region() -> (FakeUpstream, FakeUpstream, Image) {
    let (region, image) = registry_of("k8s-artifacts-prod/images/pause").await;
    let fake = FakeUpstream::start().await;
    for (kind, reference) in [("manifests", "1"), ("manifests", &image.digest.to_string()), ("blobs", &image.layers[0].to_string())] {
        let target = format!("{}/v2/k8s-artifacts-prod/images/pause/{kind}/{reference}", region.url());
        fake.on(On::Any).of(&format!("/v2/pause/{kind}/{reference}")).always(Fault::RedirectTo(target));
    }
    (fake, region, image)
}

#[tokio::test]
async fn registry_k8s_io_redirects_manifests_and_tags_to_another_host() {
    let (fake, region, image) = registry_and_region().await;
    pull(&client(&fake), "pause", &image).await;
    assert_eq!((fake.journal().len(), region.journal().len()), (3, 3));
}

#[tokio::test]
async fn registry_k8s_io_target_that_asks_for_a_token_gets_an_anonymous_one() {
    let (fake, region, image) = registry_and_region().await;
    region.require_bearer();
    let client = client_with(&fake, |settings| settings.credential = credential("user", "password"));
    pull(&client, "pause", &image).await;
    let journal = region.journal();
    let tokens: Vec<_> = journal.iter().filter(|exchange| exchange.path == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].authorization, None, "the credentials are the first host's");
    assert!(tokens[0].query.ends_with("scope=repository%3Ak8s-artifacts-prod%2Fimages%2Fpause%3Apull"), "{}", tokens[0].query);
    assert!(fake.journal().iter().all(|exchange| exchange.authorization.is_none()));
}

#[tokio::test]
async fn registry_k8s_io_target_may_name_no_realm_but_its_own() {
    let (fake, region, _) = registry_and_region().await;
    let elsewhere = FakeUpstream::start().await;
    let port = elsewhere.host().rsplit_once(':').unwrap().1.to_owned();
    region.require_bearer();
    region.realm(&format!("http://localhost:{port}/token"));
    let outcome = client(&fake).get_manifest(&name("pause"), &reference("1"), Purpose::Fetch).await;
    assert!(matches!(outcome, Err(UpstreamError::Lied { .. })), "{outcome:?}");
    assert_eq!(elsewhere.journal(), []);
}

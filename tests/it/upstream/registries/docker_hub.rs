use std::time::Duration;

use headpond::upstream::{Purpose, UpstreamError};

use super::{client, name, nothing_went_to_the_cdn_but_requests, pull, reference, registry_of};
use crate::fake_upstream::{Fault, On};

#[tokio::test]
async fn docker_hub_cdn_that_refuses_authorization_gets_none() {
    let (fake, image) = registry_of("library/nginx").await;
    fake.require_bearer();
    fake.redirect_blobs_to_cdn();
    pull(&client(&fake), "library/nginx", &image).await;
    nothing_went_to_the_cdn_but_requests(&fake);
    let token = fake.journal().into_iter().find(|exchange| exchange.path == "/token").unwrap();
    assert!(token.query.ends_with("scope=repository%3Alibrary%2Fnginx%3Apull"), "{}", token.query);
}

#[tokio::test]
async fn docker_hub_tells_its_quota_with_manifests() {
    let (fake, image) = registry_of("library/nginx").await;
    for (header, value) in
        [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600"), ("docker-ratelimit-source", "192.0.2.1")]
    {
        fake.on(On::ManifestHead).always(Fault::Header(header, value.to_owned()));
    }
    let client = client(&fake);
    assert_eq!(client.quota(), None);
    pull(&client, "library/nginx", &image).await;
    let quota = client.quota().unwrap();
    assert_eq!((quota.limit, quota.remaining, quota.window), (Some(100), 76, Duration::from_secs(21_600)));
    assert_eq!(quota.source.as_deref(), Some("192.0.2.1"));
}

#[tokio::test]
async fn docker_hub_says_429_as_json_and_as_text() {
    for (body, said) in [
        (
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading"}]}"#,
            "TOOMANYREQUESTS: You have reached your pull rate limit",
        ),
        ("Too Many Requests (HAP429).\n", "answered 429"),
    ] {
        let (fake, _) = registry_of("library/nginx").await;
        fake.on(On::Manifests).always(Fault::StatusBody(429, body));
        fake.on(On::Manifests).always(Fault::Header("x-retry-after", "40".to_owned()));
        let outcome = client(&fake).get_manifest(&name("library/nginx"), &reference("1"), Purpose::Fetch).await;
        let Err(UpstreamError::TooManyRequests { retry_after: Some(after), detail }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(after, Duration::from_secs(40));
        assert!(detail.contains(said), "{detail}");
    }
}

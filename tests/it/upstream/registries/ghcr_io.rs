use reqwest::StatusCode;

use super::registry_of;
use crate::fake_upstream::{Fault, On};
use crate::headpond::Headpond;

const UNKNOWN: &str = "/v2/up/o/unknown/manifests/1";

/// Asked twice by clients: 404 both times, and these requests upstream in all.
async fn is_not_found_after(server: &Headpond, fake: &crate::fake_upstream::FakeUpstream, expected: &[(&str, u16)]) {
    for _ in 0..2 {
        let answer = server.get(UNKNOWN).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"), "{answer:?}");
        assert!(answer.message().contains("private upstream, or not there"), "{}", answer.message());
    }
    let journal = fake.journal();
    let asked: Vec<_> = journal.iter().map(|exchange| (exchange.path.rsplit('/').next().unwrap(), exchange.status)).collect();
    assert_eq!(asked, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn ghcr_io_refuses_a_token_for_the_unknown_unproven() {
    let (fake, _) = registry_of("o/known").await;
    fake.require_bearer();
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    fake.on(On::Token).always(Fault::StatusBody(403, denied));
    let server = Headpond::before(&fake).await;
    is_not_found_after(&server, &fake, &[("1", 401), ("token", 403)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ghcr_io_refuses_the_unknown_with_a_token_too_unproven() {
    for (status, expected) in [(401, &[("1", 401), ("token", 200), ("1", 401)][..]), (403, &[("1", 401), ("token", 200), ("1", 403)][..])] {
        let (fake, _) = registry_of("o/known").await;
        fake.require_bearer();
        fake.challenges(&[r#"Bearer realm="{realm}",service="ghcr.io",scope="{scope}""#]);
        let server = Headpond::before(&fake).await;
        // The first request has no token and is answered by the challenge; the fault is for the second.
        fake.on(On::ManifestGet).once(Fault::Header("x-first", "1".to_owned()));
        fake.on(On::ManifestGet).times(9, Fault::Status(status));
        is_not_found_after(&server, &fake, expected).await;
    }
}

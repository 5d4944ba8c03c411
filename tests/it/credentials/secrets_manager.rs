//! Secrets of AWS Secrets Manager.

use std::time::Duration;

use futures::future::join_all;
use headpond::app::World;
use reqwest::StatusCode;

use super::{ARN, Log, before, fakes, pulls, refused, secret, tag, tells_no_more_than_that};
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::headpond::Headpond;

const READ: &str = r#"headpond_credential_reads_total{outcome="read",source="secrets_manager"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_once_for_all_who_need_it() {
    let (fake, aws) = fakes().await;
    fake.require_basic("user", "token");
    aws.put_secret(ARN, &secret("user", "token"));
    aws.hold();
    fake.on(On::Manifests).always(Fault::HangHead);
    let server = before(&fake, &aws, ARN).await;
    assert_eq!(aws.asked("GetSecretValue").len(), 0);
    let pull = |number: usize| {
        let server = &server;
        async move { server.get(&tag(number)).await.status }
    };
    let together = join_all((0..50).map(|number| pull(number % 9 + 1)));
    let release = async {
        // None knows yet that credentials are wanted; then all do at once.
        fake.wait_until_requests("GET", "/manifests/", 9).await;
        fake.release();
        aws.wait_until_asked("GetSecretValue", 1).await;
        aws.release();
    };
    let (statuses, ()) = tokio::join!(together, release);
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    let asked = aws.asked("GetSecretValue");
    assert_eq!((asked.len(), asked[0].region.as_str()), (1, "eu-west-1"));
    assert_eq!(server.metric(READ), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_used_by_the_next_pull_with_one_refusal() {
    for bearer in [false, true] {
        let (fake, aws) = fakes().await;
        let require = |token: &str| if bearer { fake.require_bearer_of("user", token) } else { fake.require_basic("user", token) };
        require("old");
        aws.put_secret(ARN, &secret("user", "old"));
        let server = before(&fake, &aws, ARN).await;
        pulls(&server, 1).await;
        aws.put_secret(ARN, &secret("user", "new"));
        require("new");
        fake.revoke_tokens();
        fake.clear_journal();
        pulls(&server, 2).await;
        // With tokens, the one at hand is refused first, then the realm refuses the old password.
        assert_eq!(refused(&fake), if bearer { 2 } else { 1 }, "{:#?}", fake.journal());
        pulls(&server, 3).await;
        assert_eq!((refused(&fake), aws.asked("GetSecretValue").len()), (if bearer { 2 } else { 1 }, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_refused_for_good_is_not_read_at_every_request() {
    let (fake, aws) = fakes().await;
    fake.require_basic("user", "right");
    aws.put_secret(ARN, &secret("user", "wrong"));
    let server = before(&fake, &aws, ARN).await;
    for number in 1..10 {
        let answer = server.get(&tag(number)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "DENIED".to_owned()));
    }
    assert_eq!(aws.asked("GetSecretValue").len(), 2);
    // Of the first pull: without credentials, and with them. Then one for each.
    assert_eq!(refused(&fake), 10);
    fake.clock().advance(Duration::from_secs(11));
    aws.put_secret(ARN, &secret("user", "right"));
    fake.put_image("library/y", "1", &[]);
    assert_eq!(server.get("/v2/up/library/y/manifests/1").await.status, StatusCode::OK);
    assert_eq!(aws.asked("GetSecretValue").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_again_after_five_minutes_behind_a_pull() {
    let (fake, aws) = fakes().await;
    fake.require_basic("user", "old");
    aws.put_secret(ARN, &secret("user", "old"));
    let server = before(&fake, &aws, ARN).await;
    pulls(&server, 1).await;
    aws.put_secret(ARN, &secret("user", "new"));
    fake.clock().advance(Duration::from_secs(4 * 60));
    pulls(&server, 2).await;
    assert_eq!(aws.asked("GetSecretValue").len(), 1);
    fake.clock().advance(Duration::from_secs(2 * 60));
    aws.hold();
    pulls(&server, 3).await;
    aws.release();
    server.wait_for_metric(READ, 2).await;
    fake.require_basic("user", "new");
    fake.clear_journal();
    pulls(&server, 4).await;
    assert_eq!(refused(&fake), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_hand_is_used_while_secrets_manager_is_down() {
    let (fake, aws) = fakes().await;
    fake.require_basic("user", "token");
    aws.put_secret(ARN, &secret("user", "token"));
    let server = before(&fake, &aws, ARN).await;
    pulls(&server, 1).await;
    aws.fail(Some((500, "InternalServiceError", "planned by the test")));
    for number in 2..5 {
        fake.clock().advance(Duration::from_secs(6 * 60));
        pulls(&server, number).await;
        let failed = r#"headpond_credential_reads_total{outcome="unreachable",source="secrets_manager"}"#;
        server.wait_for_metric(failed, number as u64 - 1).await;
    }
    assert_eq!(refused(&fake), 1);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_logged_once_with_a_hint_and_asked_for_again_after_a_pause() {
    for (code, hint) in [
        ("AccessDeniedException", "allow secretsmanager:GetSecretValue on"),
        ("ResourceNotFoundException", "check account, region and name"),
        ("InvalidRequestException", "scheduled for deletion"),
        ("DecryptionFailure", "kms:Decrypt"),
    ] {
        let (log, _guard) = Log::begin();
        let (fake, aws) = fakes().await;
        fake.require_basic("user", "token");
        aws.put_secret(ARN, &secret("user", "token"));
        aws.fail(Some((400, code, "planned by the test")));
        let server = before(&fake, &aws, ARN).await;
        for number in 1..4 {
            tells_no_more_than_that(&server.get(&tag(number)).await);
        }
        let warnings = log.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(hint) && warnings[0].contains(code), "{warnings:?}");
        assert_eq!(aws.asked("GetSecretValue").len(), 1);
        aws.fail(None);
        fake.clock().advance(Duration::from_secs(11));
        pulls(&server, 4).await;
    }
}

#[tokio::test]
async fn a_secret_of_another_form_is_logged_without_it() {
    let (log, _guard) = Log::begin();
    let (fake, aws) = fakes().await;
    fake.require_basic("user", "token");
    aws.put_secret(ARN, r#"{"username":"user","password":"hunter2"}"#);
    let server = before(&fake, &aws, ARN).await;
    tells_no_more_than_that(&server.get(&tag(1)).await);
    assert!(log.warnings()[0].contains("has no text under `accessToken`"), "{}", log.text());
    assert!(!log.text().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_stays_when_the_secret_names_another_user() {
    let (fake, aws) = fakes().await;
    fake.require_basic("old", "token");
    aws.put_secret(ARN, &secret("old", "token"));
    let server = before(&fake, &aws, ARN).await;
    pulls(&server, 1).await;
    aws.put_secret(ARN, &secret("new", "other"));
    fake.require_basic("new", "other");
    pulls(&server, 2).await;
    fake.clear_journal();
    pulls(&server, 1).await;
    assert_eq!(fake.journal().len(), 0);
    let (upstream, directory) = (fake.url(), server.stop().await);
    let world = World { aws: aws.client(), ..World::default() };
    let text = crate::headpond::configuration(&upstream, &format!("credentials: {ARN}\nanonymous: true"), "");
    let server = Headpond::of(&fake, &text, directory, world).await;
    pulls(&server, 1).await;
    assert_eq!(fake.journal().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_with_a_secret_refuses_anonymous_pulls_and_does_not_read_it() {
    let (fake, aws) = fakes().await;
    let world = World { aws: aws.client(), ..World::default() };
    let server = Headpond::in_directory(&fake, &format!("credentials: {ARN}"), "", tempfile::tempdir().unwrap(), world).await;
    let answer = server.get(&tag(1)).await;
    assert!([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status), "{answer:?}");
    assert!(answer.message().contains("`anonymous: true`"), "{}", answer.message());
    assert_eq!((fake.journal().len(), aws.asked("GetSecretValue").len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_realm_of_another_upstream_gets_no_secret() {
    let (fake, aws) = fakes().await;
    let other = FakeUpstream::start().await;
    other.require_bearer();
    aws.put_secret(ARN, &secret("user", "token"));
    fake.require_bearer_of("user", "token");
    let port = other.host().rsplit_once(':').unwrap().1.to_owned();
    fake.realm(&format!("http://localhost:{port}/token"));
    let server = before(&fake, &aws, ARN).await;
    let answer = server.get(&tag(1)).await;
    assert!(answer.message().contains("which is another host"), "{}", answer.message());
    assert_eq!((other.journal().len(), aws.asked("GetSecretValue").len()), (0, 0));
}

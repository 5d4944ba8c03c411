//! Authorization tokens of ECR.

use std::sync::Arc;
use std::time::Duration;

use headpond::oci::{Reference, RepositoryName};
use headpond::telemetry::metrics::Metrics;
use headpond::upstream::{Allowances, CredentialSource, CredentialStores, EcrTokens, Endpoint, Purpose, Upstream, UpstreamError};
use reqwest::StatusCode;

use super::{Log, before, fakes, pulls, refused, tag, tells_no_more_than_that};
use crate::fake_aws::ACCESS_KEY;
use crate::fake_upstream::{FakeUpstream, Fault, On};
use crate::upstream::{settings, stores};

const ECR: &str = "{ecr: {region: eu-west-1}}";
const READ: &str = r#"headpond_credential_reads_total{outcome="read",source="ecr"}"#;
const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_its_end_behind_a_pull() {
    let (fake, aws) = fakes().await;
    fake.require_basic("AWS", "token-1");
    let server = before(&fake, &aws, ECR).await;
    pulls(&server, 1).await;
    fake.clock().advance(9 * HOUR);
    pulls(&server, 2).await;
    assert_eq!(aws.asked("GetAuthorizationToken").len(), 1);
    // 80 % of twelve hours are over.
    fake.clock().advance(HOUR);
    aws.hold();
    pulls(&server, 3).await;
    aws.release();
    server.wait_for_metric(READ, 2).await;
    fake.clock().advance(3 * HOUR);
    fake.require_basic("AWS", "token-2");
    pulls(&server, 4).await;
    assert_eq!((refused(&fake), aws.asked("GetAuthorizationToken").len()), (1, 2));
}

#[tokio::test]
async fn a_token_that_has_ended_is_not_sent() {
    let (log, _guard) = Log::begin();
    let (fake, aws) = fakes().await;
    aws.token_lifetime(HOUR);
    fake.require_basic("AWS", "token-1");
    let server = before(&fake, &aws, ECR).await;
    pulls(&server, 1).await;
    fake.clock().advance(2 * HOUR);
    fake.require_basic("AWS", "token-2");
    pulls(&server, 2).await;
    assert_eq!(refused(&fake), 1);
    aws.fail(Some((400, "AccessDeniedException", "planned by the test")));
    fake.clock().advance(2 * HOUR);
    fake.clear_journal();
    let answer = server.get(&tag(3)).await;
    tells_no_more_than_that(&answer);
    assert!(log.warnings()[0].contains("allow ecr:GetAuthorizationToken"), "{}", log.text());
    assert_eq!(fake.journal().len(), 0);
    // What is cached is served without credentials, too.
    pulls(&server, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ecr_calls_over_is_replaced_at_once() {
    let (fake, aws) = fakes().await;
    fake.require_basic("AWS", "token-1");
    let server = before(&fake, &aws, ECR).await;
    pulls(&server, 1).await;
    fake.require_basic("AWS", "token-2");
    fake.on(On::Manifests).once(Fault::Status(403));
    pulls(&server, 2).await;
    // What no token opens does not ask for one each time.
    fake.on(On::Manifests).always(Fault::Status(403));
    for number in 3..9 {
        assert_eq!(server.get(&tag(number)).await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(aws.asked("GetAuthorizationToken").len(), 2);
}

/// ECR says to whom it refuses what.
#[tokio::test]
async fn whom_a_registry_refuses_is_logged_and_not_told() {
    const WORDS: &str = "User: arn:aws:sts::222222222222:assumed-role/pull/headpond is not authorized";
    const BODY: &str =
        r#"{"errors":[{"code":"DENIED","message":"User: arn:aws:sts::222222222222:assumed-role/pull/headpond is not authorized"}]}"#;
    let (log, _guard) = Log::begin();
    let (fake, aws) = fakes().await;
    fake.require_basic("AWS", "token-1");
    let server = before(&fake, &aws, ECR).await;
    fake.on(On::ManifestGet).always(Fault::StatusBody(403, BODY));
    for _ in 0..2 {
        let answer = server.get(&tag(1)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "DENIED"));
        let message = answer.message();
        assert!(
            message.starts_with("The authentication to the upstream registry failed.") && !message.contains("222222222222"),
            "{message}"
        );
    }
    let text = log.text();
    assert!(text.lines().any(|line| line.contains(" WARN ") && line.contains(WORDS)), "{text}");
}

fn endpoint(fake: &FakeUpstream, stores: &CredentialStores, account: &str, region: &str, role: Option<&str>) -> Arc<Endpoint> {
    let mut settings = settings(&fake.url());
    let tokens = EcrTokens { account: Some(account.to_owned()), region: region.to_owned(), role: role.map(str::to_owned) };
    settings.credential = Some(CredentialSource::Ecr(tokens));
    Endpoint::new(settings, stores, &Allowances::default(), fake.clock()).unwrap()
}

async fn head(endpoint: &Arc<Endpoint>, metrics: &Metrics) -> Result<(), UpstreamError> {
    let upstream = Upstream::new(Arc::clone(endpoint), metrics.for_rule("ecr"));
    let (name, reference) = (RepositoryName::parse("library/x").unwrap(), Reference::parse("1").unwrap());
    upstream.head_manifest(&name, &reference, Purpose::Fetch).await.map(drop)
}

#[tokio::test]
async fn tokens_are_shared_by_account_region_and_role() {
    const ROLE: &str = "arn:aws:iam::222222222222:role/pull";
    let (fake, aws) = fakes().await;
    let metrics = Metrics::new().unwrap();
    let stores = stores(&fake, aws.client(), &metrics);
    let all = [
        endpoint(&fake, &stores, "111111111111", "eu-west-1", None),
        endpoint(&fake, &stores, "111111111111", "eu-west-1", None),
        endpoint(&fake, &stores, "111111111111", "eu-central-1", None),
        endpoint(&fake, &stores, "222222222222", "eu-west-1", None),
        endpoint(&fake, &stores, "222222222222", "eu-west-1", Some(ROLE)),
    ];
    for (endpoint, number) in all.iter().zip([1, 1, 2, 3, 4]) {
        fake.require_basic("AWS", &format!("token-{number}"));
        head(endpoint, &metrics).await.unwrap();
    }
    let asked: Vec<_> = aws.asked("GetAuthorizationToken").into_iter().map(|asked| (asked.region, asked.access_key)).collect();
    let by = |region: &str, key: &str| (region.to_owned(), key.to_owned());
    assert_eq!(asked, [by("eu-west-1", ACCESS_KEY), by("eu-central-1", ACCESS_KEY), by("eu-west-1", ACCESS_KEY), by("eu-west-1", "pull")]);
    let assumed = aws.asked("AssumeRole");
    assert_eq!((assumed.len(), assumed[0].access_key.as_str()), (1, ACCESS_KEY));
    assert!(assumed[0].body.contains("RoleSessionName=headpond"), "{}", assumed[0].body);
    let sources: std::collections::BTreeSet<_> = all.iter().map(|endpoint| endpoint.source()).collect();
    assert_eq!(sources.len(), 3, "the region is no part of who asks");
}
